# SPDX-License-Identifier: GPL-2.0-only
"""The life of devices and their IOMMU groups: from device_add to device_del, and every
error on the way.

From "iommu: Add iommu_init/deinit_device() paired functions" (aa0958570f24): whatever
iommu_init_device has done, iommu_deinit_device undoes, in the order release_device,
domains of the last device, module_put; error paths share that code.
"""

import re

import pytest

from harness.guest import clients, devices, modules, tracing, vfio
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.kernel.artifact import Kernel
from harness.pytest_plugin import ExpectSplat, GuestFactory, Shows
from harness.scenario import audit
from harness.scenario.behaviour import (
    DMA_OWNERSHIP,
    FIRST_ATTACH_WARNS,
    GROUPS_AT_REGISTRATION,
)

RELEASING = re.compile(r"Releasing group (\d+)")


def group_of(state: State, name: str) -> int:
    number = state.devices[name].group
    assert number is not None, f"{name} has no group"
    return number


def nic_of(state: State) -> str:
    return clients.nics(state)[0]


def test_a_group_comes_and_goes_with_its_only_device(bound_guest: Guest) -> None:
    before = bound_guest.state()
    nic = nic_of(before)
    number = group_of(before, nic)
    assert before.groups[number].devices == (nic,)
    gone = devices.remove(bound_guest, nic).after
    assert number not in gone.groups
    assert gone.groups == {n: g for n, g in before.groups.items() if n != number}
    assert nic in devices.rescan(bound_guest).after.groups[number].devices


@pytest.mark.parametrize("first", [0, 1])
def test_a_group_lives_until_its_last_device_goes(guest_factory: GuestFactory, first: int) -> None:
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bound(guest)
    nics = clients.nics(before)
    number = group_of(before, nics[0])
    assert set(before.groups[number].devices) == set(nics)
    left = devices.remove(guest, nics[first]).after
    assert left.groups[number].devices == (nics[1 - first],)
    assert left.devices[nics[1 - first]].driver == "e1000"
    gone = devices.remove(guest, nics[1 - first]).after
    assert number not in gone.groups


@pytest.mark.known_issue("rescan-splits-functions")
def test_functions_that_come_back_share_a_group_again(guest_factory: GuestFactory) -> None:
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bound(guest)
    nics = clients.nics(before)
    for name in nics:
        devices.remove(guest, name)
    assert_shared(devices.rescan(guest).after, nics)


def assert_shared(state: State, names: list[str]) -> None:
    numbers = {group_of(state, name) for name in names}
    assert len(numbers) == 1, f"{' and '.join(names)} have groups of their own"


@pytest.mark.parametrize(
    "which", [0, pytest.param(1, marks=pytest.mark.known_issue("rescan-splits-functions"))]
)
def test_a_device_that_returns_to_its_group_is_a_full_member(
    guest_factory: GuestFactory, which: int
) -> None:
    """It joins a group that is in use, with a domain of its own choice long made."""
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bound(guest)
    name = clients.nics(before)[which]
    for _ in range(2):
        devices.remove(guest, name)
        after = devices.rescan(guest).after
        assert after.devices[name].driver == "e1000"
        assert_shared(after, clients.nics(before))
        assert after.groups == before.groups


def test_group_numbers_are_used_again(bound_guest: Guest) -> None:
    """ida_free in iommu_group_release: ten devices later the numbers are the same."""
    before = bound_guest.state()
    nic = nic_of(before)
    for _ in range(10):
        devices.remove(bound_guest, nic)
        devices.rescan(bound_guest)
    after = bound_guest.state()
    assert set(after.groups) == set(before.groups)
    assert group_of(after, nic) == group_of(before, nic)


def test_the_lowest_free_number_is_taken(guest_factory: GuestFactory) -> None:
    guest = guest_factory("+isolated-functions", bound=True)
    before = clients.bound(guest)
    one, two = clients.nics(before)
    low, high = sorted((group_of(before, one), group_of(before, two)))
    for name in (one, two):
        devices.remove(guest, name)
    # Functions are found in their order.
    after = devices.rescan(guest).after
    assert (group_of(after, one), group_of(after, two)) == (low, high)


