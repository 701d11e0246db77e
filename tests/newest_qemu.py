# SPDX-License-Identifier: GPL-2.0-only
"""Debian's newest QEMU, in addition to the host's QEMU. Its packages and all their libraries are
unpacked in the cache, and run with the unpacked dynamic linker."""

import shutil
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.host import cache, debian, program, progress
from harness.machine import topology

_PACKAGE = "qemu-system-arm"

# Part of the cache key: increase it when the result of the steps below changes.
_RECIPE = "2"

# QEMU searches for modules and data relative to its executable, which is the dynamic linker
# here, and then in the host's directories.
_START = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/root
QEMU_MODULE_DIR=$here/usr/lib/{triplet}/qemu
export QEMU_MODULE_DIR
exec "$here/{linker}" --library-path "$here/usr/lib/{triplet}" \\
    "$here/{program}" -L "$here/usr/share/qemu" "$@"
"""


def path() -> str:
    """Return the path of the program, and fetch it unless the cache has it. Raises HostError if
    the archive cannot be read."""
    architecture = program.run(["dpkg", "--print-architecture"]).strip()
    package = debian.find(_PACKAGE, architecture, [debian.BACKPORTS])

    def make(into: Path) -> None:
        title = f"fetching {_PACKAGE} {package.version}"
        with cache.scratch() as scratch, progress.phase("newest QEMU", title):
            for deb in debian.download_closure([_PACKAGE], package.suite, architecture, scratch):
                debian.unpack(deb, into / "root")
        shutil.rmtree(into / "root/usr/share/doc")
        _write_start(into)

    key = cache.digest(_RECIPE, _PACKAGE, package.version, architecture)
    return str(cache.entry("qemu", key, f"QEMU {package.version}", make) / topology.QEMU)


def _write_start(directory: Path) -> None:
    inside = f"usr/bin/{topology.QEMU}"
    triplet = program.run(["gcc", "-print-multiarch"]).strip()
    _hide_host_modules(directory / "root" / inside, triplet)
    start = directory / topology.QEMU
    linker = _linker(directory / "root" / inside).lstrip("/")
    # The package has the linker below /usr. No package contains /lib, which is a symbolic link.
    text = _START.format(triplet=triplet, linker=f"usr/{linker}", program=inside)
    start.write_text(text)
    start.chmod(0o755)


def _hide_host_modules(file: Path, triplet: str) -> None:
    """Replace the name of the module directory in the program by the name of a directory that
    does not exist, of the same length. QEMU aborts on a module of a different QEMU."""
    place = f"/usr/lib/{triplet}/qemu".encode() + b"\0"
    content = file.read_bytes()
    assert place in content
    file.write_bytes(content.replace(place, b"/nowhere".ljust(len(place) - 1, b"/") + b"\0"))


def _linker(file: Path) -> str:
    with file.open("rb") as content:
        segments = ELFFile(content).iter_segments("PT_INTERP")
        (name,) = (segment.data() for segment in segments)
        return name.rstrip(b"\0").decode()
