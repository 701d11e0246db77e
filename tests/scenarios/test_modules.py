# SPDX-License-Identifier: GPL-2.0-only
"""IOMMU drivers as modules: loading and unloading them before and after their clients, by force,
and without hardware.

From the series "iommu: Permit modular builds of ARM SMMU[v3] drivers": device links and
deferred probing replace the order of initcalls.
"""

import re
import shlex
from collections import Counter

import pytest

from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import clients
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import (
    FAULT_INJECTION,
    GROUPS_AT_REGISTRATION,
    OWNED_GROUP_REMOVAL_WARNS,
    PROBE_DEFERRAL,
    UNREGISTERING_REMOVES_GROUPS,
)
from harness.plugin.plugin import ExpectSplat, Shows

EAGAIN = "Resource temporarily unavailable"


def remove_clients(guest: Guest) -> None:
    """Remove all devices behind the IOMMU, and unload its driver."""
    clients.bind_all(guest)
    clients.remove_all(guest)
    modules.unload(guest, guest.machine.iommu.driver)


def test_iommu_driver_can_be_reloaded(guest: Guest) -> None:
    """The IOMMU driver loads and unloads repeatedly, and finds the hardware disabled each time."""
    driver = guest.machine.iommu.driver
    remove_clients(guest)
    for _ in range(5):
        loaded = modules.load(guest, driver, check=False)
        assert (loaded.status, loaded.after.refcount_if_loaded(driver)) == (0, 0)
        assert len(loaded.after.iommus) == 1
        # The driver logs a warning if the IOMMU is still enabled.
        assert [entry.text for entry in loaded.kmsg if entry.level < 5] == []
        unloaded = modules.unload(guest, driver, check=False)
        assert (unloaded.status, unloaded.after.is_loaded(driver)) == (0, False)
        assert unloaded.after.iommus == {}


# Patterns of the modalias of the IOMMU device, with which udev finds its driver.
ALIASES = {"arm_smmu_v3": "smmu", "virtio_iommu": "^virtio:d00000017"}


def test_modalias_loads_the_iommu_driver(guest: Guest) -> None:
    """The modalias of the IOMMU device loads its driver.

    MODULE_DEVICE_TABLE."""
    driver = guest.machine.iommu.driver
    found = guest.run(f"cat /sys/bus/*/devices/*/modalias | grep {shlex.quote(ALIASES[driver])}")
    (alias,) = found.out.split()
    state = modules.load(guest, alias).after
    assert state.is_loaded(driver)
    assert len(state.iommus) == 1


def resources(guest: Guest) -> Counter[str]:
    """The interrupts, I/O memory, drivers, IOMMUs and groups that the kernel lists."""
    listed = guest.run(
        "cat /proc/interrupts /proc/iomem;"
        " ls -d /sys/bus/*/drivers/* /sys/class/iommu/* /sys/kernel/iommu_groups/* 2>/dev/null"
    )
    lines = listed.out.splitlines()
    # Leave out the interrupt numbers and the counts per CPU.
    return Counter(re.sub(r"^ *\S+:( +\d+)+ +", "", line) for line in lines)


def test_unloading_the_iommu_driver_releases_its_resources(guest: Guest) -> None:
    """Unloading the IOMMU driver releases its interrupts, I/O memory and sysfs entries."""
    driver = guest.machine.iommu.driver
    before = resources(guest)
    for _ in range(2):
        modules.load(guest, driver)
        assert resources(guest) - before
        clients.remove_all(guest)
        modules.unload(guest, driver)
        leaked = resources(guest) - before
        assert not leaked, f"after unloading {driver}: {sorted(leaked)}"


def test_clients_rebind_after_the_iommu_driver_is_reloaded(bound_guest: Guest) -> None:
    """After the IOMMU driver is reloaded, its clients bind again, and each has a group."""
    before = bound_guest.state()
    driver = bound_guest.machine.iommu.driver
    clients.remove_all(bound_guest)
    modules.unload(bound_guest, driver)
    modules.load(bound_guest, driver)
    clients.add_all(bound_guest)
    after = bound_guest.state()
    names = clients.behind(before)
    assert [after.devices[name].driver for name in names] == [
        before.devices[name].driver for name in names
    ]
    assert all(after.devices[name].group is not None for name in names)


