# SPDX-License-Identifier: GPL-2.0-only
"""The directory of one run: everything observed, written as it happens, so that
a run that is killed loses nothing that it had already seen.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import paths


def create(title: str, chosen: Path | None = None) -> Path:
    """A new directory: ``chosen``, or one named after the time and ``title``.

    Raises UsageError when ``chosen`` exists and is not empty.
    """
    check(chosen)
    if chosen is not None:
        try:
            chosen.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make {chosen}: {error.strerror}", "name another") from None
        return chosen.absolute()
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{word(title)}"
    for number in range(1000):
        directory = paths.runs() / (f"{stem}-{number}" if number else stem)
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        return directory
    raise UsageError(f"{paths.runs()} is full of runs called {stem}", "remove some")


def word(title: str) -> str:
    """The title as a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-.")[:60] or "run"


def check(chosen: Path | None) -> None:
    """Raises UsageError when ``chosen`` exists and is not empty."""
    if chosen and chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        raise UsageError(f"{chosen} is there already and not empty", "name a new directory")


class JsonLines:
    """A file with one JSON object a line, each written through at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def add(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()
