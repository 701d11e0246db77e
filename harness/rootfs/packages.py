# SPDX-License-Identifier: GPL-2.0-only
"""The arm64 programs of guests, from Debian packages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from harness.errors import HostError
from harness.host import cache, debian, progress
from harness.rootfs import cpio
from harness.rootfs.cpio import Entry

_SUITE = debian.SUITES[0]

# Part of the key. Raise it when the files that are chosen below change.
_RECIPE = "3"


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional program of a guest. It is the file ``program`` of ``package``, installed with
    its shared libraries. ``links`` are paths of symbolic links to it."""

    package: str
    program: str
    links: tuple[str, ...]


# The links to kmod, one per command; guest-scripts/shell/agent calls them.
_KMOD_COMMANDS = ("depmod", "insmod", "lsmod", "modinfo", "modprobe", "rmmod")

# Each program adds megabytes that every boot copies, so a guest has only the programs that it
# needs.
EXTRAS = {
    "kmod": Extra("kmod", "bin/kmod", tuple(f"usr/lib/kmod-bin/{n}" for n in _KMOD_COMMANDS)),
    "dropbear": Extra("dropbear-bin", "usr/sbin/dropbear", ()),
    "dropbearkey": Extra("dropbear-bin", "usr/bin/dropbearkey", ()),
}
_PACKAGES = ["busybox-static", *sorted({extra.package for extra in EXTRAS.values()})]


def unpacked() -> Path:
    """Return the cache entry with the files of the packages. Its name changes with their
    versions."""
    versions = [debian.find(name, "arm64").version for name in _PACKAGES]
    key = cache.digest(_RECIPE, *_PACKAGES, *versions)
    return cache.entry("packages", key, "guest packages", _make)


def entries(extras: Sequence[str]) -> list[Entry]:
    """The entries of busybox and ``extras`` for the guest's root file system."""
    return [entry for root in ("busybox", *extras) for entry in cpio.tree(unpacked() / root)]


def _make(into: Path) -> None:
    with cache.scratch() as scratch, progress.phase("guest packages", "fetching guest packages"):
        files = scratch / "files"
        debs = scratch / "debs"
        debs.mkdir()
        for deb in debian.download_closure(_PACKAGES, _SUITE, "arm64", debs):
            debian.unpack(deb, files)
        _copy(files / "bin/busybox", into / "busybox/bin/busybox")
        for name, extra in EXTRAS.items():
            _collect(extra, files, into / name)


def _collect(extra: Extra, files: Path, root: Path) -> None:
    program = files / extra.program
    _copy(program, root / extra.program)
    for link in extra.links:
        _link(root / link, f"/{extra.program}")
    for library in _libraries(program, files):
        _copy(library, root / "lib" / library.name)


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(origin.read_bytes())
    target.chmod(0o755)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _libraries(program: Path, files: Path) -> Iterator[Path]:
    """Yield the shared libraries that a program needs (DT_NEEDED), recursively."""
    places = {path.name: path for path in sorted(files.rglob("*.so*"))}
    waiting, seen = [program], set()
    while waiting:
        for name in _needed(waiting.pop()):
            if name in seen:
                continue
            if name not in places:
                raise HostError(f"{program.name} needs {name}, which no package has")
            seen.add(name)
            waiting.append(places[name])
            yield places[name]


def _needed(path: Path) -> list[str]:
    with path.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if isinstance(section, DynamicSection):
                needed = section.iter_tags("DT_NEEDED")
                # pyelftools names the attribute after the tag, at run time.
                return [str(getattr(tag, "needed")) for tag in needed]  # noqa: B009
    return []
