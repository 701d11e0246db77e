# SPDX-License-Identifier: GPL-2.0-only
"""The content-addressed cache. Its entries are complete and never change.

An entry is created in a scratch directory, sealed with the digests of its files and renamed into
place, so a build that is killed leaves no incomplete entry. The seal is checked at each use, and a
damaged entry is created again. Locks use flock(2); the kernel releases them when the process that
holds them dies. A process that uses an entry holds a shared lock on it until the process exits.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import HostError
from harness.host import manifest, paths, progress
from harness.host.manifest import Manifest

SEAL = "seal.json"

# A descriptor with a shared lock for each entry that this process uses, by directory.
_held: dict[Path, int] = {}


def digest(*parts: str | bytes) -> str:
    """Hash the parts, in their order, to a short key. Different lists of parts have different
    keys."""
    state = hashlib.sha256()
    for part in parts:
        # File names may be any bytes.
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode() + data)
    return state.hexdigest()[:20]


def digest_files(root: Path) -> str:
    """Hash the names, contents and execute bits of all files below ``root`` to a key."""
    return digest_manifest(manifest.scan(root))


def digest_manifest(files: Manifest) -> str:
    """Hash all names and keys of a manifest to one key."""
    return digest(*(part for item in sorted(files.items()) for part in item))


@contextlib.contextmanager
def locked(name: str, task: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``name`` while the block runs. ``task`` describes the work that it protects.

    If another process holds the lock, report that and wait, or, without ``wait``, raise HostError.
    """
    path = directory("locks") / f"{name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise HostError(f"another run is {task}", "try again later") from None
        with progress.phase("waiting", f"another run is {task}; waiting for it"):
            lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        # filelock retries when the file that it has locked was unlinked.
        path.unlink(missing_ok=True)
        lock.release()


def entry(
    kind: str, key: str, title: str, make: Callable[[Path], None], *, lazy: bool = False
) -> Path:
    """Return the directory of an entry. If it is missing or damaged, create it with
    ``make(directory)``. No process removes it before this process exits.

    ``title`` describes the entry to users. Every file is checked against the seal. With ``lazy``
    only the seal itself is checked, and the caller checks each file that it reads against
    ``read_seal``.
    """
    final = directory(kind) / key
    if _hold(final, lazy=lazy):
        return final
    with locked(f"{kind}-{key}", f"creating {title}"):
        if _hold(final, lazy=lazy):
            return final
        if final.exists():
            progress.note(f"{title}: the cache entry is damaged; creating it again")
            discard(final)
        with scratch() as parent:
            draft = parent / "entry"
            draft.mkdir()
            make(draft)
            _seal(draft, title)
            draft.rename(final)
        if not _hold(final, lazy=lazy):
            raise HostError(
                f"{title}: {final} differs from the data that was written", "check the disk"
            )
    return final


def read_seal(final: Path) -> Manifest:
    """Read the keys of an entry's files from its seal. Raises ValueError if the seal is missing or
    damaged."""
    path = final / SEAL
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return _read_seal(path, status.st_ino, status.st_mtime_ns)


# A kernel's source has 90000 files, and one build reads its seal four times.
@functools.lru_cache(maxsize=4)
def _read_seal(path: Path, _inode: int, _changed: int) -> Manifest:
    try:
        record = json.loads(path.read_text())
        files: Manifest = record["files"]
        intact = record["digest"] == digest_manifest(files)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a valid seal") from error
    if not intact:
        raise ValueError(f"{path} does not match its own digest")
    return files


def damage(final: Path) -> str:
    """Describe the first difference between an entry and its seal, "" if there is none."""
    try:
        files = read_seal(final)
    except ValueError as error:
        return str(error)
    present = set(manifest.walk(final)) - {SEAL}
    for name in sorted(present ^ files.keys()):
        return f"{name} is missing" if name in files else f"{name} is not in the seal"
    for name, key in files.items():
        if manifest.key(final / name) != key:
            return f"{name} has changed"
    return ""


