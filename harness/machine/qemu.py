# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line, and the differences between versions of QEMU."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ProgramFailed, UsageError
from harness.host import program
from harness.machine import device, firmware
from harness.machine.device import Definition
from harness.machine.topology import Machine

# A CPU without pointer authentication, because TCG emulates that slowly.
_CPU = "cortex-a57"

# Freed memory of these sizes is poisoned and its red zones are checked: a use after free oopses,
# and a write to freed memory is reported (CONFIG_SLUB_DEBUG). Groups, domains and the drivers'
# data for a device are that small. If whole pages were checked, which sysfs allocates for each
# read, reading the state would take twice as long. Caches are not merged, so each counts its own
# objects.
_CHECKED = ["8", "16", "32", "64", "96", "128", "192", "256", "512", "1k"]

# A panic resets the guest at once, which makes QEMU exit (-no-reboot). Only the first hung tasks
# are reported, because repeated reports of the same tasks, every 15 s, would count as signs of
# life.
KERNEL_ARGUMENTS = " ".join(
    (
        "console=ttyAMA0 panic=-1 sysctl.kernel.hung_task_warnings=4",
        f"slub_debug=FZP,{','.join(f'kmalloc-{size}' for size in _CHECKED)}",
        "slab_nomerge",
    )
)

# The id of a machine's memory, in QEMU and in the migrated state.
_MEMORY = "ram"

# The backend of the network for SSH, to which a port of the host is forwarded.
SSH_NETWORK = "ssh"
# This differs from the subnet of the NICs under test.
_SSH_SUBNET = "10.0.3.0/24"
SSH_ADDRESS = "10.0.3.15"


@dataclass(frozen=True, slots=True)
class Boot:
    """The files and arguments with which a guest boots. ``dtb`` is None if firmware provides ACPI
    tables, and for a restored guest, which has already read its device tree."""

    machine: Machine
    image: Path
    initrd: Path
    dtb: Path | None
    arguments: str = ""

    @property
    def command_line(self) -> str:
        """The kernel's command line."""
        acpi = "acpi=force" if self.machine.firmware == "acpi" else ""
        single = "harness_console=ttyAMA0" if self.machine.single_console else ""
        parts = (KERNEL_ARGUMENTS, acpi, single, self.arguments)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Memory:
    """The backing of a guest's memory. Without a ``file`` it is anonymous. A ``shared`` file
    receives the guest's writes; any other file is mapped copy-on-write and does not change."""

    file: Path | None = None
    shared: bool = False


ANONYMOUS = Memory()


def version(qemu: str) -> str:
    """The first line of ``qemu --version``. Raises ToolMissing if QEMU is not installed."""
    return _output(qemu, "--version").splitlines()[0]


def identity(qemu: str) -> str:
    """A key that changes with the QEMU binary. Raises ToolMissing if QEMU is not installed."""
    path = Path(program.require(qemu)).resolve()
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def check_program(qemu: str) -> None:
    """Raise UsageError if the program does not emulate arm64, ToolMissing if it does not exist."""
    try:
        cpus = _output(qemu, "-cpu", "help")
    except ProgramFailed:
        cpus = ""
    if _CPU not in cpus:
        raise UsageError(f"{qemu} does not emulate arm64", "use a qemu-system-aarch64 with --qemu")


def check(machine: Machine) -> None:
    """Raise UsageError if the machine's QEMU cannot emulate the machine."""
    if machine.stage and not has_property(machine.qemu, machine.iommu.model, "stage"):
        raise UsageError(
            f"{version(machine.qemu)} cannot set the stage of an SMMUv3",
            "use a newer QEMU with --qemu; nested stages require 10.0",
        )
    # Listing the models takes QEMU 0.1 s, and every version has these.
    for model in sorted({each.model for each in machine.devices} - _EVERYWHERE):
        if model not in models(machine.qemu):
            raise UsageError(
                f"{version(machine.qemu)} has no device {model!r}",
                f"see {machine.qemu} -device help, or use a different QEMU with --qemu",
            )


_EVERYWHERE = {
    *device.CLIENT_DRIVERS,
    *("pcie-root-port", "x3130-upstream", "xio3130-downstream", "pcie-pci-bridge"),
}


def models(qemu: str) -> set[str]:
    """The names and aliases of the devices that users can add, from QEMU's own list."""
    return set(re.findall(r'(?:^name|, alias) "([^"]+)"', _output(qemu, "-device", "help"), re.M))


def has_property(qemu: str, model: str, name: str) -> bool:
    """Whether the device model has the property, according to QEMU's own list."""
    properties = _output(qemu, "-device", f"{model},help")
    return re.search(rf"^  {re.escape(name)}=", properties, re.MULTILINE) is not None


def _output(qemu: str, *words: str) -> str:
    path = program.require(qemu)
    return _run(path, Path(path).stat().st_mtime_ns, words)


@functools.cache
def _run(path: str, _changed: int, words: tuple[str, ...]) -> str:
    return program.run([path, *words])