@pytest.mark.known_issue("unloaded-operations-stay", "unloaded-virtio-operations-stay")
@pytest.mark.excused(untranslated="in 5.10 the NIC is not deferred until the driver is reloaded")
def test_rescan_after_unload_uses_no_freed_operations(guest: Guest, shows: Shows) -> None:
    """A device added after the IOMMU driver is unloaded does not use the driver's freed memory.

    The device is deferred, and binds when the driver is loaded again."""
    before = clients.bind_all(guest)
    clients.remove_all(guest)
    for name in clients.pci(guest.state()):
        devices.remove(guest, name)
    modules.unload(guest, guest.machine.iommu.driver)
    step = devices.rescan(guest, check=False)
    require_survival(step)
    (nic,) = clients.pci(before)
    assert step.after.devices[nic].group is None
    modules.load(guest, guest.machine.iommu.driver)
    if not shows(PROBE_DEFERRAL):
        return
    state = devices.wait_for(guest, "the NIC to be bound", clients.are_bound([nic]))
    assert state.devices[nic].group is not None
    assert state.untranslated == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_rescan_creates_the_same_group_before_and_after_registration(
    guest: Guest, when: str
) -> None:
    """A device gets the same group whether it is scanned before or after the IOMMU registers.

    Either the registration of the IOMMU or device_add creates the group."""
    (nic,) = clients.pci(guest.state())
    if when == "after":
        devices.remove(guest, nic)
    modules.load(guest, guest.machine.iommu.driver)
    modules.load(guest, "e1000e")
    state = devices.rescan(guest).after
    assert state.devices[nic].driver == "e1000e"
    group = state.devices[nic].group
    assert group is not None
    assert state.groups[group].devices == (nic,)


@pytest.mark.machines("smmuv3")
def test_smmu_driver_has_no_unbind_attribute(guest: Guest) -> None:
    """The SMMU driver cannot be unbound, because its clients would lose the SMMU immediately.

    .suppress_bind_attrs of arm_smmu_driver."""
    modules.load(guest, "arm_smmu_v3")
    names = guest.run("ls /sys/bus/platform/drivers/arm-smmu-v3").out.split()
    assert "9050000.smmuv3" in names
    assert not {"bind", "unbind"} & set(names)


def unbind_virtio_iommu(guest: Guest) -> State:
    """Unbind the virtio-iommu, and return the state of the guest afterwards."""
    step = guest.step(
        "cd /sys/bus/virtio/drivers/virtio_iommu; for d in virtio[0-9]*; do echo $d > unbind; done"
    )
    require_survival(step)
    assert step.status == 0, step.err
    return step.after


@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-unbind")
@pytest.mark.excused(state="5.10 leaves the group behind", teardown="the driver is unbound")
def test_unbinding_a_virtio_iommu_removes_its_groups(bound_guest: Guest, shows: Shows) -> None:
    """Unbinding a virtio-iommu removes its clients from their groups.

    viommu_remove -> iommu_device_unregister -> remove_iommu_group for each device."""
    before = bound_guest.state()
    after = unbind_virtio_iommu(bound_guest)
    if shows(UNREGISTERING_REMOVES_GROUPS):
        assert after.groups == {}
        assert after.refcount("virtio_iommu") == 0
    else:
        assert after.groups == before.groups


@pytest.mark.machines("virtio-iommu")
def test_virtio_iommu_without_clients_can_be_unbound(guest: Guest) -> None:
    """A virtio-iommu without clients can be unbound, and its driver unloaded."""
    modules.load(guest, "virtio_iommu")
    clients.remove_all(guest)
    for name in clients.pci(guest.state()):
        devices.remove(guest, name)
    after = unbind_virtio_iommu(guest)
    assert after.iommus == {}
    modules.unload(guest, "virtio_iommu")


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
@pytest.mark.needs(UNREGISTERING_REMOVES_GROUPS)
@pytest.mark.machines("smmuv3")
@pytest.mark.excused(untranslated="bound drivers lose their IOMMU", teardown="forced unload")
def test_forced_unload_removes_all_groups(
    bound_guest: Guest, shows: Shows, expect_splat: ExpectSplat, bound: bool
) -> None:
    """A forced unload removes all groups, and warns about groups with DMA that a driver owns.

    CONFIG_MODULE_FORCE_UNLOAD: iommu_device_unregister removes every group, and
    __iommu_group_free_device warns."""
    if not bound:
        for name in ("e1000e", "iommu_client"):
            modules.unload(bound_guest, name)
    elif shows(OWNED_GROUP_REMOVAL_WARNS):
        expect_splat("WARNING in __iommu_group_free_device")
    step = modules.unload(bound_guest, "arm_smmu_v3", force=True, check=False)
    assert (step.status, step.after.is_loaded("arm_smmu_v3")) == (0, False)
    assert (step.after.groups, step.after.iommus) == ({}, {})
    assert set(clients.pci(step.before)) <= set(step.after.devices)


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(UNREGISTERING_REMOVES_GROUPS)
def test_client_rebound_after_forced_unload_gets_a_group(bound_guest: Guest) -> None:
    """After a forced unload and a reload, a client that binds again gets a group."""
    for name in ("e1000e", "iommu_client"):
        modules.unload(bound_guest, name)
    modules.unload(bound_guest, "arm_smmu_v3", force=True)
    state = clients.bind_all(bound_guest)
    assert all(state.devices[name].group is not None for name in clients.behind(state))


