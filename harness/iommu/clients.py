# SPDX-License-Identifier: GPL-2.0-only
"""The devices of a guest that are behind its IOMMU, all of them together, and what drives
them."""

from collections.abc import Callable, Sequence

from harness.guest import devices
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.machine.device import BRIDGES, DRIVERS
from harness.machine.topology import Machine

_PCI = "/sys/bus/pci/devices"

# Binds platform clients; makes and destroys them. guest-scripts/modules.
PLATFORM_DRIVER, PLATFORM_DEVICES = "iommu_client", "iommu_client_device"

# Makes and destroys them while the module stays, in the context of who writes 1 and 0.
PRESENT = f"/sys/module/{PLATFORM_DEVICES}/parameters/present"

# Ports that waited for their IOMMU are probed by a work, and who is probed below one at that
# moment finds its registers out of reach: pci_enable_bridge takes a bridge that another is
# enabling for enabled (seen on 7.2). Whoever binds one waits until it has been probed, for
# its lock; from the root down, as their names are.
_BIND_PORTS = (
    f"for c in {_PCI}/*/class; do read class < $c; port=${{c%/class}}; case $class in 0x0604*)"
    " echo ${port##*/} > /sys/bus/pci/drivers/pcieport/bind; esac; done 2> /dev/null; :"
)


def drivers(machine: Machine) -> list[str]:
    """The modules that drive the machine's devices, one mention each."""
    found = [DRIVERS[each.model] for each in machine.devices if each.model in DRIVERS]
    found += [PLATFORM_DRIVER] if machine.overlays else []
    return list(dict.fromkeys(found))


def warm_up(machine: Machine) -> tuple[str, ...]:
    """The commands that load what ``bound`` does, each for what the one before has bound."""
    ports = [_BIND_PORTS] if any(each.model in BRIDGES for each in machine.devices) else []
    clients = [f"modprobe {name}" for name in drivers(machine)]
    return (f"modprobe {machine.iommu.driver}", *ports, *clients)


def bound(guest: Guest) -> State:
    """Loads the IOMMU's driver, then those of all the devices, where a warm-up has not done
    that; what the guest shows when all devices behind the IOMMU are bound, those too that
    had been waiting since the boot, as ports do."""
    state = guest.state()
    wanted = {guest.machine.iommu.driver, *drivers(guest.machine)}
    if not wanted <= state.modules.keys():
        guest.run("; ".join(warm_up(guest.machine)))
    return devices.wait_for(guest, "clients to be bound", are_bound(behind(state)))


def are_bound(names: Sequence[str]) -> Callable[[State], bool]:
    """For ``devices.wait_for``: each of them is there and has a driver."""
    return lambda state: all(
        name in state.devices and bool(state.devices[name].driver) for name in names
    )


def nics(state: State) -> list[str]:
    """The PCI devices that a NIC's driver has."""
    return [name for name, each in state.devices.items() if each.driver in NIC_DRIVERS]


NIC_DRIVERS = ("e1000", "e1000e")


def platform(state: State) -> list[str]:
    """The platform devices that are behind an IOMMU, bound or not."""
    return [
        name
        for name, each in state.devices.items()
        if each.bus == "platform" and each.firmware_iommu
    ]


def pci(state: State) -> list[str]:
    """The PCI devices that are behind an IOMMU, bound or not, the host bridge aside."""
    return [name for name in behind(state) if state.devices[name].bus == "pci"]


def behind(state: State) -> list[str]:
    """All devices for which firmware names an IOMMU, PCI's host bridge aside."""
    return [
        name
        for name, each in state.devices.items()
        if each.firmware_iommu and name != devices.HOST_BRIDGE
    ]


def remove_all(guest: Guest, state: State | None = None) -> None:
    """Takes away every device that has a group: PCI devices through sysfs, platform
    devices with the module that makes them. ``state`` is what the guest shows, where that
    has just been looked at."""
    state = state or guest.state()
    # One below a bridge goes with the bridge.
    paths = " ".join(f"{_PCI}/{name}/remove" for name in state.grouped if ":" in name)
    lines = [f"for r in {paths}; do [ ! -e $r ] || echo 1 > $r; done"] if paths else []
    if platform(state):
        lines.append(f"modprobe {PLATFORM_DEVICES} && rmmod {PLATFORM_DEVICES}")
    guest.run("; ".join(lines) or ":")


def bring_back(guest: Guest) -> None:
    """Has all devices appear again; drivers that are loaded bind them."""
    guest.run("echo 1 > /sys/bus/pci/rescan")
    if guest.machine.overlays:
        guest.run(f"modprobe {PLATFORM_DEVICES}")
