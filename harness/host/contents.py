# SPDX-License-Identifier: GPL-2.0-only
"""What is in a directory: a key of each file's content, by the file's path."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

# A file's path, relative, to a key that changes with its content, its execute
# bit or its link target.
Manifest = dict[str, str]


def key(path: Path, mode: int | None = None) -> str:
    """The key of a file or a symbolic link; ``mode`` is its st_mode, where known."""
    mode = path.lstat().st_mode if mode is None else mode
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    with path.open("rb", buffering=0) as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    return f"{content}{' x' if mode & stat.S_IXUSR else ''}"


def walk(root: Path) -> Iterator[str]:
    """The paths of all files and links below ``root``, relative to it; sockets, pipes
    and devices are no content."""
    waiting = [""]
    while waiting:
        base = waiting.pop()
        with os.scandir(root / base) as entries:
            for entry in entries:
                name = f"{base}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                    yield name


def manifest(root: Path, names: Iterable[str] | None = None) -> Manifest:
    """The keys of ``names``, or of all files below ``root``."""
    return {name: key(root / name) for name in (walk(root) if names is None else names)}
