# SPDX-License-Identifier: GPL-2.0-only
"""Devices of a guest: bind, unbind, remove, rescan, hot-plug.

A write that the kernel refuses raises CommandFailed, unless ``check`` is False.
"""

import contextlib
import errno
import os
import re
import shlex
import time
from collections.abc import Callable

from harness.errors import GuestHang, HostError
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.machine import device
from harness.machine.device import BLOCKDEV, DEVICE, NETDEV, Definition, Device

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_POLL = 0.01  # seconds between two looks at a guest that is about to change

HOST_BRIDGE = "0000:00:00.0"

# QMP's command for each option of the command line.
_ADD = {NETDEV: "netdev_add", BLOCKDEV: "blockdev-add", DEVICE: "device_add"}

_REMOVE = {NETDEV: ("netdev_del", "id"), BLOCKDEV: ("blockdev-del", "node-name")}
_REMOVE_KEYS = {option: key for option, (_, key) in _REMOVE.items()}

_ERRNO = {os.strerror(number): name for number, name in errno.errorcode.items()}


def bus_of(name: str) -> str:
    """The bus that a device with such a name is on."""
    if _PCI_ADDRESS.fullmatch(name):
        return "pci"
    return "virtio" if re.fullmatch(r"virtio\d+", name) else "platform"


def write(guest: Guest, path: str, text: str, *, check: bool = True) -> Step:
    """Writes ``text`` to a file of the guest, in one write."""
    step = guest.step(f"echo {shlex.quote(text)} > {shlex.quote(path)}")
    return step.check() if check else step


def errno_of(step: Step) -> str:
    """What the kernel answered to a step that failed: "EBUSY"; "" where it told none."""
    for line in reversed(step.err.splitlines()):
        said = line.rpartition(": ")[2].strip()
        if said in _ERRNO.values():
            return said
        if said in _ERRNO:
            return _ERRNO[said]
    return ""


def bind(guest: Guest, name: str, driver: str, *, check: bool = True) -> Step:
    """Binds the device to the driver (bind_store)."""
    return write(guest, f"/sys/bus/{bus_of(name)}/drivers/{driver}/bind", name, check=check)


def unbind(guest: Guest, name: str, driver: str = "", *, check: bool = True) -> Step:
    """Unbinds the device from ``driver``, or from the one that it has (unbind_store)."""
    base = f"/sys/bus/{bus_of(name)}"
    where = f"drivers/{driver}" if driver else f"devices/{name}/driver"
    return write(guest, f"{base}/{where}/unbind", name, check=check)


def override(guest: Guest, name: str, driver: str, *, check: bool = True) -> Step:
    """Lets only ``driver`` bind the device from now on (driver_override); "" ends that."""
    path = f"/sys/bus/{bus_of(name)}/devices/{name}/driver_override"
    return write(guest, path, driver, check=check)


def probe(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Makes the bus find a driver for the device (drivers_probe)."""
    return write(guest, f"/sys/bus/{bus_of(name)}/drivers_probe", name, check=check)


def remove(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Removes a PCI device from the kernel (remove_store)."""
    return write(guest, f"/sys/bus/pci/devices/{name}/remove", "1", check=check)


def rescan(guest: Guest, *, check: bool = True) -> Step:
    """Makes the kernel scan the PCI buses for devices (rescan_store)."""
    return write(guest, "/sys/bus/pci/rescan", "1", check=check)


def wait_for(guest: Guest, what: str, holds: Callable[[State], bool]) -> State:
    """What the guest shows once ``what`` holds. Raises GuestHang when that does not come
    within the guest's limit."""
    ends = time.monotonic() + guest.limit
    while not holds(guest.state()):
        if time.monotonic() > ends:
            raise GuestHang(f"the guest has waited {guest.limit:.0f} s for {what}")
        time.sleep(_POLL)
    # A state is looked up piece by piece: groups before the devices that held.
    return guest.state()


def deferred(guest: Guest) -> list[str]:
    """The devices that wait for something before they can be probed."""
    return sorted(each.name for each in guest.state().devices.values() if each.deferred)


def group_type(guest: Guest, group: int) -> str:
    """The type of the group's default domain."""
    return guest.state().groups[group].type


def plug(guest: Guest, wanted: Device, limit: float = 30.0) -> str:
    """Plugs a device into a slot of the running machine; returns the PCI address that
    the guest gave it. Raises HostError when QEMU refuses, GuestHang when the guest has
    not seen it within ``limit`` seconds."""
    before = set(guest.state().devices)
    name = wanted.id or "plugged"
    made: list[Definition] = []
    try:
        for each in device.definition(wanted, name):
            guest.qmp(_ADD[each.option], each.fields)
            made.append(each)
    except HostError:
        _drop(guest, made)
        raise
    guest.hotplugged.add(name)
    return _wait(limit, f"{wanted.model} to appear", lambda: _appeared(guest, before))


def pull(guest: Guest, name: str, address: str, limit: float = 30.0) -> None:
    """Asks the guest to give up the device that the machine calls ``name``, as the slot's
    button does, and waits until it has. Raises as ``plug``."""
    identity = device.identity(name)
    _wait(limit, f"{address} to be free", lambda: "free" if _asked_out(guest, identity) else "")
    # After the button pciehp waits five seconds for second thoughts. The slot's own file ends
    # that (pciehp_sysfs_disable_slot).
    slot = shlex.quote(address.rpartition(".")[0])
    guest.run(
        "for slot in /sys/bus/pci/slots/*; do"
        f' [ "$(cat $slot/address)" != {slot} ] || echo 0 > $slot/power; done'
    )
    gone = f"{address} to go"
    _wait(limit, gone, lambda: "" if address in guest.state().devices else "gone")
    _wait(limit, f"QEMU to let go of {name}", lambda: "" if _known(guest, identity) else "gone")
    if name not in guest.hotplugged:
        guest.hotplugged.add(name)  # QEMU was started with it
        return
    guest.hotplugged.discard(name)
    ends = (Definition(kind, {key: f"{kind}-{name}"}) for kind, key in _REMOVE_KEYS.items())
    _drop(guest, list(ends))


def _known(guest: Guest, identity: str) -> bool:
    """Whether QEMU has the device: it goes a moment after the guest has let it go."""
    try:
        guest.qmp("qom-get", {"path": f"/machine/peripheral/{identity}", "property": "type"})
    except HostError:
        return False
    return True


def _drop(guest: Guest, made: list[Definition]) -> None:
    """Takes the other ends of devices away; a kind that the device had not is refused."""
    for each in made:
        command, key = _REMOVE.get(each.option, ("", ""))
        if command:
            with contextlib.suppress(HostError):
                guest.qmp(command, {key: each.fields[key]})


def _asked_out(guest: Guest, identity: str) -> bool:
    """False while the slot's lamp still blinks from what was done before
    (hw/pci/pcie.c, pcie_cap_slot_unplug_request_cb)."""
    try:
        guest.qmp("device_del", {"id": identity})
    except HostError as error:
        if "blinking" not in error.message:
            raise
        return False
    return True


def _appeared(guest: Guest, before: set[str]) -> str:
    found = guest.state().devices.keys() - before
    return next((name for name in sorted(found) if _PCI_ADDRESS.fullmatch(name)), "")


def _wait(limit: float, what: str, look: Callable[[], str]) -> str:
    ends = time.monotonic() + limit
    while not (found := look()):
        if time.monotonic() > ends:
            raise GuestHang(f"the guest has waited {limit:.0f} s for {what}")
        time.sleep(_POLL)
    return found
