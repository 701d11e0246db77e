# SPDX-License-Identifier: GPL-2.0-only
"""PCI devices as data: what QEMU takes on its command line, and over QMP when a
device is plugged into a running guest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Options of QEMU's command line; each has a QMP command that does the same.
NETDEV, BLOCKDEV, DEVICE = "netdev", "blockdev", "device"

_DISK_BYTES = 64 << 20


# Of a device, as QEMU names them.
Properties = tuple[tuple[str, str | int | bool], ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A PCI device: ``model`` as QEMU calls it, behind the bridge ``bus`` (its id; ""
    is the root bus), at ``address`` ("5.1" is slot and function; "" has QEMU choose).
    ``properties`` are QEMU's, by name."""

    model: str
    id: str = ""
    bus: str = ""
    address: str = ""
    properties: Properties = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """One object to make: the ``option`` (NETDEV, ...) and what it is told."""

    option: str
    fields: dict[str, Any]


# What is at a device's other end. A user network, restricted: a guest reaches
# nothing of this host. A disk that reads as zeroes and keeps nothing.
_NETWORK = Definition(NETDEV, {"type": "user", "restrict": True})
_DISK = Definition(BLOCKDEV, {"driver": "null-co", "size": _DISK_BYTES, "read-zeroes": True})

_BACKENDS = {
    "e1000": _NETWORK,
    "e1000e": _NETWORK,
    "virtio-net-pci": _NETWORK,
    "virtio-blk-pci": _DISK,
    "nvme": _DISK,
}

# The name of the backend in the device's own properties, and in its definition.
_LINKS = {NETDEV: ("netdev", "id"), BLOCKDEV: ("drive", "node-name")}

# What QEMU insists on, or what only costs time: nothing boots from these devices.
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

# QEMU refuses to migrate nvme, and loses the state of edu without a word.
UNMIGRATABLE = ("nvme", "edu")


# What drives the NICs among the models.
NIC_DRIVERS = {"e1000": "e1000", "e1000e": "e1000e", "virtio-net-pci": "virtio_net"}

# And the others that are behind an IOMMU; ports' drivers are built in.
DRIVERS = {**NIC_DRIVERS, "virtio-blk-pci": "virtio_blk", "nvme": "nvme"}


def definitions(devices: Sequence[Device]) -> Iterator[Definition]:
    """All that makes ``devices``, each after what it needs."""
    for number, device in enumerate(devices):
        yield from definition(device, device.id or f"{number}")


def identity(name: str) -> str:
    """What QEMU calls the device that a machine calls ``name``. Not the same: QEMU aborts
    on a root port called "slot", which is one of its properties."""
    return f"dev-{name}"


def definition(device: Device, name: str) -> Iterator[Definition]:
    """The device, called ``name``, and its other end before it."""
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
