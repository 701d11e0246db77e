# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of splats that kernels print, from kinds.toml."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["fatal", "serious", "notice"]
Blame = Literal[
    "place",
    "trace",
    "lock",
    "order",
    "hang",
    "wait",
    "outermost",
    "recursion",
    "caller",
    "leak",
    "page",
    "locking",
    "work",
    "text",
    "none",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """An entry of kinds.toml, which describes the fields."""

    name: str
    opening: re.Pattern[str]
    severity: Severity
    title: str
    blame: Blame
    ends: bool
    alone: bool
    within: frozenset[str]
    again: bool


_PARTS = {
    "<FILE>": r"(?P<file>/?(?:[\w.+-]+/)*[\w.+-]+\.(?:[chS]|rs)):(?P<line>\d+)",
    "<FUNCTION>": r"(?P<function>[A-Za-z_$.][\w$.]*)",
    "<TASK>": r"(?P<comm>.{1,32}?):(?P<pid>\d+)",
    # A device as dev_err() and similar functions print it: its driver and name.
    "<DEVICE>": r"(?:[\w.,:@/-]{2,60}[ :] ?){1,3}",
}


def _kind(entry: dict[str, Any]) -> Kind:
    opening = entry["opening"]
    for name, pattern in _PARTS.items():
        opening = opening.replace(name, pattern)
    return Kind(
        entry["name"],
        re.compile(opening),
        entry.get("severity", "serious"),
        entry.get("title", entry["name"]),
        entry.get("blame", "place"),
        entry.get("ends", False),
        entry.get("alone", False),
        frozenset(entry.get("within", ())),
        entry.get("again", False),
    )


def _table() -> tuple[Kind, ...]:
    entries = tomllib.loads(Path(__file__).with_name("kinds.toml").read_text())
    return tuple(_kind(entry) for entry in entries["kind"])


KINDS: tuple[Kind, ...] = _table()
