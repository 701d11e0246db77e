# SPDX-License-Identifier: GPL-2.0-only
"""``debian:VERSION``: the source packages of Debian's kernels."""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import cache, debian, files, manifest, program, progress
from harness.kernel.source import Source

_VERSION = re.compile(r"(\d+)\.(\d+)")
_PACKAGE = re.compile(r"linux-source-(\d+)\.(\d+)")
NEWEST = "newest"


def source_of(where: str) -> Source:
    """The source of a kernel version. Raises UsageError if no suite has this version."""
    version = versions()[-1] if where == NEWEST else where
    numbers = _VERSION.fullmatch(version)
    if not numbers:
        raise UsageError(
            f"invalid kernel version {where!r}", "use debian:6.12, for example, or debian:newest"
        )
    try:
        package = debian.find(f"linux-source-{version}", "arm64")
    except UsageError as error:
        hint = f"use debian:newest, or debian: with one of {', '.join(versions())}"
        raise UsageError(error.message, hint) from None
    identity = f"{package.name}_{package.version}"
    return Source(
        label=f"debian:{version} ({package.version})",
        identity=identity,
        worktree=identity,
        version=(int(numbers[1]), int(numbers[2])),
        manifest=lambda: _manifest(package),
        export=lambda names, into: _export(package, names, into),
        current_identity=lambda: identity,
    )


def versions() -> list[str]:
    """The kernel versions in Debian's suites, oldest first. Raises HostError if the package lists
    have none."""
    found = {
        (int(match[1]), int(match[2]))
        for name in debian.names("linux-source-", "arm64")
        if (match := _PACKAGE.fullmatch(name))
    }
    if not found:
        raise HostError(
            "Debian's package lists contain no linux-source package", "check the mirror"
        )
    return ["{}.{}".format(*each) for each in sorted(found)]


def _manifest(package: debian.Package) -> manifest.Manifest:
    prefix = "tree/"
    files = cache.read_seal(_entry(package))
    return {name.removeprefix(prefix): key for name, key in files.items()}


def _entry(package: debian.Package) -> Path:
    """Return the cache entry of a source. It has many files, so each file is checked only when it
    is read."""
    title = f"source {package.name} {package.version}"

    def make(directory: Path) -> None:
        cache.ensure_space(5, f"unpacking {package.name}")
        action = f"fetching and unpacking {package.name} {package.version}"
        with progress.phase("kernel source", action), cache.scratch() as scratch:
            file = debian.download(package, scratch)
            debian.unpack(file, scratch / "package")
            archive = next((scratch / "package/usr/src").glob("linux-source-*.tar.xz"))
            tree = directory / "tree"
            tree.mkdir()
            # -T0 uses all cores: Debian compresses the archive in blocks.
            unpack = ["--use-compress-program=xz -T0", "--strip-components=1"]
            program.run(["tar", *unpack, "-xf", str(archive), "-C", str(tree)])

    identity = f"{package.name}_{package.version}"
    return cache.entry("source", identity, title, make, lazy=True)


def _export(package: debian.Package, names: Sequence[str], into: Path) -> None:
    """Hard-link a whole tree, which takes no space. Its times are set by the package, and older
    than any object. Single files are copied, because make must see a new time."""
    tree, listed = _entry(package) / "tree", _manifest(package)
    if not _are_intact(tree, listed, names):
        progress.note(f"the cached source of {package.name} is damaged; fetching it again")
        cache.discard(tree.parent)
        tree = _entry(package) / "tree"
    if len(names) == len(listed):
        files.link_tree(tree, into)
        return
    for name in names:
        files.copy(tree / name, into / name)


def _are_intact(tree: Path, listed: manifest.Manifest, names: Sequence[str]) -> bool:
    """Whether the files match the seal. A whole tree is linked as it is, so it must not have
    further files."""
    chosen = None if len(names) == len(listed) else names
    try:
        return manifest.scan(tree, chosen) == {name: listed[name] for name in names}
    except (OSError, ProgramFailed):
        return False
