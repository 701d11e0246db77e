# SPDX-License-Identifier: GPL-2.0-only
"""What pins the module of the IOMMU driver, and what releases the pin.

Each device that gets a group takes one reference with try_module_get(ops->owner)
(iommu_init_device in drivers/iommu/iommu.c; __iommu_probe_device before 6.5). The reference is
put when the device is removed or the IOMMU unregisters (iommu_deinit_device). Client drivers are
not involved, because groups exist as long as devices. From the thread "driver core: platform:
Call iommu_release_device in dma_cleanup" and the series that made the drivers modular.
"""

import random

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.behaviour import GROUPS_AT_REGISTRATION, UNBIND_RELEASES_DEVICE
from harness.plugin.plugin import GuestFactory, Shows

IN_USE = "Resource temporarily unavailable"  # EAGAIN of delete_module(2)

with_clients = pytest.mark.machines("smmuv3")


def pins(guest: Guest) -> int | None:
    """The refcount of the IOMMU driver's module, or None if it is not loaded."""
    return guest.state().refcount_if_loaded(guest.machine.iommu.driver)


def assert_pinned(guest: Guest, *how: str) -> None:
    """Check that unloading the driver fails with EAGAIN and changes nothing."""
    driver = guest.machine.iommu.driver
    step = guest.step(" ".join([*(how or ("rmmod",)), driver]))
    assert (step.status, IN_USE in step.err) == (1, True), step.err
    assert step.after == step.before


def test_registration_pins_once_per_grouped_device(guest: Guest, shows: Shows) -> None:
    """Registration pins the module once for each device that gets a group.

    Registration calls bus_iommu_probe. Before bcb81ac6ae3c it finds no device, because firmware
    is parsed only when a driver binds."""
    state = modules.load(guest, guest.machine.iommu.driver).after
    early = {*clients.behind(state), devices.HOST_BRIDGE}
    expected = early if shows(GROUPS_AT_REGISTRATION) else set()
    assert set(state.grouped) == expected
    assert state.refcount(guest.machine.iommu.driver) == len(expected)


@with_clients
def test_binding_a_platform_client_pins_the_module_once(guest: Guest, shows: Shows) -> None:
    """Binding a platform client pins the module once, unless registration has already pinned it."""
    step = load_client(guest)
    driver = guest.machine.iommu.driver
    before, after = (each.refcount_if_loaded(driver) for each in (step.before, step.after))
    new = 0 if shows(GROUPS_AT_REGISTRATION) else 2
    assert after == (before or 0) + new
    assert {"b000000.client0", "b001000.client1"} <= set(step.after.grouped)


def load_client(guest: Guest, **parameters: int) -> Step:
    modules.load(guest, guest.machine.iommu.driver)
    return modules.load(guest, clients.PLATFORM_DRIVER, **parameters, check=False)


def test_binding_a_nic_pins_the_module_once(guest: Guest, shows: Shows) -> None:
    """Binding a NIC pins the module once, unless registration has already pinned it."""
    driver = guest.machine.iommu.driver
    before = modules.load(guest, driver).after
    after = modules.load(guest, "e1000e").after
    new = 0 if shows(GROUPS_AT_REGISTRATION) else 1
    assert after.refcount(driver) == (before.refcount_if_loaded(driver) or 0) + new
    (nic,) = clients.nics(after)
    assert after.devices[nic].group is not None


@with_clients
def test_unregistering_a_platform_driver_does_not_unpin(guest: Guest, shows: Shows) -> None:
    """A platform device stays in its group and pins the module after its driver is unloaded.

    This is the question of the thread: platform_dma_cleanup ends the use of the default domain,
    but the device stays in its group. The RFC would remove it from the group."""
    load_client(guest)
    pinned = pins(guest)
    step = modules.unload(guest, clients.PLATFORM_DRIVER, check=False)
    assert step.status == 0
    expected = (pinned or 0) - 2 if shows(UNBIND_RELEASES_DEVICE) else pinned
    assert pins(guest) == expected
    if expected:
        assert_pinned(guest, "modprobe", "-r")


@with_clients
def test_reported_session_leaves_the_smmu_pinned(guest: Guest, shows: Shows) -> None:
    """The session that the thread reports ends with a pinned module.

    modprobe arm-smmu-v3, test_module; modprobe -r test_module, arm-smmu-v3."""
    for name in (devices.HOST_BRIDGE, *(n for n in clients.behind(guest.state()) if ":" in n)):
        devices.remove(guest, name)
    modules.load(guest, "arm-smmu-v3")
    assert modules.load(guest, "test_module").after.refcount("arm_smmu_v3") == 2
    assert guest.step("modprobe -r test_module").status == 0
    last = guest.step("modprobe -r arm-smmu-v3")
    if shows(UNBIND_RELEASES_DEVICE):
        assert (last.status, last.after.refcount_if_loaded("arm_smmu_v3")) == (0, None)
    else:
        assert (last.status, last.after.refcount_if_loaded("arm_smmu_v3")) == (1, 2)
        assert IN_USE in last.err


