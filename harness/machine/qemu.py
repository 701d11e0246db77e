# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line."""

import functools
from dataclasses import dataclass
from pathlib import Path

from harness.host import program
from harness.machine.topology import Machine

PROGRAM = "qemu-system-aarch64"

# A core without pointer authentication, which TCG emulates slowly.
_CPU = "cortex-a57"

# A panic ends the guest at once, and QEMU with it (-no-reboot).
KERNEL_ARGUMENTS = "console=ttyAMA0 panic=-1"


@dataclass(frozen=True, slots=True)
class Boot:
    """What a guest starts from."""

    machine: Machine
    image: Path
    initrd: Path
    dtb: Path
    arguments: str = ""

    @property
    def command_line(self) -> str:
        """The kernel's."""
        single = "harness_console=ttyAMA0" if self.machine.single_console else ""
        return " ".join(part for part in (KERNEL_ARGUMENTS, single, self.arguments) if part)


def version() -> str:
    """The first line of ``--version``. Raises ToolMissing without QEMU."""
    path = Path(program.require(PROGRAM))
    return _version(path, path.stat().st_mtime_ns)


@functools.cache
def _version(path: Path, _changed: int) -> str:
    return program.run([str(path), "--version"]).splitlines()[0]


def board(machine: Machine, options: str = "") -> list[str]:
    """The part that shapes the device tree: machine, processor, memory, devices."""
    argv = [PROGRAM, "-nodefaults", "-display", "none"]
    argv += ["-M", machine.options + options, "-cpu", _CPU, "-m", str(machine.memory)]
    return argv + machine.devices


def payload(boot: Boot) -> list[str]:
    """The kernel, its initramfs, device tree and arguments."""
    argv = ["-kernel", str(boot.image), "-initrd", str(boot.initrd), "-dtb", str(boot.dtb)]
    return [*argv, "-append", boot.command_line, "-no-reboot"]


def channels(machine: Machine) -> list[str]:
    """Kernel console, command and kmsg channel, on chardevs ``console``, ``command``
    and ``kmsg``.

    The channels are virtio-serial ports behind virtio-mmio, which is not behind
    the IOMMU: no change to PCI or to the SMMU can cut the harness off.
    """
    argv = ["-serial", "chardev:console"]
    if machine.single_console:
        return argv
    argv += ["-device", "virtio-serial-device"]
    for name in ("command", "kmsg"):
        argv += ["-device", f"virtserialport,chardev={name},name=harness.{name}"]
    return argv


def chardevs(machine: Machine) -> tuple[str, ...]:
    """The chardevs that ``channels`` needs."""
    return ("console",) if machine.single_console else ("console", "command", "kmsg")


def on_a_terminal(boot: Boot) -> list[str]:
    """The same machine with its kernel console on the terminal, for people."""
    return [*board(boot.machine), *payload(boot), "-serial", "mon:stdio"]
