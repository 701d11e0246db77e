# SPDX-License-Identifier: GPL-2.0-only
"""``--qemu debian:VERSION``: QEMU from any of Debian's suites. Its packages and all their libraries
are unpacked in the cache, and run with the unpacked dynamic linker, without root privileges.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.errors import UsageError
from harness.host import cache, debian, program, progress
from harness.host.debian import Package
from harness.machine import topology

NEWEST = "newest"

_PACKAGE = "qemu-system-arm"
_CHOICE = re.compile(r"\d+(\.\d+)*")
# The upstream version in a Debian version such as 1:11.1.3+ds-1~bpo13+1.
_UPSTREAM = re.compile(r"(?:\d+:)?(\d+(?:\.\d+)*)")

# The oldest version with which the harness is tested, that of Debian 12.
_OLDEST = (7, 2)

# Part of the cache key: increase it when the result of the steps below changes.
_RECIPE = "3"

# QEMU searches for modules and data relative to its executable, which is the dynamic linker
# here, and then in the host's directories. Up to Debian 12, some libraries are in /lib.
_START = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/root
QEMU_MODULE_DIR=$here/usr/lib/{triplet}/qemu
export QEMU_MODULE_DIR
exec "$here/{linker}" --library-path "$here/usr/lib/{triplet}:$here/lib/{triplet}" \\
    "$here/{program}" -L "$here/usr/share/qemu" "$@"
"""


def path(version: str) -> str:
    """Return the path of Debian's QEMU ``version``, such as "11.1" or "newest". QEMU is fetched if
    it is not in the cache.

    Raises UsageError if no suite has the version, and HostError if the archive cannot be read.
    """
    package = find(version)

    def make(into: Path) -> None:
        cache.ensure_space(1, f"unpacking {_PACKAGE}")
        title = f"fetching {_PACKAGE} {package.version}"
        with cache.scratch() as scratch, progress.phase("QEMU", title):
            for deb in debian.download_closure(
                [_PACKAGE], package.suite, package.architecture, scratch
            ):
                debian.unpack(deb, into / "root")
        shutil.rmtree(into / "root/usr/share/doc")
        _write_start(into)

    key = cache.digest(_RECIPE, _PACKAGE, package.version, package.architecture)
    return str(cache.entry("qemu", key, f"QEMU {package.version}", make) / topology.QEMU)


def find(version: str) -> Package:
    """Find the first package of the version, or the newest. The package lists of later suites are
    only fetched if they are needed. Raises UsageError if no suite has the version."""
    if version == NEWEST:
        return max(_packages(), key=_numbers)
    if not _CHOICE.fullmatch(version):
        hint = "use debian:11.1, for example, or debian:newest"
        raise UsageError(f"invalid QEMU version {version!r}", hint)
    numbers = tuple(map(int, version.split(".")))
    for package in _packages():
        if _numbers(package)[: len(numbers)] == numbers:
            return package
    known = {".".join(map(str, _numbers(each)[:2])): _numbers(each) for each in _packages()}
    names = ", ".join(sorted(known, key=lambda name: known[name]))
    raise UsageError(
        f"Debian has no QEMU {version}", f"use debian:newest, or debian: with one of {names}"
    )


def _packages() -> Iterator[Package]:
    architecture = program.run(["dpkg", "--print-architecture"]).strip()
    packages = debian.candidates(_PACKAGE, architecture)
    return (each for each in packages if _numbers(each) >= _OLDEST)


def _numbers(package: Package) -> tuple[int, ...]:
    match = _UPSTREAM.match(package.version)
    return tuple(map(int, match[1].split("."))) if match else ()


def _write_start(directory: Path) -> None:
    root, inside = directory / "root", f"usr/bin/{topology.QEMU}"
    # The dynamic linker is in the directory of the C library.
    (library,) = (*root.glob("lib/*/libc.so.6"), *root.glob("usr/lib/*/libc.so.6"))
    _hide_host_modules(root / inside, library.parent.name)
    start = directory / topology.QEMU
    text = _START.format(
        triplet=library.parent.name,
        linker=library.parent.relative_to(root) / _linker(root / inside),
        program=inside,
    )
    start.write_text(text)
    start.chmod(0o755)


def _hide_host_modules(file: Path, triplet: str) -> None:
    """Replace the name of the module directory in the program by the name of a directory that
    does not exist, of the same length. QEMU aborts on a module of a different QEMU."""
    place = f"/usr/lib/{triplet}/qemu".encode() + b"\0"
    hidden = b"/nowhere".ljust(len(place) - 1, b"/") + b"\0"
    file.write_bytes(file.read_bytes().replace(place, hidden))


def _linker(file: Path) -> str:
    """The file name of a program's dynamic linker."""
    with file.open("rb") as content:
        segments = ELFFile(content).iter_segments("PT_INTERP")
        (name,) = (segment.data() for segment in segments)
    return Path(name.rstrip(b"\0").decode()).name