def test_unbinding_a_nic_does_not_unpin(bound_guest: Guest) -> None:
    """An unbound NIC stays in its group and pins the module."""
    before = bound_guest.state()
    (nic,) = clients.nics(before)
    after = devices.unbind(bound_guest, nic).after
    assert after.devices[nic].driver == ""
    assert after.groups == before.groups
    assert after.refcount(bound_guest.machine.iommu.driver) == len(before.grouped)


def test_unloading_a_nic_driver_keeps_the_iommu_module_pinned(bound_guest: Guest) -> None:
    """A NIC stays in its group and pins the module after its driver is unloaded."""
    before = bound_guest.state()
    after = modules.unload(bound_guest, "e1000e").after
    assert "e1000e" not in after.modules
    assert after.groups == before.groups
    assert_pinned(bound_guest)


@pytest.mark.parametrize("level", ["driver", "module"])
def test_repeated_binding_pins_once(bound_guest: Guest, level: str) -> None:
    """Binding a device again does not pin the module again."""
    before = bound_guest.state()
    (nic,) = clients.nics(before)
    for _ in range(5):
        if level == "driver":
            devices.unbind(bound_guest, nic)
            devices.bind(bound_guest, nic, "e1000e")
        else:
            modules.unload(bound_guest, "e1000e")
            modules.load(bound_guest, "e1000e")
    after = bound_guest.state()
    assert after.groups == before.groups
    assert after.refcount(bound_guest.machine.iommu.driver) == len(before.grouped)


def test_device_pins_show_no_holder(bound_guest: Guest) -> None:
    """The pins of devices are included in the refcount, but have no holder.

    This makes a failed unload hard to understand: devices are not modules, so neither lsmod
    nor /sys/module/*/holders shows them."""
    state = bound_guest.state()
    module = state.modules[bound_guest.machine.iommu.driver]
    assert module.refcount == len(state.grouped) > 0
    assert module.holders == ()
    lsmod = bound_guest.run(f"lsmod | grep ^{module.name}").out.split()
    assert lsmod[0] == module.name
    assert lsmod[2] == str(module.refcount)


@pytest.mark.parametrize("how", ["rmmod", "modprobe -r"])
def test_failed_unload_changes_nothing(bound_guest: Guest, how: str) -> None:
    """Unloading a pinned driver fails with and without a bound client, and changes nothing."""
    before = bound_guest.state()
    assert_pinned(bound_guest, how)
    (nic,) = clients.nics(before)
    devices.unbind(bound_guest, nic)
    assert_pinned(bound_guest, how)
    assert devices.bind(bound_guest, nic, "e1000e").after == before


def test_removing_a_pci_device_drops_its_pin(bound_guest: Guest) -> None:
    """Removing a PCI device drops its pin, and rescanning it pins the module again.

    device_del -> BUS_NOTIFY_REMOVED_DEVICE -> iommu_release_device."""
    before = bound_guest.state()
    driver = bound_guest.machine.iommu.driver
    (nic,) = clients.nics(before)
    removed = devices.remove(bound_guest, nic).after
    assert removed.refcount(driver) == len(before.grouped) - 1
    assert before.devices[nic].group not in removed.groups
    rescanned = devices.rescan(bound_guest).after
    assert rescanned.devices[nic].driver == "e1000e"
    assert rescanned.refcount(driver) == len(before.grouped)


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
@with_clients
def test_destroying_a_platform_device_drops_its_pin(
    guest: Guest, shows: Shows, bound: bool
) -> None:
    """Destroying a platform device drops its pin, whether the device is bound or not.

    Devices of the device tree cannot be removed through sysfs. Therefore a module creates and
    destroys them."""
    modules.load(guest, "iommu_client_device")
    load_client(guest)
    if not bound:
        modules.unload(guest, clients.PLATFORM_DRIVER)
    before = guest.state()
    destroyed = modules.unload(guest, "iommu_client_device").after
    assert clients.platform(destroyed) == []
    # Both devices are in a group until then, bound or not. With the RFC they are in a group only
    # while they are bound.
    pinned = 0 if not bound and shows(UNBIND_RELEASES_DEVICE) else 2
    assert len(destroyed.grouped) == len(before.grouped) - pinned
    assert destroyed.refcount("arm_smmu_v3") == len(destroyed.grouped)


def test_iommu_driver_can_be_unloaded_after_the_last_client_is_removed(bound_guest: Guest) -> None:
    """Removing all devices behind the IOMMU drops all pins, and the IOMMU driver can then be
    unloaded."""
    driver = bound_guest.machine.iommu.driver
    names = bound_guest.state().grouped
    assert_pinned(bound_guest)
    clients.remove_all(bound_guest)
    bare = bound_guest.state()
    assert (bare.refcount(driver), bare.groups, bare.grouped) == (0, {}, [])
    assert not set(names) & set(bare.devices)
    step = modules.unload(bound_guest, driver, check=False)
    assert (step.status, step.after.is_loaded(driver), step.after.iommus) == (0, False, {})


