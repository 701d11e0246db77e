# SPDX-License-Identifier: GPL-2.0-only
"""What of a report is about its reporter's machine and no claim about the kernel."""

import re

from harness.report import programs, shell

# Programs whose output says what somebody's machine is: a guest is another one.
_PROGRAMS = programs.words("machine")
_FILES = re.compile(
    r"/proc/(?:version|cmdline|cpuinfo|meminfo|config\.gz|iomem|uptime|partitions|mounts)"
    r"|/etc/(?:\S*release|issue|debian_version|hostname|modprobe\S*|default/grub)"
    r"|/boot/\S+|/sys/devices/system/cpu\S*|/sys/class/dmi\S*|\.config\b"
    r"|/sys/firmware/devicetree/base/(?:model|compatible)|/proc/device-tree/(?:model|compatible)"
)
_READERS = programs.words("readers")
# Behind a pipe these only choose lines of what was printed.
_FILTERS = programs.words("filters")

# A transfer in progress, and what only waits.
_ENDLESS = programs.words("endless")
_FOLLOWS = re.compile(r"(?:^|\s)(?:-[a-zA-Z]*[fwW]\b|--follow|monitor)")


def is_context(command: str) -> bool:
    """Whether the command's output describes the reporter's machine."""
    names = shell.programs(command)
    if not names:
        return False
    if _FILES.search(command) and all(name in _READERS | _FILTERS for name in names):
        return True
    return names[0] in _PROGRAMS and all(name in _PROGRAMS | _FILTERS for name in names[1:])


# Programs that only show what there is.
_SHOWING = programs.words("showing")


def shows_state(command: str) -> bool:
    """Whether all that the command does is to show something."""
    names = shell.programs(command)
    return bool(names) and all(name in _SHOWING for name in names) and ">" not in command


_ANNOUNCES = re.compile(r"(?P<sign>&&|\|\|)\s*(?:echo|printf)\s[^;|&>]*")


def announces(command: str) -> str:
    """ "&&" or "||" where the command ends with words that it prints when it succeeds, or
    fails; else ""."""
    found = list(_ANNOUNCES.finditer(command.strip()))
    return found[-1]["sign"] if found and found[-1].end() == len(command.strip()) else ""


def is_endless(command: str) -> bool:
    """Whether the command goes on until it is interrupted, by design."""
    names = shell.programs(command)
    if not names or names[-1] not in _ENDLESS:
        return False
    if names[-1] in ("ping", "ping6"):
        return " -c" not in command
    return names[-1] in ("watch", "top", "htop") or _FOLLOWS.search(command) is not None


_SHELL_ENTRY = re.compile(
    r"(?:sudo )?(?:su(?: -l?| root)*|bash|sh|zsh|-i|-s|tmux|screen|script|clear|exit|logout|reset)"
    r"|sudo (?:-[is]|bash|sh|su.*)"
)


def only_moves_shell(command: str) -> bool:
    """Whether the command does nothing but enter or leave a shell: a guest has one, root's."""
    return _SHELL_ENTRY.fullmatch(command.strip()) is not None
