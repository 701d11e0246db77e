# SPDX-License-Identifier: GPL-2.0-only
"""Traffic through a NIC of a guest, and QEMU as the witness from outside that its DMA
was translated."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.errors import GuestError
from harness.guest.guest import Guest

# The gateway of QEMU's user network answers by itself, restricted or not.
_GATEWAY = "10.0.2.2"
_ADDRESS = "10.0.2.15/24"

# An e1000e negotiates for 2.4 s after it is set up, by QEMU's own timer.
_CARRIER_TRIES = 1000

_STREAM_ID = re.compile(r"\bsid ?= ?(0x[0-9a-f]+|\d+)")


@dataclass(frozen=True, slots=True)
class Ping:
    """``answered`` by the gateway; ``translated`` accesses of the NIC that went through
    the IOMMU meanwhile, as QEMU traced them; ``text`` is what ping said."""

    answered: bool
    translated: int
    text: str


def requesters(address: str) -> set[int]:
    """The stream IDs that a PCI device's DMA may have: its own bus, device and function
    in 16 bits, and those that a bridge to conventional PCI puts in their place."""
    _, bus, rest = address.split(":")
    slot, function = rest.split(".")
    own = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
    return {own, own & 0xFF00} if int(bus, 16) else {own}


def ping(guest: Guest, address: str) -> Ping:
    """Pings the gateway through the NIC at the PCI ``address``, which has a driver.

    Raises GuestError when the NIC has no interface or gets no carrier.
    """
    interface = _up(guest, address)
    with witnessed(guest) as witness:
        reply = guest.run(f"ping -c 1 -W 5 -I {interface} {_GATEWAY}")
    translated = witness.count(requesters(address))
    text = reply.out + reply.err
    return Ping(reply.status == 0, translated, text)


def _up(guest: Guest, address: str) -> str:
    """The NIC's interface, with an address and a carrier."""
    out = guest.run(f"ls -d /sys/bus/pci/devices/{address}/net/* " + _VIRTIO.format(address)).out
    names = [line.rpartition("/")[2] for line in out.split()]
    if not names:
        raise GuestError(f"{address} has no network interface: has it a driver?")
    name = names[0]
    guest.run(f"ip link set {name} up; ip addr add {_ADDRESS} dev {name}")
    wait = (
        f'n={_CARRIER_TRIES}; until [ $n = 0 ] || [ "$(cat /sys/class/net/{name}/carrier)" = 1 ];'
        " do n=$((n - 1)); usleep 10000; done; [ $n != 0 ]"
    )
    if guest.run(wait).status != 0:
        raise GuestError(f"{name} of {address} gets no carrier")
    return name


# A virtio NIC's interface belongs to its virtio device.
_VIRTIO = "/sys/bus/pci/devices/{}/virtio*/net/* 2>/dev/null"


@dataclass(slots=True)
class Witness:
    """The ``lines`` that QEMU has traced while it was asked to."""

    lines: list[str] = field(default_factory=list)

    def count(self, stream_ids: set[int]) -> int:
        """The accesses under one of these stream IDs."""
        found = (_STREAM_ID.search(line) for line in self.lines)
        return sum(match is not None and int(match[1], 0) in stream_ids for match in found)

    def values(self, name: str) -> list[int]:
        """What each line says of ``name``, as in "asid=3"."""
        pattern = re.compile(rf"\b{re.escape(name)} ?= ?(0x[0-9a-f]+|\d+)")
        found = (pattern.search(line) for line in self.lines)
        return [int(match[1], 0) for match in found if match]


def witnessed(guest: Guest) -> contextlib.AbstractContextManager[Witness]:
    """QEMU traces each translation meanwhile; the witness speaks afterwards."""
    return traced(guest, *guest.machine.iommu.translates)


@contextlib.contextmanager
def traced(guest: Guest, *events: str) -> Iterator[Witness]:
    """QEMU traces the events, by its own names for them, meanwhile."""
    begin = guest.qemu_log.stat().st_size
    witness = Witness()
    _trace(guest, events, on=True)
    try:
        yield witness
    finally:
        # A guest that has died meanwhile is told by what killed it.
        with contextlib.suppress(GuestError):
            _trace(guest, events, on=False)
        with guest.qemu_log.open("rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()
        witness.lines += [line for line in lines if any(event in line for event in events)]


def _trace(guest: Guest, events: tuple[str, ...], *, on: bool) -> None:
    for event in events:
        guest.qmp("trace-event-set-state", {"name": event, "enable": on})
