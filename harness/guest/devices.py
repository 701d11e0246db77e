# SPDX-License-Identifier: GPL-2.0-only
"""Bind, unbind, remove, rescan and hot-plug the devices of a guest.

A write that the kernel rejects raises CommandFailed, unless ``check`` is False.
"""

import contextlib
import errno
import os
import re
import shlex
import time
from collections.abc import Callable
from typing import TypeVar

from harness.errors import GuestHang, HostError
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.machine import device
from harness.machine.device import BLOCKDEV, DEVICE, NETDEV, Definition, EmulatedDevice

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_POLL = 0.01  # seconds between two reads of the guest's state

HOST_BRIDGE = "0000:00:00.0"

# The QMP command for each option of QEMU's command line.
_ADD = {NETDEV: "netdev_add", BLOCKDEV: "blockdev-add", DEVICE: "device_add"}

_REMOVE = {NETDEV: ("netdev_del", "id"), BLOCKDEV: ("blockdev-del", "node-name")}
_REMOVE_KEYS = {option: key for option, (_, key) in _REMOVE.items()}

_ERRNO = {os.strerror(number): name for number, name in errno.errorcode.items()}


def bus_of(name: str) -> str:
    """The bus of a device ("pci", "virtio" or "platform"), by the form of the device's name."""
    if _PCI_ADDRESS.fullmatch(name):
        return "pci"
    return "virtio" if re.fullmatch(r"virtio\d+", name) else "platform"


def write(guest: Guest, path: str, text: str, *, check: bool = True) -> Step:
    """Write ``text`` and a newline to a file in the guest, with one write()."""
    return guest.step(f"echo {shlex.quote(text)} > {shlex.quote(path)}", check=check)


def errno_of(step: Step) -> str:
    """The errno that a failed step printed, for example "EBUSY", or "" if it printed none."""
    for line in reversed(step.err.splitlines()):
        text = line.rpartition(": ")[2].strip()
        if text in _ERRNO.values():
            return text
        if text in _ERRNO:
            return _ERRNO[text]
    return ""


def bind(guest: Guest, name: str, driver: str, *, check: bool = True) -> Step:
    """Bind the device to the driver (bind_store)."""
    return write(guest, f"/sys/bus/{bus_of(name)}/drivers/{driver}/bind", name, check=check)


def unbind(guest: Guest, name: str, driver: str = "", *, check: bool = True) -> Step:
    """Unbind the device from ``driver``, by default its current driver (unbind_store)."""
    base = f"/sys/bus/{bus_of(name)}"
    where = f"drivers/{driver}" if driver else f"devices/{name}/driver"
    return write(guest, f"{base}/{where}/unbind", name, check=check)


def override(guest: Guest, name: str, driver: str, *, check: bool = True) -> Step:
    """Allow only ``driver`` to bind the device (driver_override); "" allows any driver."""
    path = f"/sys/bus/{bus_of(name)}/devices/{name}/driver_override"
    return write(guest, path, driver, check=check)


