# SPDX-License-Identifier: GPL-2.0-only
"""``tree:DIR``: a directory with Linux source, with its uncommitted changes."""

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

# The files that kbuild leaves in a tree. Without git, only their names distinguish them from
# source.
_BUILT = re.compile(
    r"(.*/)?([^/]+\.(o|ko|a|cmd|mod|mod\.c|order|symvers|dtbo?)|\.[^/]+\.d"
    r"|\.config(\.old)?|System\.map|vmlinux|Image)|(.*/)?include/(generated|config)/.*"
)


def source_of(where: str) -> Source:
    """The source in a directory. Raises UsageError if it is not Linux source."""
    tree = paths.absolute(where)
    for part in subject.REQUIRED_FILES:
        if not (tree / part).is_file():
            raise UsageError(
                f"not a Linux source tree: {tree} has no {part}",
                "give the top directory of a Linux tree",
            )
    with progress.phase("tree scan", f"reading {tree}"):
        listed = _scan(tree)

    def export(names: Sequence[str], into: Path) -> None:
        for name in names:
            try:
                # A link to a file outside the tree is replaced by the content of the file.
                links = listed[name].startswith("link ")
                files.copy(tree / name if links else (tree / name).resolve(), into / name)
            except FileNotFoundError as error:
                raise HostError(
                    f"{tree / name} was removed while the tree was read", "run the command again"
                ) from error

    return Source(
        label=f"tree:{tree}",
        identity=cache.digest_manifest(listed),
        worktree=f"tree-{cache.digest(str(tree))}",
        version=source.version((tree / "Makefile").read_text(errors="replace")),
        manifest=lambda: listed,
        export=export,
        current_identity=lambda: cache.digest_manifest(_scan(tree)),
    )


def _scan(tree: Path) -> Manifest:
    """The manifest of a tree, which may change at any time. A file is read again only if its size,
    times, inode or mode have changed."""
    index = paths.cache() / "trees" / f"{cache.digest(str(tree))}.json"
    try:
        known: dict[str, list[str]] = dict(json.loads(index.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    listed: Manifest = {}
    seen: dict[str, list[str]] = {}
    for name in _listed(tree):
        # A string, because for 90000 files a Path takes three times as long as the system call.
        path = f"{tree}/{name}"
        status = _status(path)
        if status is None or stat.S_ISLNK(status.st_mode):
            content = _resolve_link(tree, name) if status else None
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
        index.parent.mkdir(parents=True, exist_ok=True)
        part = index.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(seen))
        part.rename(index)
    return listed


def _status(path: str) -> os.stat_result | None:
    """The status of a file, or None if it is deleted but still tracked by git."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _resolve_link(tree: Path, name: str) -> Path | None:
    """The link itself, or the file to which it points if that is outside the tree, because the
    link would be broken in a copy. None if it points to anything else outside the tree."""
    path = tree / name
    target = path.resolve()
    if not path.readlink().is_absolute() and target.is_relative_to(tree.resolve()):
        return path
    return target if target.is_file() else None


def _listed(tree: Path) -> Iterator[str]:
    """Yield the source files. With git they are the tracked files and the files that are not
    ignored, without git all files except the products of a build."""
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
            # A nested repository, of which git lists only the directory.
            inner = (f"{name.rstrip('/')}/{each}" for each in manifest.walk(path))
            yield from (each for each in inner if "/.git/" not in each)
        elif name:
            yield name
