# SPDX-License-Identifier: GPL-2.0-only
"""The root file system of a guest: an initramfs with the kernel's modules and the programs
that guests run.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.host import cache, paths, program, progress, tools
from harness.kernel.artifact import Kernel
from harness.rootfs import cpio, packages
from harness.rootfs.cpio import Entry

# Part of the key. Raise it when the steps below produce a different result.
_RECIPE = "1"

_MOUNT_POINTS = ("proc", "sys", "dev", "run", "tmp", "root")

# Compiled into one static program.
_SOURCES = (
    *("init/init.c", "init/state.c", "init/acpi.c"),
    *("commands/vfio.c", "commands/reseed.c", "commands/failnth.c"),
)

# The names of that program, besides init.
_COMMANDS = ("vfio", "reseed", "failnth")


def image(kernel: Kernel, extras: Sequence[str] = ()) -> Path:
    """Return the initramfs for ``kernel``, and create it if it is not in the cache. It has
    busybox, and the programs of ``packages.EXTRAS`` that are in ``extras``.

    It is not compressed, because decompression would take the guest longer than it saves.
    """
    scripts = paths.data("guest-scripts")
    programs = packages.unpacked().name
    key = cache.digest(_RECIPE, kernel.key, cache.digest_files(scripts), programs, *extras)

    def make(into: Path) -> None:
        with progress.phase("initramfs", f"creating the initramfs of {kernel.label}"):
            with cache.scratch() as scratch:
                modules = _modules(kernel, scratch)
            entries = [*packages.entries(extras), *_skeleton(scripts), *modules]
            (into / "initramfs.cpio").write_bytes(cpio.archive(entries))

    entry = cache.entry("initramfs", key, "initramfs", make)
    return entry / "initramfs.cpio"


def _skeleton(scripts: Path) -> list[Entry]:
    return [
        *(cpio.directory(name) for name in _MOUNT_POINTS),
        # For the kernel's messages if it cannot run init.
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", _program(scripts).read_bytes(), 0o755),
        cpio.file("harness/agent", (scripts / "shell/agent").read_bytes()),
        cpio.file("harness/sshd", (scripts / "shell/sshd").read_bytes(), 0o755),
        cpio.file("harness/shell", (scripts / "shell/shell").read_bytes(), 0o755),
        # busybox's shell runs its applets without links. The kernel and other programs
        # call these two by path.
        cpio.symlink("bin/sh", "busybox"),
        *(cpio.symlink(f"bin/{name}", "../init") for name in _COMMANDS),
        cpio.symlink("sbin/modprobe", "../bin/busybox"),
        cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
    ]


def _program(scripts: Path) -> Path:
    """Return the program for PID 1, compiled once for all kernels."""
    sources = [scripts / name for name in _SOURCES]
    parts = [path.read_bytes() for path in (*sources, *sorted(scripts.rglob("*.h")))]

    def make(into: Path) -> None:
        flags = ["-static", "-O2", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none"]
        command = [tools.CROSS + "gcc", *flags, "-o", str(into / "init"), *map(str, sources)]
        program.run(command)

    return cache.entry("init", cache.digest(*parts), "the guest's init", make) / "init"


def _modules(kernel: Kernel, root: Path) -> list[Entry]:
    """The entries of /lib/modules/RELEASE with the guest modules, indexed by depmod."""
    target = root / "lib/modules" / kernel.release
    for origin in sorted(kernel.modules.rglob("*")):
        if origin.is_file():
            _place(origin, target / origin.relative_to(kernel.modules))
    for origin in kernel.guest_modules:
        _place(origin, target / "harness" / origin.name)
    program.run(["depmod", "-b", str(root), kernel.release])
    return cpio.tree(root)


def _place(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.hardlink_to(origin)