def test_a_single_remaining_device_pins_the_module(bound_guest: Guest) -> None:
    """A single remaining device pins the module."""
    grouped = [name for name in bound_guest.state().grouped if ":" in name]
    if clients.platform(bound_guest.state()):
        modules.load(bound_guest, "iommu_client_device")
        modules.unload(bound_guest, "iommu_client_device")
    for name in grouped[:-1]:
        devices.remove(bound_guest, name)
    assert bound_guest.state().grouped == grouped[-1:]
    assert pins(bound_guest) == 1
    assert_pinned(bound_guest)


@pytest.mark.parametrize(
    ("preset", "count"),
    [("multifunction", 2), ("isolated-functions", 2), ("nic", 1)],
)
def test_pins_count_devices_not_groups(
    guest_factory: GuestFactory, preset: str, count: int
) -> None:
    """Each device pins the module once, even in a shared group."""
    guest = guest_factory(f"+{preset}", bound=True)
    state = clients.bind_all(guest)
    nics, pinned = clients.nics(state), pins(guest) or 0
    assert len(nics) == count
    assert set(nics) <= set(state.grouped)
    for number, name in enumerate(nics, start=1):
        devices.remove(guest, name)
        assert pins(guest) == pinned - number


@with_clients
def test_pins_do_not_count_stream_ids(guest_factory: GuestFactory) -> None:
    """A device with several stream IDs pins the module once."""
    guest = guest_factory("+several-stream-ids", bound=True)
    state = clients.bind_all(guest)
    (client,) = clients.platform(state)
    assert client in state.grouped
    assert state.refcount("arm_smmu_v3") == len(state.grouped)


@with_clients
def test_failed_driver_probe_keeps_the_pin(guest: Guest, shows: Shows) -> None:
    """A device stays in its group and pins the module after its driver fails to probe.

    dma_configure precedes the driver's probe, and a failed probe does not undo the group."""
    state = load_client(guest, probe_error=5).after
    names = clients.platform(state)
    assert [state.devices[name].driver for name in names] == ["", ""]
    grouped = [] if shows(UNBIND_RELEASES_DEVICE) else names
    assert [name for name in names if state.devices[name].group is not None] == grouped
    guest.run("echo 0 > /sys/module/iommu_client/parameters/probe_error")
    for name in names:
        assert devices.bind(guest, name, "iommu_client").after.devices[name].driver


def test_vfio_open_takes_no_module_reference(bound_guest: Guest) -> None:
    """Opening a device through VFIO does not pin the module again."""
    before = bound_guest.state()
    (nic,) = clients.nics(before)
    group = before.devices[nic].group
    assert group is not None
    vfio.bind_vfio(bound_guest, nic)
    held, holder = vfio.start_user(bound_guest, "group", group, nic, check=False)
    assert holder is not None, held.err
    assert pins(bound_guest) == len(before.grouped)
    assert_pinned(bound_guest)
    holder.kill()
    assert pins(bound_guest) == len(before.grouped)


@pytest.mark.parametrize("seed", range(2))
def test_random_operations_keep_pins_balanced(bound_guest: Guest, seed: int) -> None:
    """After each of 50 random operations, every device with a group pins the module once.

    The audit also checks that sysfs is consistent."""
    rng = random.Random(seed)
    state = bound_guest.state()
    for number in range(50):
        operation = rng.choice(_operations(state))
        bound_guest.run(operation)
        state = bound_guest.state()
        where = f"round {number}, {operation}"
        finding.require_none(audit.findings(bound_guest.machine, state), where)


def _operations(state: State) -> list[str]:
    """The shell commands for operations that are possible in the state."""
    operations = ["echo 1 > /sys/bus/pci/rescan"]
    for name in clients.behind(state):
        bus = state.devices[name].bus
        driver = "e1000e" if bus == "pci" else clients.PLATFORM_DRIVER
        if state.devices[name].driver or driver in state.modules:
            verb = "unbind" if state.devices[name].driver else "bind"
            operations.append(f"echo {name} > /sys/bus/{bus}/drivers/{driver}/{verb}")
        if bus == "pci":
            operations.append(f"echo 1 > /sys/bus/pci/devices/{name}/remove")
    if not clients.platform(state):
        return operations
    if clients.PLATFORM_DRIVER in state.modules:
        operations.append("rmmod iommu_client")
        destroy = "modprobe iommu_client_device; rmmod iommu_client_device"
        operations.append(f"{destroy}; modprobe iommu_client_device")
    else:
        operations.append("modprobe iommu_client")
    return operations
