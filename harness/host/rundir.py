# SPDX-License-Identifier: GPL-2.0-only
"""Run directories. Every observation is written at once, so a run that is killed keeps what it has
observed.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import paths


def create(title: str, chosen: Path | None = None) -> Path:
    """Create a run directory and return its path. It is ``chosen``, or named after the time and
    ``title``.

    Raises UsageError if ``chosen`` exists and is not empty, or cannot be created.
    """
    check(chosen)
    if chosen is not None:
        try:
            chosen.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot create {chosen}: {error.strerror}", "choose a different directory"
            ) from None
        return chosen.absolute()
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{file_name(title)}"
    for number in range(1000):
        directory = paths.runs() / (f"{stem}-{number}" if number else stem)
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        return directory
    raise UsageError(f"{paths.runs()} already has 1000 runs named {stem}", "remove some of them")


def file_name(title: str) -> str:
    """Convert a title to the name of a file."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-.")[:60] or "run"


def check(chosen: Path | None) -> None:
    """Raise UsageError if ``chosen`` exists and is not an empty directory."""
    if chosen and chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
        raise UsageError(f"{chosen} exists and is not empty", "choose a new directory")


class JsonLines:
    """A file with one JSON object per line. Each line is written at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def add(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()