def with_title(kind: str, title: str) -> list[Path]:
    """The directories of the entries of a kind with this title."""
    found = []
    for seal in directory(kind).glob(f"*/{SEAL}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(seal.read_text())["title"] == title:
                found.append(seal.parent)
    return found


def discard(final: Path) -> None:
    """Remove an entry. It disappears in a single rename."""
    descriptor = _held.pop(final, None)
    if descriptor is not None:
        os.close(descriptor)
    with scratch() as parent:
        final.rename(parent / "discarded")


def discard_unused(final: Path) -> None:
    """Remove an entry that this process no longer uses, unless another process uses it."""
    held = _held.pop(final, None)
    if held is not None:
        os.close(held)
    try:
        descriptor = os.open(final, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed the entry and created it again before the lock was
        # acquired.
        if os.path.samestat(final.stat(), os.fstat(descriptor)):
            discard(final)
    except (BlockingIOError, FileNotFoundError):
        return
    finally:
        os.close(descriptor)


def _seal(draft: Path, title: str) -> None:
    files = manifest.scan(draft)
    record = {"title": title, "digest": digest_manifest(files), "files": files}
    (draft / SEAL).write_text(json.dumps(record))


def _hold(final: Path, *, lazy: bool) -> bool:
    """Lock the entry until this process exits. Return False if it is missing or damaged."""
    if final in _held:
        return True
    try:
        descriptor = os.open(final, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_intact(final, descriptor, lazy=lazy):
        os.close(descriptor)
        return False
    os.utime(descriptor)  # the time of the last use
    _held[final] = descriptor
    return True


def _is_intact(final: Path, descriptor: int, *, lazy: bool) -> bool:
    try:
        if not os.path.samestat(final.stat(), os.fstat(descriptor)):
            return False  # removed before it was locked
        if lazy:
            return bool(read_seal(final))
        return not damage(final)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Create and yield a private directory on the cache's file system, and remove it when the
    block ends. Directories that killed processes left are removed, too."""
    parent = directory("scratch")
    with locked("scratch", "creating a scratch directory"):
        _remove_abandoned(parent)
        mine = Path(tempfile.mkdtemp(dir=parent))
        holder = os.open(mine, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        os.close(holder)


def _remove_abandoned(parent: Path) -> None:
    for each in parent.iterdir():
        try:
            holder = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # its process has just removed it
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(each, ignore_errors=True)
        finally:
            os.close(holder)


# The kind of entries that are removed to free space, because they can be created again in
# seconds.
_EXPENDABLE = "snapshot"


def ensure_space(gigabytes: float, purpose: str) -> None:
    """Ensure that the cache's file system has ``gigabytes`` of free space. If necessary, remove
    snapshots that no process uses, least recently used first. Raises HostError if that is not
    enough."""
    root = directory("")
    # Without the lock, two processes that free space at once would remove too much.
    with locked("room", "freeing disk space"):
        unused = _least_recently_used(_EXPENDABLE)
        while (free := shutil.disk_usage(root).free / 1e9) < gigabytes:
            if (oldest := next(unused, None)) is None:
                raise HostError(
                    f"no space: {purpose} requires {gigabytes:g} GB,"
                    f" but {root} has {free:.1f} GB free",
                    "run `iommu-harness cache gc`,"
                    " or set IOMMU_HARNESS_CACHE to a directory on a larger disk",
                )
            discard_unused(oldest)


def _least_recently_used(kind: str) -> Iterator[Path]:
    """Yield the entries of a kind that this process does not use, least recently used first."""
    used: list[tuple[float, Path]] = []
    for path in directory(kind).iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed in the meantime
            used.append((path.stat().st_mtime, path))
    yield from (path for _, path in sorted(used) if path not in _held)


def directory(name: str) -> Path:
    """Return a directory of the cache, and create it if it is missing."""
    path = paths.cache() / name
    path.mkdir(parents=True, exist_ok=True)
    return path
