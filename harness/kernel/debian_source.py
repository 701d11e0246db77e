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
    """Raises UsageError for a version that no suite has."""
    version = versions()[-1] if where == NEWEST else where
    numbers = _VERSION.fullmatch(version)
    if not numbers:
        raise UsageError(
            f"not a kernel version: {where!r}", "write debian:6.12, for example, or debian:newest"
        )
    package = debian.find(f"linux-source-{version}", "arm64")
    identity = f"{package.name}_{package.version}"
    return Source(
        label=f"debian:{version} ({package.version})",
        identity=identity,
        work=identity,
        version=(int(numbers[1]), int(numbers[2])),
        manifest=lambda: _manifest(package),
        put=lambda names, into: _put(package, names, into),
        now=lambda: identity,
    )


def versions() -> list[str]:
    """Those that Debian's suites have, the oldest first."""
    found = {
        (int(match[1]), int(match[2]))
        for name in debian.names("linux-source-", "arm64")
        if (match := _PACKAGE.fullmatch(name))
    }
    if not found:
        raise HostError("Debian's package lists name no kernel source", "see that they are whole")
    return ["{}.{}".format(*each) for each in sorted(found)]


def _manifest(package: debian.Package) -> manifest.Manifest:
    prefix = "tree/"
    sealed = cache.read_seal(_entry(package))
    return {name.removeprefix(prefix): key for name, key in sealed.items()}


def _entry(package: debian.Package) -> Path:
    """Its files are many: each is checked when it is read."""
    title = f"source {package.name} {package.version}"

    def make(directory: Path) -> None:
        cache.ensure_space(5, f"unpacking {package.name}")
        doing = f"fetching and unpacking {package.name} {package.version}"
        with progress.phase("kernel source", doing), cache.scratch() as scratch:
            file = debian.download(package, scratch)
            debian.unpack(file, scratch / "package")
            archive = next((scratch / "package/usr/src").glob("linux-source-*.tar.xz"))
            tree = directory / "tree"
            tree.mkdir()
            # xz on all cores: Debian packs the archive in blocks.
            unpack = ["--use-compress-program=xz -T0", "--strip-components=1"]
            program.run(["tar", *unpack, "-xf", str(archive), "-C", str(tree)])

    identity = f"{package.name}_{package.version}"
    return cache.entry("source", identity, title, make, lazy=True)


def _put(package: debian.Package, names: Sequence[str], into: Path) -> None:
    """Hard links for a whole tree, which cost no space, with the times that the
    package has: they are older than any object. Copies of single files, whose time
    make has to see."""
    tree, listed = _entry(package) / "tree", _manifest(package)
    if not _are_whole(tree, listed, names):
        progress.note(f"the cached source of {package.name} is damaged; fetching it again")
        cache.discard(tree.parent)
        tree = _entry(package) / "tree"
    if len(names) == len(listed):
        files.link_tree(tree, into)
        return
    for name in names:
        files.copy(tree / name, into / name)


def _are_whole(tree: Path, listed: manifest.Manifest, names: Sequence[str]) -> bool:
    """Whether the files are as they were sealed; of a whole tree, which is linked as it
    stands, also whether it has no others."""
    chosen = None if len(names) == len(listed) else names
    try:
        return manifest.scan(tree, chosen) == {name: listed[name] for name in names}
    except (OSError, ProgramFailed):
        return False
