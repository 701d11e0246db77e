# SPDX-License-Identifier: GPL-2.0-only
"""The content-addressed cache: what is in it is whole and never changes.

An entry is built in a scratch directory, sealed with the keys of its files and
renamed into place, so a build that is killed leaves nothing that could be taken
for a result. The seal is checked whenever an entry is used: one that was torn or
tampered with is made again. Locks are flock(2): the kernel drops them with the
process that held them; whoever uses an entry holds it shared until it ends.
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

# Entries that this process uses: their directories' descriptors, with a shared lock.
_held: dict[Path, int] = {}


def digest(*parts: str | bytes) -> str:
    """A short key of the parts, in order; no two lists of parts share one."""
    state = hashlib.sha256()
    for part in parts:
        # File names may be any bytes.
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode() + data)
    return state.hexdigest()[:20]


def digest_files(root: Path) -> str:
    """A key of the names, contents and execute bits of all files below ``root``."""
    return digest_manifest(manifest.scan(root))


def digest_manifest(files: Manifest) -> str:
    return digest(*(part for item in sorted(files.items()) for part in item))


@contextlib.contextmanager
def locked(name: str, title: str, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock ``name``; when another process has it, says that it is making
    ``title`` and waits, or raises HostError where it is not to ``wait``."""
    path = directory("locks") / f"{name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise HostError(f"another run is making {title}", "try again later") from None
        with progress.phase("waiting", f"another run is making {title}; waiting for it"):
            lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        # filelock tries again when the file it locked has been unlinked.
        path.unlink(missing_ok=True)
        lock.release()


def entry(
    kind: str, key: str, title: str, make: Callable[[Path], None], *, lazily: bool = False
) -> Path:
    """The directory of the entry, made by ``make(scratch)`` when not yet there, and
    not removed by anybody before this process ends.

    ``title`` says what it is. All files are checked against the seal; with
    ``lazily`` only that they are there, and whoever reads one checks it against
    ``sealed``.
    """
    final = directory(kind) / key
    if _take(final, lazily=lazily):
        return final
    with locked(f"{kind}-{key}", title):
        if _take(final, lazily=lazily):
            return final
        if final.exists():
            progress.note(f"{title}: what the cache has is damaged; making it again")
            discard(final)
        with scratch() as parent:
            whole = parent / "entry"
            whole.mkdir()
            make(whole)
            _seal(whole, title)
            whole.rename(final)
        if not _take(final, lazily=lazily):
            raise HostError(f"{title}: {final} is not what was written", "check this host's disk")
    return final


def sealed(final: Path) -> Manifest:
    """The keys of the entry's files. Raises ValueError for a seal that is torn."""
    path = final / SEAL
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{path}: {error}") from error
    return _sealed(path, status.st_ino, status.st_mtime_ns)


# A kernel's source has 90000 files, and one build asks four times.
@functools.lru_cache(maxsize=4)
def _sealed(path: Path, _file: int, _changed: int) -> Manifest:
    try:
        record = json.loads(path.read_text())
        files: Manifest = record["files"]
        whole = record["digest"] == digest_manifest(files)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not whole:
        raise ValueError(f"{path} is torn")
    return files


def damage(final: Path) -> str:
    """What is wrong with an entry: the first file that is not as it was sealed, or ""."""
    try:
        files = sealed(final)
    except ValueError as error:
        return str(error)
    present = set(manifest.walk(final)) - {SEAL}
    for name in sorted(present ^ files.keys()):
        return f"{name} is missing" if name in files else f"{name} does not belong there"
    for name, key in files.items():
        if manifest.key(final / name) != key:
            return f"{name} has changed"
    return ""


def titled(kind: str, title: str) -> list[Path]:
    """The entries of a kind with that title."""
    found = []
    for seal in directory(kind).glob(f"*/{SEAL}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(seal.read_text())["title"] == title:
                found.append(seal.parent)
    return found


def discard(final: Path) -> None:
    """Removes an entry, at once for whoever looks it up."""
    descriptor = _held.pop(final, None)
    if descriptor is not None:
        os.close(descriptor)
    with scratch() as parent:
        final.rename(parent / "discarded")


def release(final: Path) -> None:
    """Removes an entry that this process will not use any more, unless another does."""
    mine = _held.pop(final, None)
    if mine is not None:
        os.close(mine)
    try:
        descriptor = os.open(final, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another may have removed it, and made it anew, before it was locked.
        if os.path.samestat(final.stat(), os.fstat(descriptor)):
            discard(final)
    except (BlockingIOError, FileNotFoundError):
        return
    finally:
        os.close(descriptor)


def _seal(whole: Path, title: str) -> None:
    files = manifest.scan(whole)
    record = {"title": title, "digest": digest_manifest(files), "files": files}
    (whole / SEAL).write_text(json.dumps(record))


def _take(final: Path, *, lazily: bool) -> bool:
    """Holds the entry for this process, if it is there and whole."""
    if final in _held:
        return True
    try:
        descriptor = os.open(final, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_whole(final, descriptor, lazily=lazily):
        os.close(descriptor)
        return False
    os.utime(descriptor)  # when it was last used
    _held[final] = descriptor
    return True


def _is_whole(final: Path, descriptor: int, *, lazily: bool) -> bool:
    try:
        if not os.path.samestat(final.stat(), os.fstat(descriptor)):
            return False  # removed before it was locked
        if lazily:
            return bool(sealed(final))
        return not damage(final)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private directory on the cache's file system, gone afterwards. Those of
    processes that were killed are removed here."""
    parent = directory("scratch")
    with locked("scratch", "room"):
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
            continue  # its owner has just removed it
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(each, ignore_errors=True)
        finally:
            os.close(holder)


# The kind whose entries are made again in seconds.
_EXPENDABLE = "snapshot"


def make_room(gigabytes: float, what: str) -> None:
    """Has the cache's file system have that much free, for which warm guests that nobody
    uses give way, the longest unused first. Raises HostError where that is not enough."""
    root = directory("")
    # Who finds no room while another is making some would throw out more than is needed.
    with locked("room", "room"):
        idle = _by_use(_EXPENDABLE)
        while (free := shutil.disk_usage(root).free / 1e9) < gigabytes:
            if (longest := next(idle, None)) is None:
                raise HostError(
                    f"no space: {what} needs {gigabytes:g} GB and {root} has {free:.1f} GB free",
                    "free some with `iommu-harness cache gc`,"
                    " or set IOMMU_HARNESS_CACHE to a larger disk",
                )
            release(longest)


def _by_use(kind: str) -> Iterator[Path]:
    """The entries of a kind that this process does not use, the longest unused first."""
    used: list[tuple[float, Path]] = []
    for path in directory(kind).iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            used.append((path.stat().st_mtime, path))
    yield from (path for _, path in sorted(used) if path not in _held)


def directory(name: str) -> Path:
    """A directory of the cache, made when it is not there."""
    path = paths.cache() / name
    path.mkdir(parents=True, exist_ok=True)
    return path