@pytest.mark.machines("smmuv3", "smmuv3-acpi")
def test_module_parameter_is_shown_in_sysfs(guest: Guest) -> None:
    """sysfs shows the value of a parameter that was passed at load time, or its default."""
    path = "/sys/module/arm_smmu_v3/parameters/disable_msipolling"
    modules.load(guest, "arm_smmu_v3")
    assert guest.run(f"cat {path}").out == "N\n"
    clients.remove_all(guest)
    modules.unload(guest, "arm_smmu_v3")
    modules.load(guest, "arm_smmu_v3", disable_msipolling=1)
    assert guest.run(f"cat {path}").out == "Y\n"


@pytest.mark.parametrize("driver", ["arm_smmu", "arm_smmu_v3", "virtio_iommu"])
def test_iommu_driver_without_hardware_loads_and_unloads(bound_guest: Guest, driver: str) -> None:
    """An IOMMU driver without hardware loads and unloads, and changes no group.

    Each driver is loaded in addition to the driver of the machine's IOMMU. QEMU's virt machine
    has no SMMUv2."""
    before = bound_guest.state()
    if driver == bound_guest.machine.iommu.driver:
        clients.remove_all(bound_guest)
        modules.unload(bound_guest, driver)
        assert modules.load(bound_guest, driver).after.refcount(driver) == 0
        return
    loaded = modules.load(bound_guest, driver, check=False)
    assert (loaded.status, loaded.after.refcount_if_loaded(driver)) == (0, 0)
    assert loaded.after.groups == before.groups
    unloaded = modules.unload(bound_guest, driver, check=False)
    assert (unloaded.status, unloaded.after.is_loaded(driver)) == (0, False)
    assert unloaded.after.groups == before.groups


@pytest.mark.needs(FAULT_INJECTION)
@pytest.mark.machines("smmuv3")  # the machine makes no difference
def test_failed_module_load_keeps_no_reference(guest: Guest) -> None:
    """A failed module load keeps no reference to the modules that the module depends on.

    Each allocation of a load fails once (ref_module, and add_module_usage, which records the
    use). insmod retries, and therefore usually succeeds."""
    name = "vfio_iommu_type1"
    modules.load(guest, name)
    before = modules.unload(guest, name).after.modules
    file = guest.run(f"find /lib/modules -name {name}.ko").out.strip()
    last = 0
    for failure in failnth.fail_each(guest, "sh", f"exec insmod {file}"):
        last = failure.number
        guest.run(f"rmmod {name}")
        after = guest.state().modules
        assert after == before, f"with allocation {last} failing: {after}"
    assert last > 50


@pytest.mark.needs(GROUPS_AT_REGISTRATION)
def test_registration_creates_groups_for_unbound_devices(guest: Guest) -> None:
    """Registering an IOMMU creates groups for devices without drivers."""
    state = modules.load(guest, guest.machine.iommu.driver).after
    assert set(clients.behind(state)) <= set(state.grouped)
    assert not any(state.devices[name].driver for name in clients.behind(state))


def test_client_modules_do_not_hold_the_iommu_driver(bound_guest: Guest) -> None:
    """The modules of client drivers are not holders of the IOMMU driver's module, or vice versa.

    The modules do not depend on each other; only the driver core connects them."""
    state = bound_guest.state()
    for name in (*clients.drivers(bound_guest.machine), bound_guest.machine.iommu.driver):
        assert state.modules[name.replace("-", "_")].holders == ()
    refused = modules.unload(bound_guest, bound_guest.machine.iommu.driver, check=False)
    assert EAGAIN in refused.err
