# SPDX-License-Identifier: GPL-2.0-only
"""A command of a shell session with its output, and what its text shows of its purpose."""

import re
from dataclasses import dataclass

from harness.report import programs, shell_syntax


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a session.

    ``output`` is what the report shows below it, ``numbers`` the line numbers of that, from 1.
    ``status`` is the exit status, if the report gives one; ``next_status`` the one that the
    next prompt shows. ``line`` is its own first line. ``directory`` is what its prompt names.
    ``interrupted``: the report shows ^C. ``output_known`` is false where the report shows no
    output at all, as below a script: an empty ``output`` then claims nothing. ``ended``: the next
    prompt appears below it. ``background``: the report continues in another terminal while it
    runs. ``unrecognised`` are the numbers of lines below it that may be another command
    and its output. ``note`` is the remark that the reporter wrote behind it.
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
        """The last line of its output, else its own."""
        return max(self.numbers, default=self.line)

    @property
    def own_lines(self) -> tuple[int, ...]:
        """The lines of the command and its output."""
        return (self.line, *self.numbers)


# Programs that describe the machine that they run on: the guest is another machine.
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
    """Whether the output describes the reporter's machine."""
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
    """Whether the command only shows state and changes none."""
    names = shell_syntax.programs(command)
    return bool(names) and all(name in _SHOW_STATE for name in names) and ">" not in command


def prints_log(command: str) -> bool:
    """Whether the command prints the kernel's log: its lines are output, not new messages."""
    return any(name in ("dmesg", "journalctl") for name in shell_syntax.programs(command))


def trailing_echo(command: str) -> str:
    """Return "&&" or "||" if the command ends with an echo on success or on failure, else ""."""
    found = list(_TRAILING_ECHO.finditer(command.strip()))
    return found[-1]["operator"] if found and found[-1].end() == len(command.strip()) else ""


def is_endless(command: str) -> bool:
    """Whether the command runs until it is interrupted, by design."""
    names = shell_syntax.programs(command)
    if not names or names[-1] not in _ENDLESS:
        return False
    if names[-1] in ("ping", "ping6"):
        return " -c" not in command
    return names[-1] in ("watch", "top", "htop") or _FOLLOWS.search(command) is not None


def only_switches_shell(command: str) -> bool:
    """Whether the command only enters or leaves a shell: the guest has one, of root."""
    return _SWITCHES_SHELL.fullmatch(command.strip()) is not None
