# SPDX-License-Identifier: GPL-2.0-only
"""What commands print on standard output: lines for people, or one JSON object."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.errors import HarnessError
from harness.host.text import printable


class _Output(Console):
    """rich ends the program with 1, "not reproduced", when nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def say(lines: Iterable[tuple[str, str]]) -> None:
    """Lines with a style each, in colour on a terminal, never interpreted."""
    console = _Output(highlight=False)
    for style, text in lines:
        console.print(Text(printable(text), style=style), soft_wrap=True)


def print_json(record: Mapping[str, Any]) -> None:
    """One object, and nothing else."""
    print(text_of(record))


def text_of(record: Mapping[str, Any]) -> str:
    """The object as text."""
    return json.dumps(record, indent=1)


def jsonable(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its paths as text."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in record.items()
    }


def error_record(error: HarnessError) -> dict[str, Any]:
    """The error object of ``--json``: its kind, message and hint, and detail where there is one."""
    facts = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    return facts | ({"detail": error.detail} if error.detail else {})


def size(count: int) -> str:
    """Bytes, in the largest unit that leaves a number above one."""
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
