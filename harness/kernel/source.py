# SPDX-License-Identifier: GPL-2.0-only
"""Where kernel source comes from: a directory, and a manifest of what is in it.

A manifest maps each file's path to a key of its content, so that a work tree
can be brought to any source by touching only the files that differ.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host import cache, debian, paths, program, progress
from harness.kernel.spec import KernelSpec

Manifest = dict[str, str]

_VERSION = re.compile(r"\d+(\.\d+)*")

# What kbuild leaves in a tree, where git cannot tell it from source.
_BUILT = re.compile(
    r"(.*/)?([^/]+\.(o|ko|a|cmd|mod|mod\.c|order|symvers|dtbo?)|\.[^/]+\.d"
    r"|\.config(\.old)?|System\.map|vmlinux|Image)|(.*/)?include/(generated|config)/.*"
)


@dataclass(frozen=True, slots=True)
class Source:
    """``label`` for people; ``identity`` changes with the content; ``work`` names
    the work tree that its builds share; ``links`` tells that the files never
    change and may be hard-linked; ``read`` gives directory and manifest, and
    ``now`` the identity that the content has by now."""

    label: str
    identity: str
    work: str
    links: bool
    read: Callable[[], tuple[Path, Manifest]]
    now: Callable[[], str]


def resolve(spec: KernelSpec) -> Source:
    """The source that ``spec`` names now. Raises UsageError when there is none."""
    return _KINDS[spec.kind](spec.where)


def _debian(version: str) -> Source:
    if not _VERSION.fullmatch(version):
        raise UsageError(f"not a kernel version: {version!r}", "write debian:6.12, for example")
    package = debian.find(f"linux-source-{version}", "arm64")
    identity = f"{package.name}_{package.version}"
    label = f"debian:{version} ({package.version})"
    return Source(
        label, identity, identity, True, lambda: _unpacked(package, identity), lambda: identity
    )


def _unpacked(package: debian.Package, identity: str) -> tuple[Path, Manifest]:
    title = f"unpacking {package.name} {package.version}"

    def make(directory: Path) -> None:
        cache.require_space(5, title)
        with progress.phase("kernel source", f"fetching and {title}"):
            with cache.scratch() as scratch:
                file = debian.download(package, scratch)
                debian.unpack(file, scratch / "package")
                archive = next((scratch / "package/usr/src").glob("linux-source-*.tar.xz"))
                tree = directory / "tree"
                tree.mkdir()
                program.run(["tar", "-xJf", str(archive), "-C", str(tree), "--strip-components=1"])
            (directory / "manifest.json").write_text(json.dumps(_hashed(tree, _walk(tree))))

    entry = cache.entry("source", identity, title, make)
    return entry / "tree", json.loads((entry / "manifest.json").read_text())


def _tree(where: str) -> Source:
    tree = Path(where).expanduser().absolute()
    for part in ("Makefile", "Kbuild", "arch/arm64/Kconfig", "drivers/iommu/iommu.c"):
        if not (tree / part).is_file():
            raise UsageError(f"not a Linux source tree: {tree} has no {part}", "name one's top")
    with progress.phase("tree scan", f"reading {tree}"):
        manifest = _scanned(tree)
    identity = _identity(manifest)
    work = f"tree-{cache.digest(str(tree))}"
    return Source(
        f"tree:{tree}",
        identity,
        work,
        False,
        lambda: (tree, manifest),
        lambda: _identity(_scanned(tree)),
    )


def _identity(manifest: Manifest) -> str:
    return cache.digest(*(part for item in sorted(manifest.items()) for part in item))


_KINDS = {"debian": _debian, "tree": _tree}


def _scanned(tree: Path) -> Manifest:
    """The manifest of a tree that its owner may change at any time; contents are
    read again only where size, time or inode did."""
    memory = paths.cache() / "trees" / f"{cache.digest(str(tree))}.json"
    try:
        known: dict[str, list[str]] = json.loads(memory.read_text())
    except (OSError, ValueError):
        known = {}
    manifest: Manifest = {}
    seen: dict[str, list[str]] = {}
    for name in _listed(tree):
        try:
            status = (tree / name).lstat()
        except FileNotFoundError:
            continue  # deleted, though git still tracks it
        if stat.S_ISDIR(status.st_mode):
            continue  # a submodule
        mark = f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_mode}"
        old = known.get(name)
        key = old[1] if old and old[0] == mark else _content(tree / name, status.st_mode)
        seen[name] = [mark, key]
        manifest[name] = key
    if seen != known:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(seen))
        part.rename(memory)
    return manifest


def _listed(tree: Path) -> Iterator[str]:
    """Source files only: what git tracks or does not ignore, else all but what
    a build leaves behind."""
    if not (tree / ".git").exists():
        return (name for name in _walk(tree) if not _BUILT.fullmatch(name))
    git = ["git", "-c", f"safe.directory={tree}", "-C", str(tree)]
    what = ["--cached", "--others", "--exclude-standard"]
    listing = program.run([*git, "ls-files", "-z", *what])
    return (name for name in dict.fromkeys(listing.split("\0")) if name)


def _walk(tree: Path) -> Iterator[str]:
    for directory, _, names in os.walk(tree):
        base = os.path.relpath(directory, tree)
        for name in names:
            yield os.path.normpath(f"{base}/{name}")


def _hashed(tree: Path, names: Iterator[str]) -> Manifest:
    return {name: _content(tree / name, (tree / name).lstat().st_mode) for name in names}


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    with path.open("rb") as file:
        key = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    return f"{key}{' x' if mode & stat.S_IXUSR else ''}"
