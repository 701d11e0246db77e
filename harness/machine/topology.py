# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines as data. QEMU's command line and the device tree are both
derived from one ``Machine``, so they cannot disagree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from harness.errors import UsageError
from harness.machine.device import BRIDGES, UNMIGRATABLE, Device, Properties

Firmware = Literal["devicetree", "acpi"]

QEMU = "qemu-system-aarch64"


@dataclass(frozen=True, slots=True)
class Iommu:
    """An IOMMU that QEMU emulates: the ``-M virt`` option or the device that
    brings it, its device-tree ``compatible``, the module of its ``driver``, and the
    width of its stream IDs in bits (SMMU_IDR1.SIDSIZE, which QEMU fixes at 16;
    endpoint IDs of virtio-iommu are 32 bits wide). ``translates`` are the trace events
    of QEMU that tell of a translated access or a mapping."""

    machine_option: str
    device: str
    compatible: str
    driver: str
    stream_id_bits: int
    translates: tuple[str, ...]


SMMUV3 = Iommu("iommu=smmuv3", "", "arm,smmu-v3", "arm_smmu_v3", 16, ("smmuv3_translate_success",))
VIRTIO_IOMMU = Iommu(
    "", "virtio-iommu-pci", "virtio,pci-iommu", "virtio_iommu", 32, ("virtio_iommu_translate_out",)
)
IOMMUS = {"smmuv3": SMMUV3, "virtio-iommu": VIRTIO_IOMMU}


@dataclass(frozen=True, slots=True)
class Preset:
    """Devices that belong together, for the argument that ``summary`` names.
    ``overlays`` are files of ``dts/``; in ``broken_firmware`` they say on purpose what
    the IOMMU cannot have."""

    summary: str
    devices: tuple[Device, ...] = ()
    overlays: tuple[str, ...] = ()
    broken_firmware: bool = False


def _functions(
    model: str, slot: str, bus: str = "", properties: Properties = ()
) -> tuple[Device, ...]:
    """Two functions of one slot; the first says that there are more."""
    first = (*properties, ("multifunction", True))
    return (
        Device(model, bus=bus, address=f"{slot}.0", properties=first),
        Device(model, bus=bus, address=f"{slot}.1", properties=properties),
    )


def _switch(root: Properties = ()) -> tuple[Device, ...]:
    """Two NICs, each below a port of its own of a switch, below a root port."""
    ports = [
        Device("xio3130-downstream", f"down{slot}", "up", properties=(("slot", slot),))
        for slot in (1, 2)
    ]
    return (
        Device("pcie-root-port", "port", properties=root),
        Device("x3130-upstream", "up", "port"),
        *ports,
        *(Device("e1000e", bus=port.id) for port in ports),
    )


# Behind the IOMMU, as a modern virtio device and not as a legacy one, which bypasses it.
_TRANSLATED: Properties = (("iommu_platform", True), ("disable-legacy", "on"))