def released(step: Step) -> list[int]:
    return [int(found[1]) for each in step.kmsg if (found := RELEASING.search(each.text))]


def test_a_group_is_released_once(bound_guest: Guest) -> None:
    """By the last of kobject references: the device's, sysfs's, a holder's."""
    before = bound_guest.state()
    tracing.debug(bound_guest, "func iommu_group_release +p")
    nic = nic_of(before)
    assert released(devices.unbind(bound_guest, nic)) == []
    assert released(devices.remove(bound_guest, nic)) == [group_of(before, nic)]
    assert released(devices.rescan(bound_guest)) == []


def test_a_shared_group_is_released_with_its_last_device(guest_factory: GuestFactory) -> None:
    guest = guest_factory("+multifunction", bound=True)
    before = clients.bound(guest)
    tracing.debug(guest, "func iommu_group_release +p")
    one, two = clients.nics(before)
    assert released(devices.remove(guest, one)) == []
    assert released(devices.remove(guest, two)) == [group_of(before, two)]


@pytest.mark.machines("smmuv3")
def test_each_destroyed_client_releases_its_group_once(guest: Guest) -> None:
    modules.load(guest, "iommu_client_device")
    before = clients.bound(guest)
    tracing.debug(guest, "func iommu_group_release +p")
    numbers = [group_of(before, name) for name in clients.platform(before)]
    assert sorted(released(modules.unload(guest, "iommu_client_device"))) == sorted(numbers)


def test_links_go_both_ways(bound_guest: Guest) -> None:
    """iommu_device_link and iommu_group_add_device: device -> iommu, iommu -> device,
    device -> group, group -> device; none of them outlives the device."""
    before = bound_guest.state()
    (iommu,) = before.iommus
    assert set(before.iommus[iommu]) == set(before.grouped)
    for name in before.grouped:
        assert before.devices[name].iommu == iommu
        assert name in before.groups[group_of(before, name)].devices
    nic = nic_of(before)
    gone = devices.remove(bound_guest, nic).after
    assert nic not in gone.iommus[iommu]
    assert all(nic not in group.devices for group in gone.groups.values())
    assert devices.rescan(bound_guest).after.iommus == before.iommus


# Of software's choice, where the IOMMU's driver has no other (MSI_IOVA_BASE); the doorbell
# of the machine's ITS, which QEMU's virtio-iommu tells its driver.
MSI_WINDOWS = {
    "arm_smmu_v3": "0x0000000008000000 0x00000000080fffff msi",
    "virtio_iommu": "0x0000000008090000 0x000000000809ffff msi",
}


def reserved(guest: Guest, number: int) -> list[str]:
    text = guest.run(f"cat /sys/kernel/iommu_groups/{number}/reserved_regions").out.decode()
    return text.splitlines()


def test_a_group_reserves_the_window_of_its_interrupts(bound_guest: Guest) -> None:
    """arm_smmu_get_resv_regions, viommu_get_resv_regions; told anew at each read."""
    state = bound_guest.state()
    for number in state.groups:
        first = reserved(bound_guest, number)
        assert first == [MSI_WINDOWS[bound_guest.machine.iommu.driver]]
        assert reserved(bound_guest, number) == first


def test_functions_of_a_group_reserve_a_window_once(guest_factory: GuestFactory) -> None:
    guest = guest_factory("+multifunction", bound=True)
    state = clients.bound(guest)
    number = group_of(state, nic_of(state))
    assert reserved(guest, number) == [MSI_WINDOWS[guest.machine.iommu.driver]]


def test_a_device_without_a_driver_has_a_group_only_since_registration_gives_it(
    guest: Guest, shows: Shows
) -> None:
    """After a rescan as after boot."""
    modules.load(guest, guest.machine.iommu.driver)
    nic = next(name for name in clients.behind(guest.state()) if ":" in name)
    devices.remove(guest, nic)
    found = devices.rescan(guest).after.devices[nic]
    assert found.driver == ""
    assert (found.group is not None) == shows(GROUPS_AT_REGISTRATION)