def probe(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Bind the device to a matching driver, if one is loaded (drivers_probe)."""
    return write(guest, f"/sys/bus/{bus_of(name)}/drivers_probe", name, check=check)


def remove(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Remove a PCI device from the kernel (remove_store)."""
    return write(guest, f"/sys/bus/pci/devices/{name}/remove", "1", check=check)


def rescan(guest: Guest, *, check: bool = True) -> Step:
    """Scan the PCI buses for new devices (rescan_store)."""
    return write(guest, "/sys/bus/pci/rescan", "1", check=check)


def wait_for(guest: Guest, what: str, holds: Callable[[State], bool]) -> State:
    """Wait until ``holds`` returns true for the guest's state, then read the state again and
    return it. ``what`` describes the condition in the message of a timeout, for example "clients
    to be bound". Raises GuestHang if the condition does not hold within the guest's limit."""
    _wait(guest.limit, what, lambda: holds(guest.state()))
    # PID 1 reads groups before devices: in the state for which the condition holds, the groups
    # may be older than the devices.
    return guest.state()


def deferred(guest: Guest) -> list[str]:
    """The names of the devices whose probe is deferred."""
    return sorted(each.name for each in guest.state().devices.values() if each.deferred)


def group_type(guest: Guest, group: int) -> str:
    """The type of the group's default domain."""
    return guest.state().groups[group].type


def plug(guest: Guest, new: EmulatedDevice, limit: float = 30.0) -> str:
    """Hot-plug a device into a slot of the running machine, and return its PCI address in the
    guest. Raises HostError if QEMU rejects the device, GuestHang if it does not appear in the
    guest within ``limit`` seconds."""
    before = set(guest.state().devices)
    name = new.id or "plugged"
    added: list[Definition] = []
    try:
        for each in device.definition(new, name):
            guest.qmp(_ADD[each.option], each.fields)
            added.append(each)
    except HostError:
        _remove_backends(guest, added)
        raise
    guest.hotplugged.add(name)
    return _wait(limit, f"{new.model} to appear", lambda: _new_pci_device(guest, before))


def unplug(guest: Guest, name: str, address: str, limit: float = 30.0) -> None:
    """Hot-unplug a device as the slot's attention button does, and wait until both the guest and
    QEMU have removed it. ``name`` is the device's ID in the machine, and ``address`` its PCI
    address. Raises HostError if QEMU rejects the unplug, GuestHang after ``limit`` seconds."""
    identity = device.identity(name)
    _wait(
        limit, f"QEMU to accept the unplug of {address}", lambda: _request_unplug(guest, identity)
    )
    # pciehp waits five seconds after the button is pressed, so that a second press can cancel.
    # Writing to the slot's power file skips this delay (pciehp_sysfs_disable_slot).
    slot = shlex.quote(address.rpartition(".")[0])
    guest.run(
        "for slot in /sys/bus/pci/slots/*; do"
        f' [ "$(cat $slot/address)" != {slot} ] || echo 0 > $slot/power; done'
    )
    _wait(limit, f"{address} to be removed", lambda: address not in guest.state().devices)
    _wait(limit, f"QEMU to remove {name}", lambda: not _exists_in_qemu(guest, identity))
    if name not in guest.hotplugged:
        guest.hotplugged.add(name)  # QEMU was started with this device
        return
    guest.hotplugged.discard(name)
    backends = (Definition(kind, {key: f"{kind}-{name}"}) for kind, key in _REMOVE_KEYS.items())
    _remove_backends(guest, list(backends))


def _exists_in_qemu(guest: Guest, identity: str) -> bool:
    """Whether QEMU still has the device. QEMU removes a device shortly after the guest has
    released it."""
    try:
        guest.qmp("qom-get", {"path": f"/machine/peripheral/{identity}", "property": "type"})
    except HostError:
        return False
    return True


def _remove_backends(guest: Guest, backends: list[Definition]) -> None:
    """Remove the backends of a device. Errors from QEMU are ignored, because a backend may not
    exist."""
    for each in backends:
        command, key = _REMOVE.get(each.option, ("", ""))
        if command:
            with contextlib.suppress(HostError):
                guest.qmp(command, {key: each.fields[key]})


def _request_unplug(guest: Guest, identity: str) -> bool:
    """Request the unplug. Returns False while the slot's power indicator still blinks after a
    previous operation (hw/pci/pcie.c, pcie_cap_slot_unplug_request_cb)."""
    try:
        guest.qmp("device_del", {"id": identity})
    except HostError as error:
        if "blinking" not in error.message:
            raise
        return False
    return True


def _new_pci_device(guest: Guest, before: set[str]) -> str:
    found = guest.state().devices.keys() - before
    return next((name for name in sorted(found) if _PCI_ADDRESS.fullmatch(name)), "")


T = TypeVar("T")


def _wait(limit: float, what: str, check: Callable[[], T]) -> T:
    """Call ``check`` until it returns a true value, and return that value. Raises GuestHang after
    ``limit`` seconds."""
    ends = time.monotonic() + limit
    while not (found := check()):
        if time.monotonic() > ends:
            raise GuestHang(f"timed out after {limit:.0f} s waiting for {what}")
        time.sleep(_POLL)
    return found