PRESETS = {
    "nic": Preset("one NIC on the root bus", (Device("e1000e"),)),
    "clients": Preset("two platform devices", overlays=("platform-clients",)),
    "multifunction": Preset("two functions without isolation: one group", _functions("e1000", "5")),
    "isolated-functions": Preset(
        "two functions that a quirk calls isolated", _functions("e1000e", "5")
    ),
    "root-port": Preset(
        "two functions below a root port",
        (Device("pcie-root-port", "port"), *_functions("e1000e", "0", "port")),
    ),
    "switch": Preset("two NICs below the ports of a switch", _switch()),
    "unisolated-switch": Preset(
        "the same below a root port without ACS", _switch((("disable-acs", True),))
    ),
    "pci-bridge": Preset(
        "two NICs that share the bridge's stream ID",
        (
            Device("pcie-pci-bridge", "bridge"),
            Device("e1000", bus="bridge", address="1.0"),
            Device("e1000", bus="bridge", address="2.0"),
        ),
    ),
    "virtio": Preset(
        "a virtio NIC and a virtio disk whose DMA is translated",
        (
            Device("virtio-net-pci", properties=_TRANSLATED),
            Device("virtio-blk-pci", properties=_TRANSLATED),
        ),
    ),
    "virtio-siblings": Preset(
        "two virtio NICs without isolation: one group",
        _functions("virtio-net-pci", "5", properties=_TRANSLATED),
    ),
    "nvme": Preset("an NVMe disk, which QEMU cannot migrate", (Device("nvme"),)),
    "hotplug": Preset("a slot to plug a device into", (Device("pcie-root-port", "slot"),)),
    "shared-stream-id": Preset(
        "two platform devices with one stream ID", overlays=("shared-stream-id",)
    ),
    "repeated-stream-id": Preset(
        "a platform device that names one stream ID twice", overlays=("repeated-stream-id",)
    ),
    "several-stream-ids": Preset(
        "a platform device with several stream IDs", overlays=("several-stream-ids",)
    ),
    "reserved-regions": Preset(
        "a platform device with a region that is left alone and one that is mapped as it is",
        overlays=("reserved-regions",),
    ),
    "stream-id-out-of-range": Preset(
        "a platform device whose stream ID the IOMMU lacks",
        overlays=("stream-id-out-of-range",),
        broken_firmware=True,
    ),
    "half-out-of-range": Preset(
        "a platform device with a stream ID that the IOMMU has and one that it lacks",
        overlays=("half-out-of-range",),
        broken_firmware=True,
    ),
    "half-disabled-iommu": Preset(
        "a platform device with two IOMMUs, one of which firmware has disabled",
        overlays=("half-disabled-iommu",),
    ),
    "disabled-iommu": Preset(
        "a platform device whose IOMMU firmware has disabled", overlays=("disabled-iommu",)
    ),
}


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


_ACPI_MEMORY = 512  # MiB: the firmware alone takes 128


def _machine(name: str, iommu: Iommu, firmware: Firmware, *presets: str) -> Machine:
    memory = _ACPI_MEMORY if firmware == "acpi" else 256
    return with_presets(Machine(name, iommu, firmware=firmware, memory=memory), presets)


def with_presets(machine: Machine, names: tuple[str, ...]) -> Machine:
    """The machine with the presets' devices beside its own. Raises UsageError for a
    preset that does not exist."""
    for name in names:
        if name not in PRESETS:
            raise UsageError(f"no such preset: {name!r}", f"there are {', '.join(PRESETS)}")
    chosen = [PRESETS[name] for name in names]
    return replace(
        machine,
        devices=machine.devices + tuple(each for preset in chosen for each in preset.devices),
        overlays=machine.overlays + tuple(each for preset in chosen for each in preset.overlays),
        broken_firmware=machine.broken_firmware or any(each.broken_firmware for each in chosen),
    )


MACHINES = {
    machine.name: machine
    for machine in (
        _machine("smmuv3", SMMUV3, "devicetree", "nic", "clients"),
        _machine("virtio-iommu", VIRTIO_IOMMU, "devicetree", "nic"),
        _machine("smmuv3-acpi", SMMUV3, "acpi", "nic"),
        _machine("virtio-iommu-acpi", VIRTIO_IOMMU, "acpi", "nic"),
    )
}


def named(text: str) -> Machine:
    """A machine by its name, or ``MACHINE+PRESET+...`` with the presets' devices in
    place of its own. Raises UsageError for a name that does not exist and for a machine
    that cannot be."""
    name, *presets = text.split("+")
    if name not in MACHINES:
        raise UsageError(
            f"no such machine: {name!r}",
            f"use {', '.join(MACHINES)}, one of them with +PRESET, or a .toml file",
        )
    machine = MACHINES[name]
    if presets:
        bare = replace(machine, name=text, devices=(), overlays=())
        machine = with_presets(bare, tuple(presets))
    check(machine)
    return machine


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
    if machine.stage and machine.iommu is not SMMUV3:
        yield "only an SMMUv3 has stages"
    if machine.stage and machine.stage not in ("1", "2", "nested"):
        yield f"{machine.stage!r} is no stage: there are 1, 2 and nested"
    if not 64 <= machine.memory <= 65536:
        yield f"{machine.memory} MiB of memory"
    if not 1 <= machine.cpus <= 8:
        yield f"{machine.cpus} processors: use 1 to 8"
    for device in machine.devices:
        if "iommu" in device.model:
            yield f"it has an {machine.iommu.compatible} and a {device.model}, and one is the limit"
        if device.model == "arm-smmuv3" and machine.iommu is not SMMUV3:
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
