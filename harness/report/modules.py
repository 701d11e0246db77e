# SPDX-License-Identifier: GPL-2.0-only
"""Rows of lsmod and /proc/modules."""

import re
from dataclasses import dataclass

from harness.report import shell

_ROW = re.compile(r"(?P<name>\w+)\s+\d+\s+(?P<count>\d+)(?:\s+(?P<holders>\S.*?))?\s*")

_STATE = re.compile(r"\s+(Live|Loading|Unloading)\b")
_TAINTS = re.compile(r"\(([A-Z]+)[+-]?\)$")


@dataclass(frozen=True, slots=True)
class Row:
    """A module as lsmod shows it: its size depends on the build, and is left out. ``state``
    is in lower case, "" where it is not shown. A ``permanent`` one has no exit function.
    ``taints`` are the letters of /proc/modules."""

    name: str
    refcount: int
    holders: tuple[str, ...]
    state: str = ""
    permanent: bool = False
    taints: str = ""

    @property
    def anonymous(self) -> int:
        """References that no other module holds."""
        return self.refcount - len(self.holders)


def lists(command: str) -> bool:
    """Whether the command lists modules."""
    return "lsmod" in shell.programs(command) or "/proc/modules" in command


def lists_all(command: str) -> bool:
    """Whether the command lists all modules and nothing else."""
    return command.strip().removeprefix("sudo ") in ("lsmod", "cat /proc/modules")


def row(line: str) -> Row | None:
    """The row in a line, None for the header and for what is none."""
    match = _ROW.fullmatch(line.strip())
    if match is None:
        return None
    # /proc/modules has a state, an address and taints behind the holders.
    said = match["holders"] or ""
    state = _STATE.search(said)
    words = re.split(r"\s+\(", said[: state.start()] if state else said)[0]
    held = re.split(r"[\s,]+", words)
    holders = tuple(word for word in held if re.fullmatch(r"\w+", word))
    shown = state[1].lower() if state else ""
    taints = _TAINTS.search(said)
    return Row(
        match["name"],
        int(match["count"]),
        holders,
        shown,
        "[permanent]" in held,
        taints[1] if taints else "",
    )
