# SPDX-License-Identifier: GPL-2.0-only
"""What is in a directory: a key of each file's content, by the file's path."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from harness.host import program

# A file's path, relative, to a key that changes with its content, its execute
# bit or its link target.
Manifest = dict[str, str]

_MANY = 2000


def key(path: Path, mode: int | None = None) -> str:
    """The key of a file or a symbolic link; ``mode`` is its st_mode, where known."""
    mode = path.lstat().st_mode if mode is None else mode
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    with path.open("rb", buffering=0) as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    return f"{content}{_mark(mode)}"


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
    chosen = list(walk(root) if names is None else names)
    if len(chosen) > _MANY:
        return _of_many(root, chosen)
    return {name: key(root / name) for name in chosen}


def _of_many(root: Path, names: list[str]) -> Manifest:
    """The same keys by sha256sum on all cores: of the 90000 files of a kernel's source
    Python takes 10 s, most of them to open the files."""
    modes = {name: os.lstat(f"{root}/{name}").st_mode for name in names}
    plain = [name for name in names if stat.S_ISREG(modes[name])]
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        sums = pool.map(partial(_sums, root), (plain[number::cores] for number in range(cores)))
        content = {name: text for part in sums for name, text in part.items()}
    return {
        name: f"{content[name][:24]}{_mark(modes[name])}" if name in content else key(root / name)
        for name in names
    }


def _sums(root: Path, names: list[str]) -> dict[str, str]:
    """What sha256sum says of each file, by its name."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(os.fsencode(name) + b"\0" for name in names))
        file.flush()
        command = ["xargs", "-0", "-r", "-n", "2000", "sha256sum", "-z", "--"]
        given = Path(file.name)
        said = program.run(command, cwd=root, stdin=given, apart=True, errors="surrogateescape")
    lines = (line.partition("  ") for line in said.split("\0") if line)
    return {name: content for content, _, name in lines}


def _mark(mode: int) -> str:
    return " x" if mode & stat.S_IXUSR else ""
