# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines as data. QEMU's command line and the device tree are both derived from a
``Machine``, so they agree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.machine.device import BRIDGES, UNMIGRATABLE, EmulatedDevice

Firmware = Literal["devicetree", "acpi"]

QEMU = "qemu-system-aarch64"


@dataclass(frozen=True, slots=True)
class Iommu:
    """An IOMMU that QEMU emulates.

    ``model`` is QEMU's device type. ``machine_option`` is the option of -M virt that creates it,
    or "" if -device does. ``compatible`` is its device-tree string, and ``driver`` the module of
    its driver.

    ``stream_id_bits`` is the width of its stream IDs (SMMU_IDR1.SIDSIZE, which QEMU fixes at 16;
    endpoint IDs of virtio-iommu are 32 bits wide). ``translates`` are QEMU's trace events for a
    translated access or a mapping, and ``commands`` those for a command or request of the driver.
    ``stages`` are the values of its property "stage", if it has
    one.
    """

    model: str
    machine_option: str
    compatible: str
    driver: str
    stream_id_bits: int
    translates: tuple[str, ...]
    commands: tuple[str, ...]
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of devices for a machine. ``summary`` states its purpose. ``overlays`` are files
    of ``dts/``. If ``broken_firmware`` is set, they intentionally contradict the IOMMU."""

    summary: str
    devices: tuple[EmulatedDevice, ...] = ()
    overlays: tuple[str, ...] = ()
    broken_firmware: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine.

    ``devices`` are PCI devices. ``overlays`` are paths, or names of files in ``dts/``. ``memory``
    is in MiB. ``stage`` is the translation stage of the SMMUv3: "1", "2", "nested", or "" for
    QEMU's default. ``qemu`` is the program, ``qemu_label`` its name where a machine runs on several
    QEMUs. ``ssh`` adds a network that is not behind the IOMMU.
    ``single_console`` sends commands over the kernel's own console, for kernels without a built-in
    virtio console.
    """

    name: str
    iommu: Iommu
    devices: tuple[EmulatedDevice, ...] = ()
    overlays: tuple[str, ...] = ()
    firmware: Firmware = "devicetree"
    memory: int = 256
    cpus: int = 1
    stage: str = ""
    qemu: str = QEMU
    qemu_label: str = ""
    broken_firmware: bool = False
    ssh: bool = False
    single_console: bool = False

    @property
    def label(self) -> str:
        """The name, with the QEMU's if the machine runs on several: ``smmuv3@11.1.3``."""
        return f"{self.name}@{self.qemu_label}" if self.qemu_label else self.name

    @property
    def variants(self) -> tuple[str, ...]:
        """The kernel variants that the machine requires."""
        return ("acpi",) if self.firmware == "acpi" else ()

    @property
    def migratable(self) -> bool:
        """Whether QEMU can save the state of all devices of the machine."""
        return not any(device.model in UNMIGRATABLE for device in self.devices)


def check(machine: Machine) -> None:
    """Raise UsageError, with the reason, if the machine is invalid."""
    for problem in _problems(machine):
        raise UsageError(f"invalid machine {machine.name}: {problem}")


_ADDRESS = re.compile(r"(?:0x)?([0-9a-f]{1,2})(?:\.([0-7]))?", re.IGNORECASE)
_SLOTS = 32

# An id that a user chose. Devices without an id are numbered.
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def _problems(machine: Machine) -> Iterator[str]:
    if machine.overlays and machine.firmware == "acpi":
        overlays = ", ".join(machine.overlays)
        yield f"the overlays {overlays} require a device tree, but firmware is acpi"
    stages = machine.iommu.stages
    if machine.stage and not stages:
        yield f"stage requires an SMMUv3, but the IOMMU is {machine.iommu.model}"
    elif machine.stage and machine.stage not in stages:
        yield f"stage must be one of {', '.join(stages)}, not {machine.stage!r}"
    if not 64 <= machine.memory <= 65536:
        yield f"memory must be 64 to 65536 MiB, not {machine.memory}"
    if not 1 <= machine.cpus <= 8:
        yield f"cpus must be 1 to 8, not {machine.cpus}"
    for device in machine.devices:
        if "iommu" in device.model:
            yield f"{device.model} is a second IOMMU, in addition to {machine.iommu.compatible}"
        if device.model == "arm-smmuv3" != machine.iommu.model:
            yield f"{device.model} does not work together with {machine.iommu.model}"
    yield from _bus_problems(machine.devices)


def _bus_problems(devices: tuple[EmulatedDevice, ...]) -> Iterator[str]:
    bridges, names = set(), set()
    # The host bridge has 0.0.
    used = {("", 0, 0)}
    for device in devices:
        if device.id and not _ID.fullmatch(device.id):
            yield f"the id {device.id!r} must be a letter, followed by letters, digits, - or _"
        if device.id and device.id in names:
            yield f"two devices have the id {device.id!r}"
        names.add(device.id)
        if device.bus and device.bus not in bridges:
            yield f"{device.model}: the bus {device.bus!r} must be a bridge listed before it"
        if device.model in BRIDGES:
            bridges.add(device.id)
        if not device.address:
            continue
        match = _ADDRESS.fullmatch(device.address)
        if match is None or int(match[1], 16) >= _SLOTS:
            yield f"the address {device.address!r} must be SLOT.FUNCTION, for example 5.0"
            continue
        place = (device.bus, int(match[1], 16), int(match[2] or 0))
        if place in used:
            yield f"the address {device.address} on {device.bus or 'the root bus'} is already used"
        used.add(place)
