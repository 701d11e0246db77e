# SPDX-License-Identifier: GPL-2.0-only
"""Manifests: the files of a directory, with a key of each file's content."""

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from harness.host import program

# Maps the relative path of each file to a key, which changes with the file's content, execute bit
# or link target.
Manifest = dict[str, str]

_MANY = 2000

# Files of this size or more hold the memory of guests, and are mostly holes. Their keys cover
# only blocks that are not zero.
_LARGE = 64 << 20
_BLOCK = 1 << 16
_ZEROES = bytes(_BLOCK)


def key(path: Path, mode: int | None = None) -> str:
    """The key of a file or a symbolic link. ``mode`` is its st_mode, if the caller has it."""
    mode = path.lstat().st_mode if mode is None else mode
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size >= _LARGE:
            content = _digest_of_blocks(file.fileno())
        else:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    return f"{content}{_mark(mode)}"


def _digest_of_blocks(descriptor: int) -> str:
    """Hash the content of a file. The digest does not depend on where the file has holes."""
    size = os.fstat(descriptor).st_size
    state = hashlib.sha256(f"{size}".encode())
    position = 0
    while (position := _next_data(descriptor, position)) < size:
        position -= position % _BLOCK
        block = os.pread(descriptor, _BLOCK, position)
        if block != _ZEROES[: len(block)]:
            state.update(f" {position} ".encode() + block)
        position += _BLOCK
    return state.hexdigest()[:24]


def _next_data(descriptor: int, position: int) -> int:
    """The position of the next data that is not a hole, or sys.maxsize if only a hole follows."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError:
        return sys.maxsize


def walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files and links below ``root``, relative to it. Sockets, pipes and
    devices are skipped."""
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


def scan(root: Path, names: Iterable[str] | None = None) -> Manifest:
    """Compute the keys of ``names``, or of all files below ``root``."""
    chosen = list(walk(root) if names is None else names)
    if len(chosen) > _MANY:
        return _scan_many(root, chosen)
    return {name: key(root / name) for name in chosen}


def _scan_many(root: Path, names: list[str]) -> Manifest:
    """Compute the same keys with sha256sum on all cores. For the 90000 files of a kernel's source,
    Python takes 10 s, most of it to open the files."""
    found = {name: os.lstat(f"{root}/{name}") for name in names}
    modes = {name: status.st_mode for name, status in found.items()}
    plain = [
        name
        for name, status in found.items()
        if stat.S_ISREG(status.st_mode) and status.st_size < _LARGE
    ]
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        sums = pool.map(partial(_sums, root), (plain[number::cores] for number in range(cores)))
        content = {name: text for part in sums for name, text in part.items()}
    return {
        name: f"{content[name][:24]}{_mark(modes[name])}" if name in content else key(root / name)
        for name in names
    }


def _sums(root: Path, names: list[str]) -> dict[str, str]:
    """Run sha256sum on the files, and return their digests by name."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(os.fsencode(name) + b"\0" for name in names))
        file.flush()
        command = ["xargs", "-0", "-r", "-n", "2000", "sha256sum", "-z", "--"]
        output = program.run(
            command,
            cwd=root,
            stdin=Path(file.name),
            stdout_only=True,
            errors="surrogateescape",
        )
    lines = (line.partition("  ") for line in output.split("\0") if line)
    return {name: content for content, _, name in lines}


def _mark(mode: int) -> str:
    return " x" if mode & stat.S_IXUSR else ""
