# SPDX-License-Identifier: GPL-2.0-only
"""The standard output of commands: styled lines, or one JSON object."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.errors import HarnessError
from harness.host.text import printable

# A style of rich and the text of a line.
Line = tuple[str, str]


class _Output(Console):
    """A rich console that raises BrokenPipeError on a closed pipe. rich itself would exit with
    status 1, which means "not reproduced" here."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def show(lines: Iterable[Line]) -> None:
    """Print lines, styled if standard output is a terminal. Their text is not interpreted as
    markup."""
    console = _Output(highlight=False)
    for style, text in lines:
        console.print(Text(printable(text), style=style), soft_wrap=True)


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(to_json(record))


def to_json(record: Mapping[str, Any]) -> str:
    """The record as indented JSON."""
    return json.dumps(record, indent=1)


def jsonable(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its paths as text."""
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in record.items()
    }


def error_record(error: HarnessError) -> dict[str, Any]:
    """The error object of ``--json``: kind, message and hint, and detail if it has one."""
    facts = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    return facts | ({"detail": error.detail} if error.detail else {})


def size(count: int) -> str:
    """Format a number of bytes in the largest decimal unit that it reaches, for example "12 MB"."""
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