def test_removal_under_the_driver_and_without_are_the_same(bound_guest: Guest) -> None:
    before = bound_guest.state()
    nic = nic_of(before)
    bound = devices.remove(bound_guest, nic).after
    devices.rescan(bound_guest)
    devices.unbind(bound_guest, nic)
    assert devices.remove(bound_guest, nic).after == bound


_CYCLES = 40

# Of /proc/meminfo: what memory is used for that the kernel keeps account of.
_ACCOUNTED = (
    *("MemFree", "Buffers", "Cached", "AnonPages", "Slab", "KernelStack"),
    *("PageTables", "SecPageTables", "VmallocUsed", "Percpu"),
)


_UNACCOUNTED = "unaccounted pages"


def footprint(guest: Guest) -> dict[str, int]:
    """What the kernel holds that a leak would add to: objects of the slabs that drivers and
    the IOMMU's core use, pages of IOMMUs' tables where those are counted (since 6.11), and
    pages that nobody keeps account of, as those of a driver's own tables."""
    guest.run(
        "echo 3 > /proc/sys/vm/drop_caches;"
        " for c in /sys/kernel/slab/kmalloc-* /sys/kernel/slab/iommu_*; do echo 1 > $c/shrink; done"
    )
    texts = [guest.run(f"cat /proc/{name}").out.decode() for name in ("slabinfo", "vmstat")]
    slabs, vmstat = ([line.split() for line in text.splitlines()] for text in texts)
    found = {row[0]: int(row[1]) for row in slabs if row[0].startswith(("kmalloc-", "iommu_"))}
    found |= {row[0]: int(row[1]) for row in vmstat if row[0] == "nr_iommu_pages"}
    return found | {_UNACCOUNTED: unaccounted(guest)}


def unaccounted(guest: Guest) -> int:
    """Pages in use by whoever took them, less those that wait on processors' lists."""
    rows = guest.run("cat /proc/meminfo").out.decode().splitlines()
    memory = {row.partition(":")[0]: int(row.split()[1]) for row in rows}
    zones = guest.run("cat /proc/zoneinfo").out.decode()
    waiting = sum(int(count) for count in re.findall(r"^ +count: +(\d+)$", zones, re.MULTILINE))
    used = memory["MemTotal"] - sum(memory.get(name, 0) for name in _ACCOUNTED)
    return used // 4 - waiting


# Their stacks are kept for ever, each new one in pages that nobody keeps account of.
_KEEP_STACKS = ("KASAN", "DEBUG_KMEMLEAK")


def assert_nothing_grows(kernel: Kernel, guest: Guest, cycle: str) -> None:
    """A cycle leaves what it found. A leak is one object or page for each, again and again;
    what is freed late, or kept once for later, is not."""
    rounds = f"for n in $(seq {_CYCLES}); do {cycle.replace(';', ' &&')} || break; done"
    assert guest.run(rounds).number == 0
    leaks = grown(guest, rounds)
    if leaks:
        again = grown(guest, rounds)
        leaks = {name: count for name, count in again.items() if name in leaks}
    if any(kernel.option(name) for name in _KEEP_STACKS):
        leaks.pop(_UNACCOUNTED, None)
    assert not leaks, f"{_CYCLES} times {cycle!r} left {leaks}"


