# SPDX-License-Identifier: GPL-2.0-only
"""Encode newc cpio archives, as the kernel's initramfs unpacker reads them.

Format: Documentation/driver-api/early-userspace/buffer-format.rst. An archive depends only on its
entries. It has no time stamp, inode number, owner or directory order of the host, so equal entries
have equal archives.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive. ``path`` has no leading slash, ``mode`` includes the type bits, and
    ``data`` is the content of a file or the target of a link."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, permissions: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | permissions)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, data)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def tree(root: Path) -> list[Entry]:
    """Read every file, directory and link below ``root``. The mode of a file is 0755 or 0644,
    depending on the owner's execute bit, so the umask has no influence."""
    return [_read(path, str(path.relative_to(root))) for path in sorted(root.rglob("*"))]


def _read(path: Path, name: str) -> Entry:
    if path.is_symlink():
        return symlink(name, str(path.readlink()))
    if path.is_dir():
        return directory(name)
    executable = path.stat().st_mode & stat.S_IXUSR
    return file(name, path.read_bytes(), 0o755 if executable else 0o644)


def archive(entries: Iterable[Entry]) -> bytes:
    """Encode the entries as an archive, sorted by path, with missing parent directories added.

    Raises ValueError for a path that is absolute or has "..", and for two different entries with
    the same path.
    """
    by_path: dict[str, Entry] = {}
    for entry in entries:
        _check(entry)
        if by_path.setdefault(entry.path, entry) != entry:
            raise ValueError(f"two different entries for {entry.path}")
    for path in list(by_path):
        for parent in Path(path).parents:
            if str(parent) != ".":
                by_path.setdefault(str(parent), directory(str(parent)))
    blocks = [_encode(n, by_path[path]) for n, path in enumerate(sorted(by_path), start=1)]
    return b"".join([*blocks, _encode(0, Entry(_TRAILER, 0))])


def _check(entry: Entry) -> None:
    parts = entry.path.split("/")
    if entry.path.startswith("/") or not entry.path or {"..", ".", ""} & set(parts):
        raise ValueError(f"invalid path in an archive: {entry.path!r}")


def _encode(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    major, minor = entry.device
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, major, minor, len(name), 0)
    header = (_MAGIC + "".join(f"{field:08x}" for field in fields)).encode()
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
