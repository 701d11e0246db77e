# SPDX-License-Identifier: GPL-2.0-only
"""Machines and presets by name, for example ``smmuv3`` and ``virtio-iommu+switch``."""

from dataclasses import replace

from harness.errors import UsageError
from harness.iommu.drivers import SMMUV3, VIRTIO_IOMMU
from harness.machine import topology
from harness.machine.device import EmulatedDevice, Properties
from harness.machine.topology import Firmware, Iommu, Machine, Preset


def _functions(
    model: str, slot: str, bus: str = "", properties: Properties = ()
) -> tuple[EmulatedDevice, ...]:
    """Two functions of one slot. Only function 0 has the multifunction bit set."""
    first = (*properties, ("multifunction", True))
    return (
        EmulatedDevice(model, bus=bus, address=f"{slot}.0", properties=first),
        EmulatedDevice(model, bus=bus, address=f"{slot}.1", properties=properties),
    )


def _switch(root: Properties = ()) -> tuple[EmulatedDevice, ...]:
    """A switch below a root port, with a NIC below each of its two downstream ports."""
    ports = [
        EmulatedDevice("xio3130-downstream", f"down{slot}", "up", properties=(("slot", slot),))
        for slot in (1, 2)
    ]
    return (
        EmulatedDevice("pcie-root-port", "port", properties=root),
        EmulatedDevice("x3130-upstream", "up", "port"),
        *ports,
        *(EmulatedDevice("e1000e", bus=port.id) for port in ports),
    )


# Modern virtio devices are behind the IOMMU; legacy ones bypass it.
_TRANSLATED: Properties = (("iommu_platform", True), ("disable-legacy", "on"))

PRESETS = {
    "nic": Preset("one NIC on the root bus", (EmulatedDevice("e1000e"),)),
    "clients": Preset("two platform devices", overlays=("platform-clients",)),
    "multifunction": Preset("two functions of a NIC that share a group", _functions("e1000", "5")),
    "isolated-functions": Preset(
        "two functions of a NIC that an ACS quirk isolates", _functions("e1000e", "5")
    ),
    "root-port": Preset(
        "two functions of a NIC below a root port",
        (EmulatedDevice("pcie-root-port", "port"), *_functions("e1000e", "0", "port")),
    ),
    "switch": Preset("two NICs below different ports of a switch", _switch()),
    "unisolated-switch": Preset(
        "two NICs below a switch and a root port without ACS", _switch((("disable-acs", True),))
    ),
    "pci-bridge": Preset(
        "two NICs that share the stream ID of a PCI bridge",
        (
            EmulatedDevice("pcie-pci-bridge", "bridge"),
            EmulatedDevice("e1000", bus="bridge", address="1.0"),
            EmulatedDevice("e1000", bus="bridge", address="2.0"),
        ),
    ),
    "virtio": Preset(
        "a virtio NIC and a virtio disk behind the IOMMU",
        (
            EmulatedDevice("virtio-net-pci", properties=_TRANSLATED),
            EmulatedDevice("virtio-blk-pci", properties=_TRANSLATED),
        ),
    ),
    "virtio-siblings": Preset(
        "two functions of a virtio NIC that share a group",
        _functions("virtio-net-pci", "5", properties=_TRANSLATED),
    ),
    "nvme": Preset("an NVMe disk, which QEMU cannot migrate", (EmulatedDevice("nvme"),)),
    "hotplug": Preset("an empty slot for hot-plug", (EmulatedDevice("pcie-root-port", "slot"),)),
    "shared-stream-id": Preset(
        "two platform devices with the same stream ID", overlays=("shared-stream-id",)
    ),
    "repeated-stream-id": Preset(
        "a platform device that lists one stream ID twice", overlays=("repeated-stream-id",)
    ),
    "several-stream-ids": Preset(
        "a platform device with several stream IDs", overlays=("several-stream-ids",)
    ),
    "reserved-regions": Preset(
        "a platform device with a reserved region and a direct-mapped region",
        overlays=("reserved-regions",),
    ),
    "stream-id-out-of-range": Preset(
        "a platform device with a stream ID that is out of the IOMMU's range",
        overlays=("stream-id-out-of-range",),
        broken_firmware=True,
    ),
    "half-out-of-range": Preset(
        "a platform device with a valid stream ID and one that is out of the IOMMU's range",
        overlays=("half-out-of-range",),
        broken_firmware=True,
    ),
    "half-disabled-iommu": Preset(
        "a platform device with two IOMMUs, one of them disabled by firmware",
        overlays=("half-disabled-iommu",),
    ),
    "disabled-iommu": Preset(
        "a platform device whose IOMMU is disabled by firmware", overlays=("disabled-iommu",)
    ),
}


_ACPI_MEMORY = 512  # MiB, of which the firmware uses 128


def _machine(name: str, iommu: Iommu, firmware: Firmware, *presets: str) -> Machine:
    memory = _ACPI_MEMORY if firmware == "acpi" else 256
    return with_presets(Machine(name, iommu, firmware=firmware, memory=memory), presets)


def with_presets(machine: Machine, names: tuple[str, ...]) -> Machine:
    """Return the machine with the devices of these presets added. Raises UsageError for an
    unknown preset."""
    for name in names:
        if name not in PRESETS:
            raise UsageError(f"unknown preset {name!r}", f"known presets: {', '.join(PRESETS)}")
    chosen = [PRESETS[name] for name in names]
    return replace(
        machine,
        devices=machine.devices + tuple(each for preset in chosen for each in preset.devices),
        overlays=machine.overlays + tuple(each for preset in chosen for each in preset.overlays),
        broken_firmware=machine.broken_firmware or any(each.broken_firmware for each in chosen),
    )


# The default machine of commands that use one machine, and the default machines of commands that
# use several.
DEFAULT = "smmuv3"
DEFAULTS = (DEFAULT, "virtio-iommu")

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
    """Return the machine of this name. In ``MACHINE+PRESET+...``, the devices of the presets
    replace the devices of the machine. Raises UsageError for an unknown name, and for a machine
    that QEMU cannot emulate."""
    name, *presets = text.split("+")
    if name not in MACHINES:
        raise UsageError(
            f"unknown machine {name!r}",
            f"use one of {', '.join(MACHINES)}, one of these with +PRESET, or a .toml file",
        )
    machine = MACHINES[name]
    if presets:
        bare = replace(machine, name=text, devices=(), overlays=())
        machine = with_presets(bare, tuple(presets))
    topology.check(machine)
    return machine
