# SPDX-License-Identifier: GPL-2.0-only
"""``tree:DIR``: a directory with Linux source, as it is now, dirty or not."""

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import HostError, UsageError
from harness.host import cache, files, manifest, paths, program, progress
from harness.host.manifest import Manifest
from harness.kernel import source, subject
from harness.kernel.source import Source

# What kbuild leaves in a tree, where git cannot tell it from source.
_BUILT = re.compile(
    r"(.*/)?([^/]+\.(o|ko|a|cmd|mod|mod\.c|order|symvers|dtbo?)|\.[^/]+\.d"
    r"|\.config(\.old)?|System\.map|vmlinux|Image)|(.*/)?include/(generated|config)/.*"
)


def source_of(where: str) -> Source:
    """Raises UsageError for a directory without Linux source."""
    tree = paths.absolute(where)
    for part in subject.REQUIRED_FILES:
        if not (tree / part).is_file():
            raise UsageError(f"not a Linux source tree: {tree} has no {part}", "name one's top")
    with progress.phase("tree scan", f"reading {tree}"):
        listed = _scanned(tree)

    def put(names: Sequence[str], into: Path) -> None:
        for name in names:
            try:
                # What a link out of the tree names is taken for what it has.
                links = listed[name].startswith("link ")
                files.copy(tree / name if links else (tree / name).resolve(), into / name)
            except FileNotFoundError as error:
                raise HostError(
                    f"{tree / name} went away while it was read", "run again"
                ) from error

    return Source(
        label=f"tree:{tree}",
        identity=cache.digest_manifest(listed),
        work=f"tree-{cache.digest(str(tree))}",
        version=source.version((tree / "Makefile").read_text(errors="replace")),
        manifest=lambda: listed,
        put=put,
        now=lambda: cache.digest_manifest(_scanned(tree)),
    )


def _scanned(tree: Path) -> Manifest:
    """The manifest of a tree that its owner may change at any time; contents are
    read again only where size, time or inode did."""
    memory = paths.cache() / "trees" / f"{cache.digest(str(tree))}.json"
    try:
        known: dict[str, list[str]] = dict(json.loads(memory.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    listed: Manifest = {}
    seen: dict[str, list[str]] = {}
    for name in _listed(tree):
        # No Path for each of 90000 files: it costs three times what the kernel takes.
        path = f"{tree}/{name}"
        status = _status(path)
        if status is None or stat.S_ISLNK(status.st_mode):
            content = _content_of(tree, name) if status else None
            if content is None:
                continue
            path, status = str(content), content.lstat()
        elif not stat.S_ISREG(status.st_mode):
            continue
        facts = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        mark = f"{facts} {status.st_mode}"
        old = known.get(name)
        key = old[1] if old and old[0] == mark else manifest.key(Path(path), status.st_mode)
        seen[name] = [mark, key]
        listed[name] = key
    if seen != known:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(seen))
        part.rename(memory)
    return listed


def _status(path: str) -> os.stat_result | None:
    """None for what is deleted, though git still tracks it."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _content_of(tree: Path, name: str) -> Path | None:
    """What a link stands for: itself, or the file that it names where that is out of the
    tree, because the link would lead nowhere in a copy; None where that is no file."""
    path = tree / name
    target = path.resolve()
    if not path.readlink().is_absolute() and target.is_relative_to(tree.resolve()):
        return path
    return target if target.is_file() else None


def _listed(tree: Path) -> Iterator[str]:
    """Source files only: what git tracks or does not ignore, else all but what
    a build leaves behind."""
    if not (tree / ".git").exists():
        yield from (name for name in manifest.walk(tree) if not _BUILT.fullmatch(name))
        return
    git = ["git", "-c", f"safe.directory={tree}", "-c", "core.fsmonitor=false", "-C", str(tree)]
    what = ["--cached", "--others", "--exclude-standard"]
    listed = program.run(
        [*git, "ls-files", "-z", *what], stdout_only=True, errors="surrogateescape"
    )
    for name in dict.fromkeys(listed.split("\0")):
        path = tree / name
        if name and path.is_dir() and not path.is_symlink():
            # A repository within: git names only its top.
            inner = (f"{name.rstrip('/')}/{each}" for each in manifest.walk(path))
            yield from (each for each in inner if "/.git/" not in each)
        elif name:
            yield name
