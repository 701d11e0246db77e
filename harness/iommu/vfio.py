# SPDX-License-Identifier: GPL-2.0-only
"""Use VFIO in a guest: bind devices to vfio-pci, and run processes that use the devices
(guest-scripts/commands/vfio.c).
"""

import shlex
from dataclasses import dataclass
from typing import Literal

from harness.guest import devices
from harness.guest.guest import Guest, Step
from harness.guest.state import State

# What a user of VFIO does. guest-scripts/commands/vfio.c describes each mode.
Mode = Literal["group", "groups", "remap", "compat", "cdev", "move", "return", "replace"]

# The modes that open a device through its character device (cdev).
_BY_DEVICE = ("cdev", "move", "return", "replace")

# The kernel option that a mode requires. Modes that are not listed need no option.
REQUIRED_OPTIONS = {"compat": "IOMMUFD"} | dict.fromkeys(_BY_DEVICE, "VFIO_DEVICE_CDEV")

# The lowest address that a user maps, and an address that the mode "return" also maps.
MAPPED_AT, HIGH_AT = 0x100000, 0x100100000

# The commands with which ``bind_vfio`` loads modules, to be run in a warm-up. vfio_iommu_type1 is a
# soft dependency of vfio, and busybox's modprobe ignores soft dependencies.
WARM_UP = ("modprobe vfio-pci", "modprobe vfio_iommu_type1")


def bind_vfio(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Unbind a PCI device from its driver, bind it to vfio-pci, and return the step that binds
    it."""
    device = f"/sys/bus/pci/devices/{shlex.quote(name)}"
    guest.run(
        f"{'; '.join(WARM_UP)}; echo vfio-pci > {device}/driver_override;"
        f" [ ! -e {device}/driver ] || echo {shlex.quote(name)} > {device}/driver/unbind"
    )
    return devices.probe(guest, name, check=check)


def unbind_vfio(guest: Guest, name: str, *, check: bool = True) -> Step:
    """Unbind the device from vfio-pci, bind it to a matching driver, and return the step that
    binds it."""
    devices.unbind(guest, name, check=check)
    devices.override(guest, name, "", check=check)
    return devices.probe(guest, name, check=check)


def disable_reset(guest: Guest, name: str) -> None:
    """Disable the reset of a PCI device, which takes 50 ms whenever a user opens or closes the
    device. Kernels before 5.15 do not support this (reset_method). Removing and re-adding the
    device enables the reset again."""
    file = f"/sys/bus/pci/devices/{shlex.quote(name)}/reset_method"
    guest.run(f"[ ! -e {file} ] || echo > {file}")


def viable(guest: Guest, group: int, *, check: bool = True) -> Step:
    """Run ``vfio viable`` in the guest, which prints "viable" if no device of the group is bound
    to a kernel driver."""
    return guest.step(f"vfio viable {group}", check=check)


def arguments(state: State, mode: Mode, *names: str) -> list[str]:
    """The arguments for ``run_user`` and ``start_user`` to open these devices. Each device must
    have a group."""
    if mode in _BY_DEVICE:
        return list(names)
    numbers = [str(state.devices[name].group) for name in names]
    return numbers if mode == "groups" else [numbers[0], names[0]]


def run_user(guest: Guest, mode: Mode, *what: str | int, check: bool = True) -> Step:
    """Run a process that opens devices, maps memory and exits.

    The modes "group", "remap" (which maps memory twice) and "compat" (which uses an iommufd as
    the container) take the number of a group and, to open a device of the group too, the device.
    The mode "groups" takes the numbers of several groups. "cdev" and "move" take several devices,
    "return" and "replace" one device. If a call fails, the status is its errno, and stderr has
    the name of the call."""
    return guest.step(shlex.join(["vfio", "open", mode, *map(str, what)]), check=check)


@dataclass(frozen=True, slots=True)
class User:
    """A process in a guest. It keeps one or more VFIO devices open."""

    guest: Guest
    pid: int

    def kill(self) -> Step:
        """Kill the process with SIGKILL, and wait until the kernel has closed its files."""
        wait = f"while kill -0 {self.pid} 2>/dev/null; do usleep 1000; done"
        return self.guest.step(f"kill -9 {self.pid}; {wait}")


def start_user(
    guest: Guest, mode: Mode, *what: str | int, check: bool = True
) -> tuple[Step, User | None]:
    """As ``run_user``, but in the background, keeping the devices open. Returns the step and the
    process, or None for the process if opening failed."""
    step = guest.step(shlex.join(["vfio", "hold", mode, *map(str, what)]), check=check)
    return step, User(guest, int(step.out)) if step.status == 0 else None