def grown(guest: Guest, rounds: str) -> dict[str, int]:
    before = footprint(guest)
    assert guest.run(rounds).number == 0
    after = footprint(guest)
    more = {name: after[name] - count for name, count in before.items()}
    return {name: count for name, count in more.items() if count > _CYCLES // 2}


def test_devices_that_come_and_go_leave_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """Group, default domain and its tables, the driver's own record, fwspec."""
    nic = nic_of(bound_guest.state())
    modules.unload(bound_guest, "e1000e")
    stub = "8086 10d3"  # e1000e
    modules.load(bound_guest, "pci-stub")
    bound_guest.run(f"echo {stub} > /sys/bus/pci/drivers/pci-stub/new_id")
    cycle = f"echo 1 > /sys/bus/pci/devices/{nic}/remove; echo 1 > /sys/bus/pci/rescan"
    assert_nothing_grows(kernel, bound_guest, cycle)
    assert bound_guest.state().devices[nic].driver == "pci-stub"


@pytest.mark.machines("smmuv3")
def test_clients_that_come_and_go_leave_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    cycle = "modprobe iommu_client_device; rmmod iommu_client_device"
    assert_nothing_grows(kernel, bound_guest, cycle)


def test_drivers_that_come_and_go_leave_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    nic = nic_of(bound_guest.state())
    cycle = (
        f"echo {nic} > /sys/bus/pci/drivers/pci-stub/unbind;"
        f" echo {nic} > /sys/bus/pci/drivers/pci-stub/bind"
    )
    modules.load(bound_guest, "pci-stub")
    devices.override(bound_guest, nic, "pci-stub")
    devices.unbind(bound_guest, nic)
    devices.probe(bound_guest, nic)
    assert_nothing_grows(kernel, bound_guest, cycle)


@pytest.mark.known_issue("smmu-reload-leaks")
def test_an_iommu_that_comes_and_goes_leaves_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    driver = bound_guest.machine.iommu.driver
    clients.remove_all(bound_guest)
    assert_nothing_grows(kernel, bound_guest, f"rmmod {driver}; modprobe {driver}")


# Its error path frees what it could not get until 7.2 (iova_magazine_free): an oops that
# holds the group's mutex for ever, and shows of the paths around it nothing.
CACHES = "iova_domain_init_rcaches"


def assert_unwound(guest: Guest, name: str, bind: str, undo: str) -> int:
    """Each allocation of binding a device fails once. Where that is before it has a group,
    nothing has changed; one that has its group keeps it, whole, whatever comes after. How
    often it failed."""
    base = guest.state()
    failed = 0
    for failure in tracing.failures(guest, "write", bind, name, but_for=CACHES):
        after = guest.state()
        wrong = audit.findings(guest.machine, after)
        if after.devices[name].group is None and after.groups != base.groups:
            wrong.append(f"groups are {after.groups} and were {base.groups}")
        if after.modules.keys() != base.modules.keys():
            wrong.append(f"modules are {list(after.modules)} and were {list(base.modules)}")
        assert not wrong, f"with allocation {failure.number} failing: {'; '.join(wrong)}"
        failed += failure.status != 0
        if after != base:
            guest.run(undo)
    return failed


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue(
    "failed-probe-oopses-on-removal", "failed-probe-puts-twice", "failed-link-is-ignored"
)
def test_a_platform_device_that_fails_to_bind_is_as_before(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """of_iommu_configure -> iommu_probe_device, then the driver core's own."""
    client = "b000000.client0"
    if shows(FIRST_ATTACH_WARNS) and not shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING: .*in iommu_setup_default_domain")
    modules.load(guest, "iommu_client_device")
    modules.load(guest, "arm_smmu_v3")
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "iommu_client")
    driver = "/sys/bus/platform/drivers/iommu_client"
    anew = "rmmod iommu_client_device; modprobe iommu_client_device"
    assert assert_unwound(guest, client, f"{driver}/bind", anew) > 2
    assert guest.state().devices[client].driver == "iommu_client"


@pytest.mark.known_issue("failed-attach-warns", sometimes=True)
@pytest.mark.known_issue(
    "failed-probe-oopses-on-removal", "failed-probe-puts-twice", "failed-link-is-ignored"
)
def test_a_pci_device_that_fails_to_bind_is_as_before(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """pci_dma_configure, with a driver that does no more than bind."""
    smmu = guest.machine.iommu.driver == "arm_smmu_v3"
    if smmu and shows(FIRST_ATTACH_WARNS) and not shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING: .*in iommu_setup_default_domain")
    nic = next(name for name in clients.behind(guest.state()) if ":" in name)
    modules.load(guest, guest.machine.iommu.driver)
    modules.load(guest, "pci-stub")
    devices.override(guest, nic, "pci-stub")
    again = (
        f"echo 1 > /sys/bus/pci/devices/{nic}/remove; echo 1 > /sys/bus/pci/rescan;"
        f" echo pci-stub > /sys/bus/pci/devices/{nic}/driver_override"
    )
    failed = assert_unwound(guest, nic, "/sys/bus/pci/drivers/pci-stub/bind", again)
    assert failed > 2
    assert guest.state().devices[nic].driver == "pci-stub"


PRESENT = "/sys/module/iommu_client_device/parameters/present"


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(GROUPS_AT_REGISTRATION)
@pytest.mark.known_issue("failed-attach-is-detached")
@pytest.mark.splats("WARNING: .*in iommu_setup_default_domain")
def test_a_device_that_fails_to_be_added_leaves_nothing(guest: Guest) -> None:
    """iommu_bus_notifier: each allocation of adding two devices fails once. One that is
    added without a group goes without a trace, and gets a group when it is added again."""
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client_device")
    names = clients.platform(guest.state())
    guest.run(f"echo 0 > {PRESENT}")
    base = guest.state()
    without = 0
    for failure in tracing.failures(guest, "write", PRESENT, "1", but_for=CACHES):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        assert not wrong, f"with allocation {failure.number} failing: {'; '.join(wrong)}"
        without += any(name in state.devices and name not in state.grouped for name in names)
        guest.run(f"echo 0 > {PRESENT}")
        assert guest.state() == base, f"with allocation {failure.number} failing"
    assert without > 2
    assert set(guest.state().grouped) >= set(names)


@pytest.mark.needs(DMA_OWNERSHIP)  # 5.10's VFIO follows groups by a notifier instead
@pytest.mark.known_issue("vfio-keeps-group-it-failed-to-open")
def test_a_group_that_vfio_failed_to_take_goes_with_its_device(guest: Guest) -> None:
    """Each allocation of vfio-pci's probe fails once: the group's last reference goes with
    the device all the same."""
    nic = next(name for name in clients.behind(guest.state()) if ":" in name)
    modules.load(guest, guest.machine.iommu.driver)
    vfio.give(guest, nic)
    devices.unbind(guest, nic)
    failed = 0
    for failure in tracing.failures(guest, "write", "/sys/bus/pci/drivers/vfio-pci/bind", nic):
        failed += failure.status != 0
        if failure.status == 0:
            guest.run(f"echo {nic} > /sys/bus/pci/drivers/vfio-pci/unbind")
    assert failed > 2
    devices.unbind(guest, nic)
    left = devices.remove(guest, nic).after.groups
    assert left == {}, f"without its device there is group {list(left)}"


@pytest.mark.machines("smmuv3", "smmuv3-acpi")
@pytest.mark.known_issue("failed-smmu-probe-leaves-sysfs", "failed-attach-is-detached")
def test_an_smmu_that_fails_to_probe_leaves_nothing(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """arm_smmu_device_probe -> iommu_device_register -> bus_iommu_probe: what one device
    of the bus could not get undoes all the others."""
    if shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING: .*in iommu_setup_default_domain")
    smmu = next(name for name in guest.state().devices if "smmu" in name)
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "arm_smmu_v3")
    failed = 0
    probe = "/sys/bus/platform/drivers_probe"
    for failure in tracing.failures(guest, "write", probe, smmu, but_for=CACHES):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        if not state.devices[smmu].driver:
            failed += 1
            wrong += [f"group {number} is left" for number in state.groups]
            wrong += [f"IOMMU {name} is left" for name in state.iommus]
        else:
            clients.remove_all(guest)
            guest.run("rmmod arm_smmu_v3; modprobe arm_smmu_v3")
            clients.bring_back(guest)
        assert not wrong, f"with allocation {failure.number} failing: {'; '.join(wrong)}"
    assert failed > 10
    assert guest.state().devices[smmu].driver == "arm-smmu-v3"
