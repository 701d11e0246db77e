# SPDX-License-Identifier: GPL-2.0-only
"""Send traffic through a NIC of a guest, and count in QEMU's trace events how many of the NIC's
DMA accesses the IOMMU translated."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.errors import GuestError
from harness.guest.guest import Guest

# The gateway of QEMU's user network, which answers pings even on a restricted network.
_GATEWAY = "10.0.2.2"
_ADDRESS = "10.0.2.15/24"

# QEMU's e1000e uses a timer of 2.4 s for autonegotiation, which starts when its interface is up.
_CARRIER_TRIES = 1000  # every 10 ms

_STREAM_ID = re.compile(r"\bsid ?= ?(0x[0-9a-f]+|\d+)")


@dataclass(frozen=True, slots=True)
class Ping:
    """The result of a ping.

    ``answered`` is whether the gateway replied. ``translated`` is the number of the NIC's
    accesses that the IOMMU translated meanwhile, by QEMU's trace events. ``text`` is the output
    of the program ping."""

    answered: bool
    translated: int
    text: str


def requester_ids(address: str) -> set[int]:
    """The requester IDs that DMA from the PCI device at ``address`` may carry: its own (bus, device
    and function in 16 bits) and, unless the device is on bus 0, the ID that a PCIe-to-PCI bridge
    would substitute (its secondary bus, device 0, function 0)."""
    _, bus, rest = address.split(":")
    slot, function = rest.split(".")
    own = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
    return {own, own & 0xFF00} if int(bus, 16) else {own}


def ping(guest: Guest, address: str) -> Ping:
    """Ping the gateway through the NIC at the PCI ``address``, which must be bound to a driver.

    Raises GuestError if the NIC has no network interface, or no carrier after 10 seconds.
    """
    interface = _up(guest, address)
    with dma_traced(guest) as trace:
        reply = guest.run(f"ping -c 1 -W 5 -I {interface} {_GATEWAY}")
    translated = trace.count(requester_ids(address))
    return Ping(reply.status == 0, translated, reply.out + reply.err)


def _up(guest: Guest, address: str) -> str:
    """Configure the NIC's interface, wait for its carrier, and return the interface's name."""
    out = guest.run(f"ls -d /sys/bus/pci/devices/{address}/net/* " + _VIRTIO.format(address)).out
    names = [line.rpartition("/")[2] for line in out.split()]
    if not names:
        raise GuestError(f"{address} has no network interface", "bind a driver to it first")
    name = names[0]
    guest.run(f"ip link set {name} up; ip addr add {_ADDRESS} dev {name}")
    wait = (
        f'n={_CARRIER_TRIES}; until [ $n = 0 ] || [ "$(cat /sys/class/net/{name}/carrier)" = 1 ];'
        " do n=$((n - 1)); usleep 10000; done; [ $n != 0 ]"
    )
    if guest.run(wait).status != 0:
        raise GuestError(f"{name} ({address}) has no carrier after 10 s")
    return name


# The interface of a virtio NIC is below its virtio device.
_VIRTIO = "/sys/bus/pci/devices/{}/virtio*/net/* 2>/dev/null"


@dataclass(slots=True)
class DmaTrace:
    """The ``lines`` of QEMU's trace. They are complete when the block of ``traced`` has ended."""

    lines: list[str] = field(default_factory=list)

    def count(self, stream_ids: set[int]) -> int:
        """The number of lines with one of these stream IDs."""
        found = (_STREAM_ID.search(line) for line in self.lines)
        return sum(match is not None and int(match[1], 0) in stream_ids for match in found)

    def values(self, name: str) -> list[int]:
        """The values of the field ``name``, in the order of the lines: 3 for "asid=3"."""
        pattern = re.compile(rf"\b{re.escape(name)} ?= ?(0x[0-9a-f]+|\d+)")
        found = (pattern.search(line) for line in self.lines)
        return [int(match[1], 0) for match in found if match]


def dma_traced(guest: Guest) -> contextlib.AbstractContextManager[DmaTrace]:
    """Trace each translation by the IOMMU in QEMU, until the block ends."""
    return traced(guest, *guest.machine.iommu.translates)


@contextlib.contextmanager
def traced(guest: Guest, *events: str) -> Iterator[DmaTrace]:
    """Enable these QEMU trace events, and disable them when the block ends. The DmaTrace then has
    their lines."""
    begin = guest.qemu_log.stat().st_size
    trace = DmaTrace()
    _enable(guest, events, on=True)
    try:
        yield trace
    finally:
        # If the guest has died, the error that ended the block states the reason.
        with contextlib.suppress(GuestError):
            _enable(guest, events, on=False)
        with guest.qemu_log.open("rb") as log:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()
        trace.lines += [line for line in lines if any(event in line for event in events)]


def _enable(guest: Guest, events: tuple[str, ...], *, on: bool) -> None:
    for event in events:
        guest.qmp("trace-event-set-state", {"name": event, "enable": on})
