# SPDX-License-Identifier: GPL-2.0-only
"""Clients that probe before their IOMMU driver: deferral, its timeout, and device links.

Deferred probing and device links (fw_devlink) replace the order of initcalls.
"""

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import clients
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import LATE_PROBE_WARNS, PROBE_DEFERRAL
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows


def grouping(state: State) -> list[tuple[str, ...]]:
    """The devices of each group, without the group IDs."""
    return sorted(group.devices for group in state.groups.values())


@pytest.mark.excused(untranslated="5.10 binds clients before their IOMMU driver")
def test_client_probe_is_deferred_until_its_iommu_registers(guest: Guest, shows: Shows) -> None:
    """A client that probes before its IOMMU registers is deferred.

    In 5.10 it binds without translation."""
    state = modules.load(guest, "e1000e").after
    (nic,) = clients.pci(state)
    defers = shows(PROBE_DEFERRAL)
    device = state.devices[nic]
    assert (device.driver, device.deferred) == (("", True) if defers else ("e1000e", False))
    assert state.untranslated == ([] if defers else [nic])
    assert device.group is None


@pytest.mark.needs(PROBE_DEFERRAL)
def test_module_load_order_does_not_change_groups(
    bound_guest: Guest, guest_factory: GuestFactory
) -> None:
    """Groups and pins are the same whether the IOMMU driver or a client driver is loaded first.

    of_iommu_configure defers clients until the IOMMU driver has registered."""
    first = bound_guest.state()
    other = guest_factory()
    for name in clients.drivers(other.machine):
        modules.load(other, name)
    names = clients.behind(first)
    deferred = other.state()
    assert devices.deferred(other) == sorted(names)
    assert [deferred.devices[name].driver for name in names] == [""] * len(names)
    modules.load(other, other.machine.iommu.driver)
    late = devices.wait_for(other, "clients to be bound", clients.are_bound(names))
    assert devices.deferred(other) == []
    # The modules are loaded in a different order, but the IOMMU driver has the same refcount.
    assert grouping(late) == grouping(first)
    assert late.refcount(other.machine.iommu.driver) == len(first.grouped)


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.excused(untranslated="the deferral times out")
def test_client_binds_without_translation_after_the_deferral_timeout(
    guest_factory: GuestFactory, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """A client binds without translation after the deferral timeout; rebinding gives it a group.

    driver_deferred_probe_check_state ends the deferral after deferred_probe_timeout: the driver
    binds, and an IOMMU that registers later finds the device in use. Kernels that create
    groups at registration log "something fishy" when such a device is rebound."""
    guest = guest_factory(arguments="deferred_probe_timeout=1")
    modules.load(guest, "e1000e")
    (nic,) = clients.pci(guest.state())
    late = devices.wait_for(guest, "the NIC to be bound", clients.are_bound([nic]))
    assert late.untranslated == [nic]
    assert any(nic in entry.text and "ignoring dependency" in entry.text for entry in guest.kmsg())
    after = modules.load(guest, guest.machine.iommu.driver).after
    assert after.devices[nic].group is None
    assert after.untranslated == [nic]
    devices.unbind(guest, nic)
    if shows(LATE_PROBE_WARNS):
        expect_splat("WARNING in __iommu_probe_device|iommu_probe_device")
    again = devices.bind(guest, nic, "e1000e")
    assert again.after.devices[nic].group is not None
    assert again.after.untranslated == []
    fishy = any("something fishy" in entry.text for entry in again.kmsg)
    assert fishy == shows(LATE_PROBE_WARNS)


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.excused(untranslated="nothing is deferred")
def test_client_binds_without_translation_with_a_deferral_timeout_of_zero(
    guest_factory: GuestFactory,
) -> None:
    """With deferred_probe_timeout=0 a client binds immediately and untranslated."""
    guest = guest_factory(arguments="deferred_probe_timeout=0")
    state = modules.load(guest, "e1000e").after
    (nic,) = clients.pci(state)
    assert state.devices[nic].driver == "e1000e"
    assert state.untranslated == [nic]


@pytest.mark.machines("smmuv3-acpi", "virtio-iommu-acpi")
def test_acpi_ignores_the_deferral_timeout(guest_factory: GuestFactory) -> None:
    """With ACPI a client is deferred until its IOMMU registers, whatever the timeout.

    iort_iommu_xlate and viot_dev_iommu_init do not check whether the timeout has expired."""
    guest = guest_factory(arguments="deferred_probe_timeout=0")
    state = modules.load(guest, "e1000e").after
    (nic,) = clients.pci(state)
    assert (state.devices[nic].driver, state.devices[nic].deferred) == ("", True)
    modules.load(guest, guest.machine.iommu.driver)
    late = devices.wait_for(guest, "the NIC to be bound", clients.are_bound([nic]))
    assert late.devices[nic].group is not None


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(PROBE_DEFERRAL)
def test_strict_device_links_defer_the_whole_pci_bus(guest_factory: GuestFactory) -> None:
    """With strict device links the PCI bus is not scanned before its SMMU is bound.

    fw_devlink.strict=1: "iommu-map" of the host bridge makes the SMMU its supplier."""
    guest = guest_factory(arguments="fw_devlink.strict=1 deferred_probe_timeout=-1")
    assert [name for name in guest.state().devices if name.startswith("0000:")] == []
    modules.load(guest, "arm_smmu_v3")
    devices.wait_for(guest, "the bus", lambda state: "0000:00:01.0" in state.devices)
    state = clients.bind_all(guest)
    assert state.devices["0000:00:01.0"].group is not None
    assert state.untranslated == []


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(PROBE_DEFERRAL)
def test_strict_device_links_restore_the_pci_bus_after_reload(guest_factory: GuestFactory) -> None:
    """With strict device links, unloading the SMMU driver removes the PCI bus, and loading it
    restores the bus.

    device_links_unbind_consumers: unloading the driver unbinds the host bridge, which removes all
    devices on the bus. The device link stays, and the bridge is probed again."""
    guest = guest_factory(arguments="fw_devlink.strict=1 deferred_probe_timeout=-1")
    for name in ("arm_smmu_v3", *clients.drivers(guest.machine)):
        modules.load(guest, name)
    names = [*clients.platform(guest.state()), "0000:00:01.0"]
    for _ in range(3):
        state = devices.wait_for(guest, "clients to be bound", clients.are_bound(names))
        assert all(state.devices[name].group is not None for name in names)
        clients.remove_all(guest)
        unloaded = modules.unload(guest, "arm_smmu_v3", check=False)
        assert unloaded.status == 0, unloaded.err
        assert clients.pci(unloaded.after) == []
        modules.load(guest, "arm_smmu_v3")
        # No rescan, because in 6.1 it would disturb the host bridge's own scan.
        modules.load(guest, clients.PLATFORM_DEVICES)


# With ACPI nothing that could leak is allocated before the deferral (iort_iommu_xlate).
@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.known_issue("failed-probe-oopses-on-removal")
def test_removing_a_deferred_device_drops_its_pending_probe(guest: Guest) -> None:
    """Removing a deferred device removes it from the list of deferred probes.

    driver_deferred_probe_del in device_del. The kernel walks the list when the IOMMU registers."""
    for name in clients.drivers(guest.machine):
        modules.load(guest, name)
    deferred = devices.deferred(guest)
    assert deferred == sorted(clients.behind(guest.state()))
    for name in clients.pci(guest.state()):
        require_survival(devices.remove(guest, name, check=False))
    if clients.platform(guest.state()):
        guest.run(f"modprobe {clients.PLATFORM_DEVICES}; rmmod {clients.PLATFORM_DEVICES}")
    assert devices.deferred(guest) == []
    state = modules.load(guest, guest.machine.iommu.driver).after
    assert clients.behind(state) == []
    clients.add_all(guest)
    bound = devices.wait_for(guest, "clients to be bound", clients.are_bound(deferred))
    assert all(bound.devices[name].group is not None for name in deferred)
