# SPDX-License-Identifier: GPL-2.0-only
"""The firmware that boots a guest with ACPI tables: EDK2, from Debian."""

from pathlib import Path

from harness.host import cache, debian, progress

_PACKAGE = "qemu-efi-aarch64"
_FILE = "usr/share/qemu-efi-aarch64/QEMU_EFI.fd"


def image() -> Path:
    """Return the firmware image, and fetch it if it is not in the cache."""
    package = debian.find(_PACKAGE, "arm64")

    def make(into: Path) -> None:
        title = f"fetching {_PACKAGE} {package.version}"
        with cache.scratch() as scratch, progress.phase("firmware", title):
            debian.unpack(debian.download(package, scratch), scratch / "files")
            (scratch / "files" / _FILE).rename(into / "QEMU_EFI.fd")

    key = cache.digest(_PACKAGE, package.version)
    return cache.entry("firmware", key, "firmware", make) / "QEMU_EFI.fd"
