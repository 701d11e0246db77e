# SPDX-License-Identifier: GPL-2.0-only
"""The arm64 programs of a guest, from Debian packages: busybox, and kmod with
the libraries it loads.
"""

from collections.abc import Iterator
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from harness.errors import HostError
from harness.host import cache, debian, progress
from harness.rootfs import cpio
from harness.rootfs.cpio import Entry

_PACKAGES = ["busybox-static", "kmod"]
_SUITE = debian.SUITES[0]

# Part of the key: raise it when another choice of files is made below.
_RECIPE = "2"

# kmod under the name of each of its commands; guest-scripts/agent calls them.
_KMOD_DIRECTORY = "usr/lib/kmod-bin"
_KMOD_COMMANDS = ("depmod", "insmod", "lsmod", "modinfo", "modprobe", "rmmod")


def unpacked() -> Path:
    """The cache entry with the packages' files; its name changes with them."""
    versions = [debian.find(name, "arm64").version for name in _PACKAGES]
    key = cache.digest(_RECIPE, *_PACKAGES, *versions)
    return cache.entry("packages", key, "fetching guest packages", _make)


def entries(*, kmod: bool) -> list[Entry]:
    """The files of the guest's root that come from packages. kmod and its libraries
    are 7 MB, which every boot would copy; a guest that does not need them has none."""
    roots = ["busybox", "kmod"] if kmod else ["busybox"]
    return [entry for root in roots for entry in cpio.tree(unpacked() / root)]


def _make(into: Path) -> None:
    with cache.scratch() as scratch, progress.phase("guest packages", "fetching guest packages"):
        files = scratch / "files"
        debs = scratch / "debs"
        debs.mkdir()
        for deb in debian.download_closure(_PACKAGES, _SUITE, "arm64", debs):
            debian.unpack(deb, files)
        _copy(files / "bin/busybox", into / "busybox/bin/busybox")
        root = into / "kmod"
        kmod = files / "bin/kmod"
        _copy(kmod, root / "bin/kmod")
        for name in _KMOD_COMMANDS:
            _link(root / _KMOD_DIRECTORY / name, "/bin/kmod")
        for library in _libraries(kmod, files):
            _copy(library, root / "lib" / library.name)


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(origin.read_bytes())
    target.chmod(0o755)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _libraries(program: Path, files: Path) -> Iterator[Path]:
    """The shared objects the program needs, and those that they need."""
    places = {path.name: path for path in sorted(files.rglob("*.so*"))}
    waiting, seen = [program], set()
    while waiting:
        for name in _needed(waiting.pop()):
            if name in seen:
                continue
            if name not in places:
                raise HostError(f"no package brings {name}, which kmod needs")
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
