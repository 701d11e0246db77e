# SPDX-License-Identifier: GPL-2.0-only
"""The clients of a guest, which are the devices behind its IOMMU, and their drivers."""

from collections.abc import Callable, Sequence

from harness.guest import devices
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.machine.device import BRIDGES, CLIENT_DRIVERS
from harness.machine.topology import Machine

_PCI = "/sys/bus/pci/devices"

# Modules of guest-scripts/modules: the driver of platform clients, and the module that creates
# and destroys platform clients.
PLATFORM_DRIVER, PLATFORM_DEVICES = "iommu_client", "iommu_client_device"

# Writing 1 to this parameter creates the platform clients, and writing 0 destroys them, in the
# context of the writing process. The module stays loaded.
PRESENT = f"/sys/module/{PLATFORM_DEVICES}/parameters/present"

# Ports that were deferred until their IOMMU registered are probed in a work item. A device that
# is probed below such a port meanwhile cannot access its registers, because pci_enable_bridge
# treats a bridge that another task is enabling as enabled (observed on 7.2). Binding a port waits
# for its device lock, and so until the port has been probed. The loop binds ports from the root
# down, which is the order of their names.
_BIND_PORTS = (
    f"for c in {_PCI}/*/class; do read class < $c; port=${{c%/class}}; case $class in 0x0604*)"
    " echo ${port##*/} > /sys/bus/pci/drivers/pcieport/bind; esac; done 2> /dev/null; :"
)


def drivers(machine: Machine) -> list[str]:
    """The modules that drive the machine's devices, without duplicates."""
    found = [CLIENT_DRIVERS[each.model] for each in machine.devices if each.model in CLIENT_DRIVERS]
    found += [PLATFORM_DRIVER] if machine.overlays else []
    return list(dict.fromkeys(found))


def warm_up(machine: Machine) -> tuple[str, ...]:
    """The warm-up commands that load the drivers of the IOMMU, then of its clients."""
    ports = [_BIND_PORTS] if any(each.model in BRIDGES for each in machine.devices) else []
    clients = [f"modprobe {name}" for name in drivers(machine)]
    return (f"modprobe {machine.iommu.driver}", *ports, *clients)


def bind_all(guest: Guest) -> State:
    """Load the drivers of the IOMMU and of all devices, unless a warm-up has loaded them, wait
    until all clients are bound, and return the state. This includes clients that were deferred at
    boot, such as ports."""
    state = guest.state()
    required = {guest.machine.iommu.driver, *drivers(guest.machine)}
    if not required <= state.modules.keys():
        guest.run("; ".join(warm_up(guest.machine)))
    return devices.wait_for(guest, "clients to be bound", are_bound(behind(state)))


def are_bound(names: Sequence[str]) -> Callable[[State], bool]:
    """Return a condition for ``devices.wait_for``: all of these devices exist and are bound."""
    return lambda state: all(
        name in state.devices and bool(state.devices[name].driver) for name in names
    )


def nics(state: State) -> list[str]:
    """The PCI devices that are bound to a NIC driver."""
    return [name for name, each in state.devices.items() if each.driver in PCI_NIC_DRIVERS]


# NIC drivers that bind PCI devices. The driver of a virtio NIC binds a virtio device instead.
PCI_NIC_DRIVERS = ("e1000", "e1000e")


def platform(state: State) -> list[str]:
    """The platform devices behind an IOMMU, bound or not."""
    return [
        name
        for name, each in state.devices.items()
        if each.bus == "platform" and each.firmware_iommu
    ]


def pci(state: State) -> list[str]:
    """The PCI devices behind an IOMMU, bound or not, except the host bridge."""
    return [name for name in behind(state) if state.devices[name].bus == "pci"]


def behind(state: State) -> list[str]:
    """All devices for which firmware describes an IOMMU, except the PCI host bridge."""
    return [
        name
        for name, each in state.devices.items()
        if each.firmware_iommu and name != devices.HOST_BRIDGE
    ]


def remove_all(guest: Guest, state: State | None = None) -> None:
    """Remove every device that has a group: PCI devices through sysfs, platform devices by
    unloading the module that creates them. ``state`` is the current state; it is read if it is
    not given."""
    state = state or guest.state()
    # Removing a bridge removes the devices below it.
    paths = " ".join(f"{_PCI}/{name}/remove" for name in state.grouped if ":" in name)
    lines = [f"for r in {paths}; do [ ! -e $r ] || echo 1 > $r; done"] if paths else []
    if platform(state):
        lines.append(f"modprobe {PLATFORM_DEVICES} && rmmod {PLATFORM_DEVICES}")
    guest.run("; ".join(lines) or ":")


def add_all(guest: Guest) -> None:
    """Add all devices again. Drivers that are loaded bind them."""
    guest.run("echo 1 > /sys/bus/pci/rescan")
    if guest.machine.overlays:
        guest.run(f"modprobe {PLATFORM_DEVICES}")
