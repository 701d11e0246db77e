# SPDX-License-Identifier: GPL-2.0-only
"""VFIO in a guest: bind devices to vfio-pci, and run users of them, which are processes of
guest-scripts/commands/vfio.c.
"""

import shlex
from dataclasses import dataclass
from typing import Literal

from harness.guest import devices
from harness.guest.guest import Guest, Step
from harness.guest.state import State

# What a user does; guest-scripts/commands/vfio.c describes each mode.
Mode = Literal["group", "groups", "remap", "compat", "cdev", "move", "return", "replace"]

# The modes that open the character devices of devices.
_BY_DEVICE = ("cdev", "move", "return", "replace")

# The kernel option that a mode requires; the other modes work with any.
REQUIRED_OPTIONS = {"compat": "IOMMUFD"} | dict.fromkeys(_BY_DEVICE, "VFIO_DEVICE_CDEV")

# The first address that a user maps, and one that mode "return" maps as well.
MAPPED_AT, HIGH_AT = 0x100000, 0x100100000

# For a warm guest: the modules that ``bind_vfio`` loads. vfio_iommu_type1 is a soft dependency
# of vfio, and busybox's modprobe ignores those.
WARM_UP = ("modprobe vfio-pci", "modprobe vfio_iommu_type1")


def bind_vfio(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Bind a PCI device to vfio-pci, unbinding its driver first; the step of the binding."""
    device = f"/sys/bus/pci/devices/{shlex.quote(name)}"
    guest.run(
        f"{'; '.join(WARM_UP)}; echo vfio-pci > {device}/driver_override;"
        f" [ ! -e {device}/driver ] || echo {shlex.quote(name)} > {device}/driver/unbind"
    )
    return devices.probe(guest, name, check=check)


def unbind_vfio(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Unbind the device from vfio-pci, and bind the driver that the kernel has for it."""
    devices.unbind(guest, name, check=check)
    devices.override(guest, name, "", check=check)
    return devices.probe(guest, name, check=check)


def disable_reset(guest: Guest, name: str) -> None:
    """Disable the reset of a PCI device when users open and close it, which takes 50 ms:
    its reset_method, since 5.15. Re-adding the device enables the reset again."""
    file = f"/sys/bus/pci/devices/{shlex.quote(name)}/reset_method"
    guest.run(f"[ ! -e {file} ] || echo > {file}")


def viable(guest: Guest, group: int, *, check: bool = True) -> Step:
    """Print "viable" if no device of the group is bound to a kernel driver."""
    return guest.step(f"vfio viable {group}", check=check)


def arguments(state: State, mode: Mode, *names: str) -> list[str]:
    """The arguments of ``run_user`` and ``start_user`` for these devices, which have groups."""
    if mode in _BY_DEVICE:
        return list(names)
    numbers = [str(state.devices[name].group) for name in names]
    return numbers if mode == "groups" else [numbers[0], names[0]]


def run_user(guest: Guest, mode: Mode, *what: str | int, check: bool = True) -> Step:
    """Run a process that opens a device, maps memory and exits.

    The modes "group", "remap" (which maps twice) and "compat" (with an iommufd as the
    container) take a group's number and, to open more than the group, a device; "groups" takes
    several numbers, "cdev" and "move" devices, "return" and "replace" one device. The status
    is the errno of the call that failed, which stderr names."""
    return guest.step(shlex.join(["vfio", "open", mode, *map(str, what)]), check=check)


@dataclass(frozen=True, slots=True)
class User:
    """A process of the guest that keeps a device open."""

    guest: Guest
    pid: int

    def kill(self) -> Step:
        """Kill it with SIGKILL; return once the kernel has closed its files."""
        wait = f"while kill -0 {self.pid} 2>/dev/null; do usleep 1000; done"
        return self.guest.step(f"kill -9 {self.pid}; {wait}")


def start_user(
    guest: Guest, mode: Mode, *what: str | int, check: bool = True
) -> tuple[Step, User | None]:
    """Start in the background what ``run_user`` runs, and keep the device open. There is no
    user if that fails."""
    step = guest.step(shlex.join(["vfio", "hold", mode, *map(str, what)]), check=check)
    return step, User(guest, int(step.out)) if step.status == 0 else None
