# SPDX-License-Identifier: GPL-2.0-only
"""A built kernel: immutable files in the cache, and a record of what they were built from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kernel:
    """A built kernel.

    ``directory`` has Image, vmlinux, Module.symvers, config, build.log, ``modules`` (in the layout
    of modules_install) and ``guest-modules``.

    ``label`` is the name for users, ``release`` is the output of uname -r, and ``key`` is the
    cache key. ``notes`` are shown to users: patches that did not apply exactly, and what a
    prebuilt kernel lacks. If ``serial_ports`` is false, the kernel has no built-in virtio serial
    ports, and commands share the kernel's console. ``source`` is the identity of the source before
    patches.
    """

    key: str
    label: str
    release: str
    compiler: str
    directory: Path
    notes: tuple[str, ...] = ()
    serial_ports: bool = True
    source: str = ""

    @property
    def image(self) -> Path:
        return self.directory / "Image"

    @property
    def config(self) -> Path:
        return self.directory / "config"

    def option(self, name: str) -> str:
        """The value of the configuration option CONFIG_``name``: "" if it is off, "?" if the
        kernel has no configuration file."""
        if not self.config.exists():
            return "?"
        prefix = f"CONFIG_{name}="
        lines = self.config.read_text().splitlines()
        return next((each.removeprefix(prefix) for each in lines if each.startswith(prefix)), "")

    @property
    def modules(self) -> Path:
        """The directory that becomes /lib/modules/RELEASE."""
        return self.directory / "modules" / self.release

    @property
    def guest_modules(self) -> list[Path]:
        return sorted((self.directory / "guest-modules").glob("*.ko"))


def write(kernel: Kernel) -> None:
    """Write the record of a kernel into its directory."""
    record = {name: value for name, value in asdict(kernel).items() if name != "directory"}
    (kernel.directory / "kernel.json").write_text(json.dumps(record, indent=1) + "\n")


def load(directory: Path, label: str = "") -> Kernel:
    """Read the kernel of a cache entry. ``label`` overrides its label, for content that was first
    built under a different name."""
    record = json.loads((directory / "kernel.json").read_text())
    changed = {"notes": tuple(record["notes"]), **({"label": label} if label else {})}
    return Kernel(**record | changed, directory=directory)
