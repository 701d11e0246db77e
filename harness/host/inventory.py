# SPDX-License-Identifier: GPL-2.0-only
"""List, verify and clean up the entries of the cache."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harness.host import cache, paths, progress

# The kinds of sealed, immutable entries.
_ENTRIES = (
    "kernel",
    "source",
    "initramfs",
    "init",
    "packages",
    "devicetree",
    "firmware",
    "snapshot",
    "symbols",
    "excerpt",
)
_WORK = "work"
KINDS = (*_ENTRIES, _WORK)


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of the cache. ``size`` is in bytes on disk, and ``used`` is the time of its last
    use, in seconds since 1970."""

    kind: str
    key: str
    title: str
    size: int
    used: float
    path: Path


def items() -> list[Item]:
    """List all entries that ``cache gc`` may remove, by kind, most recently used first."""
    found = []
    for kind in KINDS:
        for path in _below(kind):
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                found.append(_work(path) if kind == _WORK else _entry(kind, path))
    return sorted(found, key=lambda item: (item.kind, -item.used))


def damaged() -> Iterator[tuple[Item, str]]:
    """Check all sealed entries, and yield each damaged one with a description of the damage."""
    entries = [item for item in items() if item.kind != _WORK]
    with progress.phase("cache check", "checking the cache") as phase:
        phase.expect(len(entries))
        for item in entries:
            problem = cache.damage(item.path)
            phase.step()
            if problem:
                yield item, problem


def remove_unused(days: float) -> Iterator[Item]:
    """Remove entries that have not been used for ``days``, and yield each. Entries that a
    running process uses are kept."""
    latest = time.time() - days * 86400
    for item in items():
        if item.used > latest:
            continue
        removed = _discard_work(item) if item.kind == _WORK else _discard_entry(item)
        if removed:
            yield item


def _below(kind: str) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in (paths.cache() / kind).iterdir() if path.is_dir())
    return []


def _entry(kind: str, path: Path) -> Item:
    try:
        title = str(json.loads((path / cache.SEAL).read_text())["title"])
    except (OSError, ValueError, KeyError, TypeError):
        title = "damaged"
    return Item(kind, path.name, title, _size(path), path.stat().st_mtime, path)


def _work(path: Path) -> Item:
    return Item(_WORK, path.name, "work tree", _size(path), path.stat().st_mtime, path)


def _size(root: Path) -> int:
    blocks = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                blocks += os.lstat(f"{directory}/{name}").st_blocks
    return blocks * 512


def _discard_entry(item: Item) -> bool:
    """Remove an entry. Return False if another process uses it, or has replaced or removed it in
    the meantime."""
    try:
        descriptor = os.open(item.path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if status.st_mtime > item.used or not os.path.samestat(status, item.path.stat()):
            return False
        cache.discard(item.path)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True


def _discard_work(item: Item) -> bool:
    path = cache.directory("locks") / f"work-{item.key}.lock"
    try:
        with FileLock(path, blocking=False):
            shutil.rmtree(item.path)
            path.unlink(missing_ok=True)
    except (Timeout, FileNotFoundError):
        return False
    return True
