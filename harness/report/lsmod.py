# SPDX-License-Identifier: GPL-2.0-only
"""Parse rows of lsmod and /proc/modules."""

import re
from dataclasses import dataclass

from harness.report import shell_syntax

_ROW = re.compile(r"(?P<name>\w+)\s+\d+\s+(?P<count>\d+)(?:\s+(?P<holders>\S.*?))?\s*")
_STATE = re.compile(r"\s+(Live|Loading|Unloading)\b")
_TAINTS = re.compile(r"\(([A-Z]+)[+-]?\)$")


@dataclass(frozen=True, slots=True)
class Row:
    """A module as lsmod shows it, without its size, which depends on the build.

    ``refcount`` is the number of references to it, and ``holders`` are the modules that use it.
    ``state`` is in lower case, or "" if it is not shown. ``permanent``: the module has no exit
    function. ``taints`` are the letters that /proc/modules shows.
    """

    name: str
    refcount: int
    holders: tuple[str, ...]
    state: str = ""
    permanent: bool = False
    taints: str = ""

    @property
    def anonymous(self) -> int:
        """The number of references that are not held by a module."""
        return self.refcount - len(self.holders)


def lists_modules(command: str) -> bool:
    """Whether the command lists modules."""
    return "lsmod" in shell_syntax.programs(command) or "/proc/modules" in command


def lists_all_modules(command: str) -> bool:
    """Whether the command lists all modules and does nothing else."""
    return command.strip().removeprefix("sudo ") in ("lsmod", "cat /proc/modules")


def parse_row(line: str) -> Row | None:
    """Parse a row. Returns None for a line that is not a row, such as the header."""
    match = _ROW.fullmatch(line.strip())
    if match is None:
        return None
    # In /proc/modules a state, an address and taints follow the holders.
    rest = match["holders"] or ""
    state = _STATE.search(rest)
    words = re.split(r"[\s,]+", re.split(r"\s+\(", rest[: state.start()] if state else rest)[0])
    taints = _TAINTS.search(rest)
    return Row(
        match["name"],
        int(match["count"]),
        tuple(word for word in words if re.fullmatch(r"\w+", word)),
        state[1].lower() if state else "",
        "[permanent]" in words,
        taints[1] if taints else "",
    )