def board(machine: Machine, options: str = "") -> list[str]:
    """The arguments that determine the device tree: machine, CPUs, memory, devices."""
    argv = [machine.qemu, "-nodefaults", "-display", "none"]
    # GICv3, because the SMMU's MSIs need its ITS.
    parts = (
        _board_type(machine),
        "gic-version=3",
        "dtb-randomness=off",
        machine.iommu.machine_option,
    )
    argv += ["-M", ",".join(part for part in parts if part) + options]
    argv += ["-cpu", _CPU, "-smp", str(machine.cpus), "-m", f"{machine.memory}M"]
    if machine.stage:
        argv += ["-global", f"{machine.iommu.model}.stage={machine.stage}"]
    if machine.firmware == "acpi":
        argv += ["-bios", str(firmware.image())]
    for each in _definitions(machine):
        argv += [f"-{each.option}", json.dumps(each.fields)]
    return argv


# The last version of the board that leaves an SMMUv3's stage to -global. Later versions set it to
# nested themselves (virt_9_2_options and no_nested_smmu in hw/arm/virt.c).
_STAGES = "virt-9.1"


def _board_type(machine: Machine) -> str:
    """QEMU's name for the board. If a stage is requested and QEMU does not have the old board, this
    is the newest board, and ``check_stage`` reports whether the stage has taken effect."""
    has_it = machine.stage and re.search(
        rf"^{_STAGES} ", _output(machine.qemu, "-M", "help"), re.MULTILINE
    )
    return _STAGES if has_it else "virt"


def check_stage(machine: Machine, execute: Callable[[str, dict[str, Any]], Any]) -> None:
    """Query the stage of the running QEMU's SMMUv3 by QMP. Raises UsageError if it differs from
    the machine's stage: QEMU silently drops a -global that is overridden elsewhere."""
    if not machine.stage:
        return
    place = "/machine/unattached"
    children = execute("qom-list", {"path": place})
    names = (each["name"] for each in children if each["type"] == f"child<{machine.iommu.model}>")
    has = [execute("qom-get", {"path": f"{place}/{name}", "property": "stage"}) for name in names]
    if has != [machine.stage]:
        raise UsageError(
            f"the machine {machine.name} has stage {machine.stage!r}, but {version(machine.qemu)} "
            f"sets the stage of its SMMUv3 to {' and '.join(map(repr, has)) or 'none'}",
            "use a different QEMU with --qemu, or remove `stage` from the machine",
        )


def _definitions(machine: Machine) -> Iterator[Definition]:
    if not machine.iommu.machine_option:
        yield Definition(device.DEVICE, {"driver": machine.iommu.model})
    yield from device.definitions(machine.devices)
    if machine.ssh:
        # On virtio-mmio, so no change to PCI or to the IOMMU can cut it off.
        network = {"type": "user", "id": SSH_NETWORK, "restrict": True, "net": _SSH_SUBNET}
        yield Definition(device.NETDEV, network)
        yield Definition(device.DEVICE, {"driver": "virtio-net-device", "netdev": SSH_NETWORK})


def memory(machine: Machine, where: Memory) -> list[str]:
    """The arguments for the memory. Its id is always the same, because a saved state refers to the
    memory by id."""
    kind: dict[str, Any] = {"qom-type": "memory-backend-ram"}
    if where.file:
        kind = {"qom-type": "memory-backend-file", "mem-path": str(where.file)}
        kind["share"] = where.shared
    backend = {**kind, "id": _MEMORY, "size": machine.memory << 20}
    return ["-object", json.dumps(backend), "-machine", f"memory-backend={_MEMORY}"]


def payload(boot: Boot) -> list[str]:
    """The arguments for the kernel, its initramfs, device tree and command line."""
    argv = ["-kernel", str(boot.image), "-initrd", str(boot.initrd)]
    argv += ["-dtb", str(boot.dtb)] if boot.dtb else []
    return [*argv, "-append", boot.command_line, "-no-reboot"]


def channels(machine: Machine) -> list[str]:
    """The arguments for the kernel console, the command channel and the kmsg channel, on the
    chardevs ``console``, ``command`` and ``kmsg``.

    The channels are virtio-serial ports on virtio-mmio, which is not behind the IOMMU, so no
    change to PCI or to the SMMU can cut the harness off.
    """
    argv = ["-serial", "chardev:console"]
    if machine.single_console:
        return argv
    argv += ["-device", "virtio-serial-device"]
    for name in ("command", "kmsg"):
        argv += ["-device", f"virtserialport,chardev={name},name=harness.{name}"]
    return argv


def chardevs(machine: Machine) -> tuple[str, ...]:
    """The names of the chardevs that ``channels`` needs."""
    return ("console",) if machine.single_console else ("console", "command", "kmsg")


def on_a_terminal(boot: Boot) -> list[str]:
    """The command line for the same machine, with its kernel console on the terminal."""
    return [*board(boot.machine), *payload(boot), "-serial", "mon:stdio"]
