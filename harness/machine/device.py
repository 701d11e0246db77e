# SPDX-License-Identifier: GPL-2.0-only
"""PCI devices as data, for QEMU's command line and, if they are hot-plugged, for QMP."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Options of QEMU's command line. Each corresponds to a QMP command.
NETDEV, BLOCKDEV, DEVICE = "netdev", "blockdev", "device"

_DISK_BYTES = 64 << 20


# The properties of a device, with QEMU's names.
Properties = tuple[tuple[str, str | int | bool], ...]


@dataclass(frozen=True, slots=True)
class EmulatedDevice:
    """A PCI device.

    ``model`` is QEMU's name for the device model. ``bus`` is the id of the bridge above the device,
    "" for the root bus. ``address`` is its slot and function, such as "5.1", or "" if QEMU chooses
    them. ``properties`` are pairs of QEMU's names and values.
    """

    model: str
    id: str = ""
    bus: str = ""
    address: str = ""
    properties: Properties = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """An object for QEMU to create: an ``option`` of its command line (NETDEV, ...) and the
    ``fields``."""

    option: str
    fields: dict[str, Any]


# The backends of the devices. The user network is restricted, so a guest cannot reach the host.
# The disk reads as zeroes and does not store what is written.
_NETWORK = Definition(NETDEV, {"type": "user", "restrict": True})
_DISK = Definition(BLOCKDEV, {"driver": "null-co", "size": _DISK_BYTES, "read-zeroes": True})

_BACKENDS = {
    "e1000": _NETWORK,
    "e1000e": _NETWORK,
    "virtio-net-pci": _NETWORK,
    "virtio-blk-pci": _DISK,
    "nvme": _DISK,
}

# The properties for the id of the backend, in the device and in the backend itself.
_LINKS = {NETDEV: ("netdev", "id"), BLOCKDEV: ("drive", "node-name")}

# Properties that QEMU requires (serial), or that save time: no guest boots from a device's
# ROM.
_FIXED: dict[str, dict[str, Any]] = {
    "e1000": {"romfile": ""},
    "e1000e": {"romfile": ""},
    "virtio-net-pci": {"romfile": ""},
    "nvme": {"serial": "harness"},
}

# Models with a bus below them. A root port has one slot.
BRIDGES = (
    *("pcie-root-port", "ioh3420", "x3130-upstream", "xio3130-downstream"),
    *("pcie-pci-bridge", "i82801b11-bridge", "pci-bridge", "pxb-pcie"),
)

# QEMU rejects the migration of nvme, and silently loses the state of edu.
UNMIGRATABLE = ("nvme", "edu")


# The drivers of the models that are NICs.
NIC_DRIVERS = {"e1000": "e1000", "e1000e": "e1000e", "virtio-net-pci": "virtio_net"}

# The drivers of all clients, without PCIe ports, which have built-in drivers.
CLIENT_DRIVERS = {**NIC_DRIVERS, "virtio-blk-pci": "virtio_blk", "nvme": "nvme"}


def definitions(devices: Sequence[EmulatedDevice]) -> Iterator[Definition]:
    """Yield the definitions of all ``devices``, in the order in which QEMU needs them."""
    for number, device in enumerate(devices):
        yield from definition(device, device.id or f"{number}")


def identity(name: str) -> str:
    """The id in QEMU of a machine's device ``name``. It has a prefix, because QEMU aborts on a
    root port with the id "slot", which is also the name of one of its properties."""
    return f"dev-{name}"


def definition(device: EmulatedDevice, name: str) -> Iterator[Definition]:
    """Yield the definition of the device with the id ``name``, after its backend if it
    needs one."""
    fields: dict[str, Any] = {"driver": device.model, "id": identity(name)}
    if device.bus:
        fields["bus"] = identity(device.bus)
    if device.address:
        fields["addr"] = device.address
    backend = _BACKENDS.get(device.model)
    if backend:
        link, key = _LINKS[backend.option]
        fields[link] = f"{backend.option}-{name}"
        yield Definition(backend.option, {**backend.fields, key: fields[link]})
    fields |= _FIXED.get(device.model, {}) | dict(device.properties)
    yield Definition(DEVICE, fields)
