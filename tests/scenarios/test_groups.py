# SPDX-License-Identifier: GPL-2.0-only
"""The lifetime of devices and their IOMMU groups, from device_add to device_del.

From "iommu: Add iommu_init/deinit_device() paired functions" (aa0958570f24):
iommu_deinit_device undoes everything that iommu_init_device has done, in the order
release_device, the domains (with the last device), module_put.
"""

import re

import pytest

from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.iommu import clients, finding
from harness.iommu.behaviour import (
    GROUP_RESERVED_REGIONS,
    GROUPS_AT_REGISTRATION,
    LOWEST_FREE_GROUP_ID,
)
from harness.plugin.plugin import GuestFactory, Shows

RELEASING = re.compile(r"Releasing group (\d+)")


def group_of(state: State, name: str) -> int:
    number = state.devices[name].group
    assert number is not None, f"{name} has no group"
    return number


def nic_of(state: State) -> str:
    return clients.nics(state)[0]


def test_group_is_created_and_released_with_its_only_device(bound_guest: Guest) -> None:
    """A group is released with its only device, and created again when the device is rescanned."""
    before = bound_guest.state()
    nic = nic_of(before)
    number = group_of(before, nic)
    assert before.groups[number].devices == (nic,)
    removed = devices.remove(bound_guest, nic).after
    assert number not in removed.groups
    assert removed.groups == {n: g for n, g in before.groups.items() if n != number}
    assert nic in devices.rescan(bound_guest).after.groups[number].devices


@pytest.mark.parametrize("first", [0, 1])
def test_group_exists_until_its_last_device_is_removed(
    guest_factory: GuestFactory, first: int
) -> None:
    """A shared group exists until its last device is removed, in either order."""
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bind_all(guest)
    nics = clients.nics(before)
    number = group_of(before, nics[0])
    assert set(before.groups[number].devices) == set(nics)
    one_left = devices.remove(guest, nics[first]).after
    assert one_left.groups[number].devices == (nics[1 - first],)
    assert one_left.devices[nics[1 - first]].driver == "e1000"
    none_left = devices.remove(guest, nics[1 - first]).after
    assert number not in none_left.groups


@pytest.mark.known_issue("rescan-splits-functions")
def test_rescanned_functions_share_a_group(guest_factory: GuestFactory) -> None:
    """Functions without isolation share a group again after they are removed and rescanned."""
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bind_all(guest)
    nics = clients.nics(before)
    for name in nics:
        devices.remove(guest, name)
    assert_shared(devices.rescan(guest).after, nics)


def assert_shared(state: State, names: list[str]) -> None:
    numbers = {group_of(state, name) for name in names}
    finding.require(
        len(numbers) == 1, "functions-share-a-group", ", ".join(names), f"{len(numbers)} groups"
    )


@pytest.mark.parametrize(
    "which", [0, pytest.param(1, marks=pytest.mark.known_issue("rescan-splits-functions"))]
)
def test_rescanned_device_rejoins_its_group(guest_factory: GuestFactory, which: int) -> None:
    """A device that is removed and rescanned rejoins the group of its sibling, and binds.

    The group is in use, and keeps the default domain that it had when it was created."""
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bind_all(guest)
    name = clients.nics(before)[which]
    for _ in range(2):
        devices.remove(guest, name)
        after = devices.rescan(guest).after
        assert after.devices[name].driver == "e1000"
        assert_shared(after, clients.nics(before))
        assert after.groups == before.groups


@pytest.mark.needs(LOWEST_FREE_GROUP_ID)
def test_group_ids_are_reused(bound_guest: Guest) -> None:
    """The ID of a released group is reused: all group IDs are the same after ten cycles.

    ida_free in iommu_group_release."""
    before = bound_guest.state()
    nic = nic_of(before)
    for _ in range(10):
        devices.remove(bound_guest, nic)
        devices.rescan(bound_guest)
    after = bound_guest.state()
    assert set(after.groups) == set(before.groups)
    assert group_of(after, nic) == group_of(before, nic)


@pytest.mark.needs(LOWEST_FREE_GROUP_ID)
def test_new_group_gets_the_lowest_free_id(guest_factory: GuestFactory) -> None:
    """Each new group gets the lowest free ID."""
    guest = guest_factory("+isolated-functions", bound=True)
    before = clients.bind_all(guest)
    one, two = clients.nics(before)
    low, high = sorted((group_of(before, one), group_of(before, two)))
    for name in (one, two):
        devices.remove(guest, name)
    # The bus scan finds functions in ascending order.
    after = devices.rescan(guest).after
    assert (group_of(after, one), group_of(after, two)) == (low, high)


def released(step: Step) -> list[int]:
    """The IDs of the groups that the kernel logs as released."""
    return [int(found[1]) for each in step.kmsg if (found := RELEASING.search(each.text))]


