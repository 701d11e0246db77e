# SPDX-License-Identifier: GPL-2.0-only
"""The content-addressed cache: what is in it is whole and never changes.

An entry is built in a scratch directory and renamed into place, so a build that
is killed leaves nothing that could be taken for a result. Locks are flock(2):
the kernel drops them with the process that held them.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import HostError
from harness.host import paths, progress


def digest(*parts: str | bytes) -> str:
    """A short key of the parts, in order; no two lists of parts share one."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode() + data)
    return state.hexdigest()[:20]


def digest_files(root: Path) -> str:
    """A key of the names, contents and execute bits of all files below ``root``."""
    parts: list[str | bytes] = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            parts += [str(path.relative_to(root)), path.read_bytes()]
            parts.append(str(os.access(path, os.X_OK)))
    return digest(*parts)


@contextlib.contextmanager
def locked(name: str, doing: str) -> Iterator[None]:
    """Holds the lock ``name``; when another process has it, says that it is
    ``doing`` so and waits."""
    path = _directory("locks") / f"{name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        with progress.phase("waiting", f"another run is {doing}; waiting for it"):
            lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        # filelock tries again when the file it locked has been unlinked.
        path.unlink(missing_ok=True)
        lock.release()


def entry(kind: str, key: str, doing: str, make: Callable[[Path], None]) -> Path:
    """The directory of the entry, made by ``make(scratch)`` when not yet there.

    ``doing`` tells others that wait for it what is being done.
    """
    final = _directory(kind) / key
    if final.is_dir():
        return final
    with locked(f"{kind}-{key}", doing):
        if final.is_dir():
            return final
        with scratch() as directory:
            whole = directory / "entry"
            whole.mkdir()
            make(whole)
            whole.rename(final)
    return final


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private directory on the cache's file system, gone afterwards. Those of
    processes that were killed are removed here."""
    parent = _directory("scratch")
    with locked("scratch", "clearing up"):
        _remove_abandoned(parent)
        directory = Path(tempfile.mkdtemp(dir=parent))
        holder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(holder)


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.iterdir():
        try:
            holder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # its owner has just removed it
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(holder)


def require_space(gigabytes: float, what: str) -> None:
    """Raises HostError when the cache's file system has less than that free."""
    root = _directory("")
    free = shutil.disk_usage(root).free / 1e9
    if free < gigabytes:
        raise HostError(
            f"no space: {what} needs {gigabytes:g} GB and {root} has {free:.1f} GB free",
            "free some, or set IOMMU_HARNESS_CACHE to a larger disk",
        )


def _directory(name: str) -> Path:
    directory = paths.cache() / name
    directory.mkdir(parents=True, exist_ok=True)
    return directory
