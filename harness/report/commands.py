# SPDX-License-Identifier: GPL-2.0-only
"""A command of a shell session with its output, and what its text shows about its purpose."""

import re
from dataclasses import dataclass

from harness.report import programs, shell_syntax


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a session.

    ``output`` are the lines that the report shows below the command, and ``numbers`` are their
    line numbers, from 1. ``status`` is the exit status that the report shows below the command,
    and ``next_status`` is the exit status in the next prompt. ``line`` is the number of the
    command's first line. ``directory`` is the directory in its prompt. ``interrupted``: the report
    shows ^C. ``output_known`` is false if the report does not show the output, for example of a
    script: an empty ``output`` then claims nothing. ``ended``: the next prompt appears below the
    command. ``background``: the report continues in another terminal while the command runs.
    ``unrecognised`` are the numbers of lines below the output that may be another command and its
    output. ``note`` is the reporter's remark after the command.
    """

    text: str
    output: tuple[str, ...]
    status: int | None
    line: int
    numbers: tuple[int, ...] = ()
    directory: str = ""
    interrupted: bool = False
    output_known: bool = True
    ended: bool = False
    background: bool = False
    next_status: int | None = None
    unrecognised: tuple[int, ...] = ()
    note: str = ""

    @property
    def last_line(self) -> int:
        """The number of the last line of the output, or ``line`` if there is no output."""
        return max(self.numbers, default=self.line)

    @property
    def own_lines(self) -> tuple[int, ...]:
        """The line numbers of the command and its output."""
        return (self.line, *self.numbers)


# Programs that describe the machine that they run on. The guest is a different machine.
_DESCRIBE_MACHINE = programs.words("machine")
_MACHINE_FILES = re.compile(
    r"/proc/(?:version|cmdline|cpuinfo|meminfo|config\.gz|iomem|uptime|partitions|mounts)"
    r"|/etc/(?:\S*release|issue|debian_version|hostname|modprobe\S*|default/grub)"
    r"|/boot/\S+|/sys/devices/system/cpu\S*|/sys/class/dmi\S*|\.config\b"
    r"|/sys/firmware/devicetree/base/(?:model|compatible)|/proc/device-tree/(?:model|compatible)"
)
_READERS = programs.words("readers")
_FILTERS = programs.words("filters")
_SHOW_STATE = programs.words("showing")
_ENDLESS = programs.words("endless")

_FOLLOWS = re.compile(r"(?:^|\s)(?:-[a-zA-Z]*[fwW]\b|--follow|monitor)")
_TRAILING_ECHO = re.compile(r"(?P<operator>&&|\|\|)\s*(?:echo|printf)\s[^;|&>]*")
_SWITCHES_SHELL = re.compile(
    r"(?:sudo )?(?:su(?: -l?| root)*|bash|sh|zsh|-i|-s|tmux|screen|script|clear|exit|logout|reset)"
    r"|sudo (?:-[is]|bash|sh|su.*)"
)


def describes_machine(command: str) -> bool:
    """Whether the output of the command describes the reporter's machine."""
    names = shell_syntax.programs(command)
    if not names:
        return False
    if _MACHINE_FILES.search(command) and all(name in _READERS | _FILTERS for name in names):
        return True
    first, *others = names
    return first in _DESCRIBE_MACHINE and all(
        name in _DESCRIBE_MACHINE | _FILTERS for name in others
    )


def shows_state(command: str) -> bool:
    """Whether the command only shows state and does not change it."""
    names = shell_syntax.programs(command)
    return bool(names) and all(name in _SHOW_STATE for name in names) and ">" not in command


def prints_log(command: str) -> bool:
    """Whether the command prints the kernel log. Its lines are then output, not new messages."""
    return any(name in ("dmesg", "journalctl") for name in shell_syntax.programs(command))


def trailing_echo(command: str) -> str:
    """Return "&&" or "||" if the command ends with an echo on success or failure, "" otherwise."""
    found = list(_TRAILING_ECHO.finditer(command.strip()))
    return found[-1]["operator"] if found and found[-1].end() == len(command.strip()) else ""


def ends_machine(command: str) -> bool:
    """Whether init shuts the machine down (without -f). The output is that of the reporter's
    init."""
    names = shell_syntax.programs(command)
    ends = bool(names) and names[-1] in ("reboot", "poweroff", "halt", "shutdown")
    return ends and " -f" not in command


def is_endless(command: str) -> bool:
    """Whether the command is designed to run until it is interrupted."""
    names = shell_syntax.programs(command)
    if not names or names[-1] not in _ENDLESS:
        return False
    if names[-1] in ("ping", "ping6"):
        return " -c" not in command
    return names[-1] in ("watch", "top", "htop") or _FOLLOWS.search(command) is not None


def only_switches_shell(command: str) -> bool:
    """Whether the command only enters or leaves a shell (su, sudo -i, exit) or clears the
    terminal. It is not replayed, because the guest already runs a root shell."""
    return _SWITCHES_SHELL.fullmatch(command.strip()) is not None
