# SPDX-License-Identifier: GPL-2.0-only
"""VFIO in a guest, by guest-scripts/commands/vfio.c: who may own the DMA of a group."""

import shlex
from dataclasses import dataclass
from typing import Literal

from harness.guest import devices
from harness.guest.guest import Guest, Step
from harness.guest.state import State

Way = Literal["group", "groups", "remap", "compat", "cdev", "move", "return", "replace"]

# Those by the devices' own files.
_BY_DEVICE = ("cdev", "move", "return", "replace")

# The option of a kernel that has users of that way; all have the others.
NEEDS = {"compat": "IOMMUFD"} | dict.fromkeys(_BY_DEVICE, "VFIO_DEVICE_CDEV")

# The first address that a user maps, and one that who returns maps beside it.
MAPPED_AT, HIGH_AT = 0x100000, 0x100100000

# For a warm guest: what ``give`` would load. vfio_iommu_type1 is a soft dependency of vfio,
# which busybox's modprobe does not know.
WARM_UP = ("modprobe vfio-pci", "modprobe vfio_iommu_type1")


def give(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Hands a PCI device to vfio-pci, whoever has it; returns the step that bound it."""
    device = f"/sys/bus/pci/devices/{shlex.quote(name)}"
    guest.run(
        f"{'; '.join(WARM_UP)}; echo vfio-pci > {device}/driver_override;"
        f" [ ! -e {device}/driver ] || echo {shlex.quote(name)} > {device}/driver/unbind"
    )
    return devices.probe(guest, name, check=check)


def spare_resets(guest: Guest, name: str) -> None:
    """Has users open and close the device without a reset, which is 50 ms of waiting: a PCI
    device's reset_method, since 5.15. A device that comes anew is reset again."""
    file = f"/sys/bus/pci/devices/{shlex.quote(name)}/reset_method"
    guest.run(f"[ ! -e {file} ] || echo > {file}")


def take_back(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Gives the device back to the driver that the kernel has for it."""
    devices.unbind(guest, name, check=check)
    devices.override(guest, name, "", check=check)
    return devices.probe(guest, name, check=check)


def viable(guest: Guest, group: int, *, check: bool = True) -> Step:
    """Prints "viable" when all devices of the group have left their kernel drivers."""
    step = guest.step(f"vfio viable {group}")
    return step.check() if check else step


def words(state: State, way: Way, *names: str) -> list[str]:
    """What ``use`` and ``hold`` call these devices, which have groups."""
    if way in _BY_DEVICE:
        return list(names)
    numbers = [str(state.devices[name].group) for name in names]
    return numbers if way == "groups" else [numbers[0], names[0]]


def use(guest: Guest, way: Way, *what: str | int, check: bool = True) -> Step:
    """Opens a device, maps memory and ends, as guest-scripts/commands/vfio.c has it: "group",
    "remap" (which maps it twice) and "compat" (with an iommufd as its container) require a
    group's number and, to open more than the group, a device; "groups" requires several
    numbers, "cdev" and "move" devices, and "return" and "replace" one device. The status is
    the errno of the step that failed, which stderr names."""
    step = guest.step(shlex.join(["vfio", "open", way, *map(str, what)]))
    return step.check() if check else step


@dataclass(frozen=True, slots=True)
class Holder:
    """A process of the guest that keeps a device open."""

    guest: Guest
    pid: int

    def kill(self) -> Step:
        """Ends it as an accident would; returns when the kernel has closed its files."""
        wait = f"while kill -0 {self.pid} 2>/dev/null; do usleep 1000; done"
        return self.guest.step(f"kill -9 {self.pid}; {wait}")


def hold(
    guest: Guest, way: Way, *what: str | int, check: bool = True
) -> tuple[Step, Holder | None]:
    """Opens in the background what ``use`` would; no holder when that fails."""
    step = guest.step(shlex.join(["vfio", "hold", way, *map(str, what)]))
    if check:
        step.check()
    return step, Holder(guest, int(step.out)) if step.status == 0 else None