def test_group_is_released_once(bound_guest: Guest) -> None:
    """A group is released exactly once, when its device is removed.

    The last kobject reference releases the group. Devices, sysfs and users hold references."""
    before = bound_guest.state()
    tracing.debug(bound_guest, "func iommu_group_release +p")
    nic = nic_of(before)
    assert released(devices.unbind(bound_guest, nic)) == []
    assert released(devices.remove(bound_guest, nic)) == [group_of(before, nic)]
    assert released(devices.rescan(bound_guest)) == []


def test_shared_group_is_released_with_its_last_device(guest_factory: GuestFactory) -> None:
    """A shared group is released when its last device is removed, not before."""
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bind_all(guest)
    tracing.debug(guest, "func iommu_group_release +p")
    one, two = clients.nics(before)
    assert released(devices.remove(guest, one)) == []
    assert released(devices.remove(guest, two)) == [group_of(before, two)]


@pytest.mark.machines("smmuv3")
def test_destroying_a_client_releases_its_group_once(guest: Guest) -> None:
    """Destroying a platform client releases its group exactly once."""
    modules.load(guest, "iommu_client_device")
    before = clients.bind_all(guest)
    tracing.debug(guest, "func iommu_group_release +p")
    numbers = [group_of(before, name) for name in clients.platform(before)]
    assert sorted(released(modules.unload(guest, "iommu_client_device"))) == sorted(numbers)


def test_sysfs_links_are_symmetric(bound_guest: Guest) -> None:
    """The sysfs links of a device to its IOMMU and group exist in both directions or not at all.

    iommu_device_link and iommu_group_add_device create device -> iommu, iommu -> device,
    device -> group and group -> device. No link outlives the device."""
    before = bound_guest.state()
    (iommu,) = before.iommus
    assert set(before.iommus[iommu]) == set(before.grouped)
    for name in before.grouped:
        assert before.devices[name].iommu == iommu
        assert name in before.groups[group_of(before, name)].devices
    nic = nic_of(before)
    removed = devices.remove(bound_guest, nic).after
    assert nic not in removed.iommus[iommu]
    assert all(nic not in group.devices for group in removed.groups.values())
    assert devices.rescan(bound_guest).after.iommus == before.iommus


# arm-smmu-v3 uses MSI_IOVA_BASE, a range that software chooses. QEMU's virtio-iommu reports the
# doorbell of the machine's ITS to its driver.
MSI_REGIONS = {
    "arm_smmu_v3": "0x0000000008000000 0x00000000080fffff msi",
    "virtio_iommu": "0x0000000008090000 0x000000000809ffff msi",
}


def reserved(guest: Guest, number: int) -> list[str]:
    text = guest.run(f"cat /sys/kernel/iommu_groups/{number}/reserved_regions").out
    return text.splitlines()


@pytest.mark.needs(GROUP_RESERVED_REGIONS)
def test_group_lists_its_msi_region(bound_guest: Guest) -> None:
    """Each group lists its MSI region as a reserved region, and each read returns the same.

    Each read calls arm_smmu_get_resv_regions or viommu_get_resv_regions."""
    state = bound_guest.state()
    for number in state.groups:
        first = reserved(bound_guest, number)
        assert first == [MSI_REGIONS[bound_guest.machine.iommu.driver]]
        assert reserved(bound_guest, number) == first


@pytest.mark.needs(GROUP_RESERVED_REGIONS)
def test_shared_group_lists_its_msi_region_once(guest_factory: GuestFactory) -> None:
    """A group with several devices lists their common MSI region once."""
    guest = guest_factory("+multifunction", bound=True)
    state = clients.bind_all(guest)
    number = group_of(state, nic_of(state))
    assert reserved(guest, number) == [MSI_REGIONS[guest.machine.iommu.driver]]


def test_unbound_device_has_a_group_only_if_registration_creates_groups(
    guest: Guest, shows: Shows
) -> None:
    """A rescanned device without a driver has a group only if registration creates groups."""
    modules.load(guest, guest.machine.iommu.driver)
    nic = clients.pci(guest.state())[0]
    devices.remove(guest, nic)
    found = devices.rescan(guest).after.devices[nic]
    assert found.driver == ""
    assert (found.group is not None) == shows(GROUPS_AT_REGISTRATION)


def test_removing_a_bound_or_unbound_device_leaves_the_same_state(bound_guest: Guest) -> None:
    """Removing a device leaves the same state whether the device is bound or unbound."""
    before = bound_guest.state()
    nic = nic_of(before)
    bound = devices.remove(bound_guest, nic).after
    devices.rescan(bound_guest)
    devices.unbind(bound_guest, nic)
    assert devices.remove(bound_guest, nic).after == bound
