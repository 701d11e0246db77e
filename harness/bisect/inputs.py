# SPDX-License-Identifier: GPL-2.0-only
"""Copies of a request's input files: a search does not depend on later changes to them."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError


@dataclass(slots=True)
class Inputs:
    """Copies files and directories into numbered subdirectories of ``directory``."""

    directory: Path
    count: int = 0

    def copy(self, text: str) -> str:
        """Copy a file or directory, and return the path of the copy. Returns "" for "". Raises
        UsageError if it does not exist."""
        if not text:
            return ""
        source = Path(text).absolute()
        if not source.exists():
            raise UsageError(f"cannot read {source}: no such file or directory")
        self.count += 1
        target = self.directory / f"{self.count}" / source.name
        target.parent.mkdir()
        copy: Callable[[Path, Path], object] = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)
        return str(target)

    def copy_all(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.copy(each) for each in texts)
