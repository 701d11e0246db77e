# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines as data. QEMU's command line and the device tree are both
derived from one ``Machine``, so they cannot disagree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.errors import UsageError
from harness.machine.device import BRIDGES, UNMIGRATABLE, Device

Firmware = Literal["devicetree", "acpi"]

QEMU = "qemu-system-aarch64"


@dataclass(frozen=True, slots=True)
class Iommu:
    """An IOMMU that QEMU emulates. ``model`` is QEMU's type of it, which the -M virt
    ``machine_option`` creates, or -device where that is "". ``compatible`` is its
    device-tree string, ``driver`` the module that drives it, ``stream_id_bits`` the width of
    its stream IDs (SMMU_IDR1.SIDSIZE, which QEMU fixes at 16; endpoint IDs of virtio-iommu
    are 32 bits wide). ``translates`` are QEMU's trace events of a translated access or a
    mapping, ``stages`` the values of its property of that name."""

    model: str
    machine_option: str
    compatible: str
    driver: str
    stream_id_bits: int
    translates: tuple[str, ...]
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preset:
    """Devices that belong together, for the argument that ``summary`` names.
    ``overlays`` are files of ``dts/``; in ``broken_firmware`` they say on purpose what
    the IOMMU cannot have."""

    summary: str
    devices: tuple[Device, ...] = ()
    overlays: tuple[str, ...] = ()
    broken_firmware: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine. ``devices`` are PCI devices, ``overlays`` names of files of
    ``dts/`` or paths; ``memory`` is in MiB. ``stage`` is what the SMMUv3 translates
    ("1", "2", "nested"; "" leaves it to QEMU). ``qemu`` is the program. ``ssh`` adds a
    network that is not behind the IOMMU. ``single_console`` puts commands on the
    kernel's own console, for kernels without a built-in virtio console."""

    name: str
    iommu: Iommu
    devices: tuple[Device, ...] = ()
    overlays: tuple[str, ...] = ()
    firmware: Firmware = "devicetree"
    memory: int = 256
    cpus: int = 1
    stage: str = ""
    qemu: str = QEMU
    broken_firmware: bool = False
    ssh: bool = False
    single_console: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that a kernel for this machine must have."""
        return ("acpi",) if self.firmware == "acpi" else ()

    @property
    def migratable(self) -> bool:
        """Whether QEMU can save the state of all its devices."""
        return not any(device.model in UNMIGRATABLE for device in self.devices)


def check(machine: Machine) -> None:
    """Raises UsageError, with the reason, for a machine that cannot be."""
    for problem in _problems(machine):
        raise UsageError(f"the machine {machine.name} cannot be: {problem}")


_ADDRESS = re.compile(r"(?:0x)?([0-9a-f]{1,2})(?:\.([0-7]))?", re.IGNORECASE)
_SLOTS = 32

# Devices without an id are numbered.
_IDENTITY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def _problems(machine: Machine) -> Iterator[str]:
    if machine.overlays and machine.firmware == "acpi":
        overlays = ", ".join(machine.overlays)
        yield f"ACPI has no device tree that {overlays} could be laid over"
    stages = machine.iommu.stages
    if machine.stage and not stages:
        yield f"stage requires an SMMUv3, and the IOMMU is {machine.iommu.model}"
    elif machine.stage and machine.stage not in stages:
        yield f"stage must be one of {', '.join(stages)}, not {machine.stage!r}"
    if not 64 <= machine.memory <= 65536:
        yield f"{machine.memory} MiB of memory"
    if not 1 <= machine.cpus <= 8:
        yield f"{machine.cpus} processors: use 1 to 8"
    for device in machine.devices:
        if "iommu" in device.model:
            yield f"it has an {machine.iommu.compatible} and a {device.model}, and one is the limit"
        if device.model == "arm-smmuv3" != machine.iommu.model:
            yield "it has a virtio-iommu and an SMMUv3, and one kind is the limit"
    yield from _bus_problems(machine.devices)


def _bus_problems(devices: tuple[Device, ...]) -> Iterator[str]:
    bridges, names = set(), set()
    # The host bridge is there already.
    taken = {("", 0, 0)}
    for device in devices:
        if device.id and not _IDENTITY.fullmatch(device.id):
            yield f"{device.id!r} is no id: write a letter and letters, digits, - or _"
        if device.id and device.id in names:
            yield f"two devices are called {device.id!r}"
        names.add(device.id)
        if device.bus and device.bus not in bridges:
            yield f"{device.model} is behind {device.bus!r}, which is no bridge listed before it"
        if device.model in BRIDGES:
            bridges.add(device.id)
        if not device.address:
            continue
        match = _ADDRESS.fullmatch(device.address)
        if match is None or int(match[1], 16) >= _SLOTS:
            yield f"{device.address!r} is no PCI address: write SLOT.FUNCTION, say 5.0"
            continue
        place = (device.bus, int(match[1], 16), int(match[2] or 0))
        if place in taken:
            yield f"{device.address} of {device.bus or 'the root bus'} is taken"
        taken.add(place)
