# SPDX-License-Identifier: GPL-2.0-only
"""Whether DMA is really translated, in QEMU's trace.

Refcounts and groups are the kernel's own view. Here a NIC sends a ping or a disk is read, and
QEMU's trace shows whether the accesses of the device went through the IOMMU.
"""

from collections.abc import Callable

import pytest

from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, groups, traffic, vfio
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import (
    DMA_OWNERSHIP,
    FAULT_INJECTION,
    GROUP_TYPE_WRITABLE,
    GROUPS_AT_REGISTRATION,
    PROBE_DEFERRAL,
    SHARED_GROUP_TYPE_WRITABLE,
)
from harness.iommu.groups import GroupType
from harness.plugin.applicable import not_applicable
from harness.plugin.plugin import GuestFactory, Shows

NIC, DISK, DRIVER = "virtio-net-pci", "virtio-blk-pci", "virtio-pci"

# A virtio NIC has a carrier immediately, an e1000e only after seconds. But in kernels without probe
# deferral virtio-pci binds at boot, before its IOMMU, because it is built in.
pytestmark = pytest.mark.needs(PROBE_DEFERRAL)


def nic_of(state: State) -> str:
    """The first of the machine's two devices."""
    return sorted(clients.pci(state))[0]


def disk_of(state: State) -> str:
    return sorted(clients.pci(state))[1]


def assert_translated(guest: Guest, nic: str) -> None:
    ping = traffic.ping(guest, nic)
    assert ping.answered, ping.text
    assert ping.translated > 0


def assert_direct(guest: Guest, nic: str) -> None:
    ping = traffic.ping(guest, nic)
    assert ping.answered, ping.text
    assert ping.translated == 0


def test_nic_dma_is_translated(talker: Guest) -> None:
    """DMA of a bound NIC goes through the IOMMU."""
    assert_translated(talker, nic_of(talker.state()))


def test_disk_dma_is_translated(talker: Guest) -> None:
    """DMA of a bound disk goes through the IOMMU."""
    disk = disk_of(talker.state())
    with traffic.dma_traced(talker) as trace:
        assert talker.run("dd if=/dev/vda of=/dev/null bs=64k count=4").status == 0
    assert trace.count(traffic.requester_ids(disk)) > 0


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.excused(untranslated="no IOMMU driver is loaded")
def test_dma_is_direct_without_the_iommu_driver(guest_factory: GuestFactory) -> None:
    """Without the IOMMU driver, QEMU's trace shows no translated DMA."""
    guest = guest_factory("+virtio", arguments="deferred_probe_timeout=0")
    state = modules.load(guest, "virtio_net").after
    assert_direct(guest, nic_of(state))


@pytest.mark.parametrize("argument", ["iommu.passthrough=1", "iommu.strict=0"])
def test_passthrough_is_direct_and_lazy_mode_translates(
    guest_factory: GuestFactory, argument: str
) -> None:
    """With iommu.passthrough=1 DMA is direct; with iommu.strict=0 it is translated."""
    guest = guest_factory("+virtio", arguments=argument, bound=True)
    nic = nic_of(clients.bind_all(guest))
    if "passthrough" in argument:
        assert_direct(guest, nic)
    else:
        assert_translated(guest, nic)


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_group_type_selects_translation(talker: Guest) -> None:
    """DMA is direct while the group's type is identity, and translated while it is DMA."""
    assert_follows_type(talker, "identity", "DMA", "identity", "DMA")


def unbound_siblings(guest_factory: GuestFactory) -> tuple[Guest, list[str], int]:
    """Boot a guest with two unbound NICs in one group. Returns guest, NICs and group."""
    guest = guest_factory("+virtio-siblings", bound=True)
    nics = sorted(clients.behind(clients.bind_all(guest)))
    (group,) = {guest.state().devices[name].group for name in nics}
    assert group is not None
    for name in nics:
        devices.unbind(guest, name)
    return guest, nics, group


@pytest.mark.needs(SHARED_GROUP_TYPE_WRITABLE)
def test_group_type_applies_to_each_device(guest_factory: GuestFactory) -> None:
    """A type change applies to every device of the group.

    iommu_group_store_type: the DMA operations are set for each device, not for the group
    (iommu_setup_dma_ops)."""
    guest, nics, group = unbound_siblings(guest_factory)
    changes: list[tuple[GroupType, Callable[[Guest, str], None]]] = [
        ("identity", assert_direct),
        ("DMA", assert_translated),
    ]
    for kind, assert_dma in changes:
        groups.set_group_type(guest, group, kind)
        for name in nics:
            devices.bind(guest, name, DRIVER)
            assert_dma(guest, name)
            devices.unbind(guest, name)


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
@pytest.mark.known_issue("virtio-iommu-lazy-oops")
def test_dma_fq_domain_translates(talker: Guest) -> None:
    """A DMA-FQ domain translates, and flushes its queue without a fault."""
    assert_follows_type(talker, "DMA-FQ", "identity", "DMA-FQ")


def test_removing_a_device_stops_its_flush_queue(guest_factory: GuestFactory) -> None:
    """Removing the last device of a group stops the flush queue of its domain.

    iommu_dma_free_fq: when the device is removed and the domain is freed, mappings that the
    driver has just unmapped are still queued until a timer of 10 ms expires."""
    guest = guest_factory("+virtio", arguments="iommu.strict=0", bound=True)
    nic = nic_of(clients.bind_all(guest))
    for _ in range(3):
        assert_translated(guest, nic)
        devices.remove(guest, nic)
        assert guest.run("usleep 30000").status == 0
        devices.rescan(guest)


def assert_follows_type(guest: Guest, *kinds: GroupType) -> None:
    """Set each type in turn, and check that the NIC's DMA is translated unless it is identity."""
    nic = nic_of(guest.state())
    group = guest.state().devices[nic].group
    assert group is not None
    for kind in kinds:
        devices.unbind(guest, nic)
        groups.set_group_type(guest, group, kind)
        devices.bind(guest, nic, DRIVER)
        (assert_direct if kind == "identity" else assert_translated)(guest, nic)
    # A timer empties a flush queue after 10 ms.
    assert guest.run("usleep 30000").status == 0


@pytest.mark.needs(FAULT_INJECTION)
@pytest.mark.machines("virtio-iommu", "virtio-iommu-acpi")
def test_failed_dma_mapping_is_unwound(talker: Guest) -> None:
    """A DMA mapping that fails is unwound: nothing stays mapped at its IOVA, and the next mapping
    there succeeds.

    Each allocation of a read fails once, including the allocations for its mapping. A virtio-iommu
    makes three for each mapping, while an SMMU already has its tables (viommu_map_pages;
    __iommu_dma_unmap warns if more is unmapped than requested)."""
    read = "dd if=/dev/vda of=/dev/null bs=4k count=1"
    fresh = "echo 1 > /proc/sys/vm/drop_caches"
    talker.new_kmsg()
    failnth.fail_all(talker, "sh", f"{fresh}; exec {read}")
    assert any("viommu_map_pages" in entry.text for entry in talker.new_kmsg())
    with traffic.dma_traced(talker) as trace:
        assert talker.run(f"{fresh}; {read}").status == 0
    assert trace.count(traffic.requester_ids(disk_of(talker.state()))) > 0


@pytest.mark.needs(SHARED_GROUP_TYPE_WRITABLE, FAULT_INJECTION)
def test_failed_type_change_does_not_affect_dma(guest_factory: GuestFactory) -> None:
    """A type change that fails with -ENOMEM does not change the DMA of any device.

    Each allocation of the change fails once. The first of two devices in the group may already
    have its new domain, and __iommu_group_set_domain_internal attaches the old domain again."""
    guest, nics, group = unbound_siblings(guest_factory)
    groups.set_group_type(guest, group, "identity")
    change = ("write", f"/sys/kernel/iommu_groups/{group}/type", "DMA")
    failed = 0
    for failure in failnth.fail_each(guest, *change, exclude=failnth.RCACHES):
        if failure.status == 0:
            groups.set_group_type(guest, group, "identity")
            continue
        failed += 1
        for nic in nics:
            devices.bind(guest, nic, DRIVER)
            assert_direct(guest, nic)
            devices.unbind(guest, nic)
    assert failed > 2


def test_dma_is_translated_after_rebinding(talker: Guest) -> None:
    """DMA of a device is translated after its driver is unbound and bound again."""
    nic = nic_of(talker.state())
    for _ in range(3):
        devices.unbind(talker, nic)
        devices.bind(talker, nic, DRIVER)
        assert_translated(talker, nic)


def test_dma_is_translated_after_a_rescan(talker: Guest) -> None:
    """DMA of a device is translated after the device is removed and rescanned.

    The device gets a new domain, and the IOMMU must not use the old domain."""
    nic = nic_of(talker.state())
    for _ in range(3):
        devices.remove(talker, nic)
        devices.rescan(talker)
        assert_translated(talker, nic)


def test_dma_is_translated_after_reloading_the_iommu_driver(talker: Guest) -> None:
    """DMA is translated again after the IOMMU driver is unloaded and loaded."""
    nic = nic_of(talker.state())
    driver = talker.machine.iommu.driver
    assert_translated(talker, nic)
    clients.remove_all(talker)
    modules.unload(talker, driver)
    modules.load(talker, driver)
    devices.rescan(talker)
    assert_translated(talker, nic)


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.parametrize("owner", ["vfio", "kernel"])
def test_dma_is_translated_after_a_claim_is_released(talker: Guest, owner: str) -> None:
    """DMA is translated after an owner releases the group.

    The group is attached to its default domain again, in place of the blocking domain."""
    nic = nic_of(talker.state())
    group = talker.state().devices[nic].group
    assert group is not None
    if owner == "vfio":
        vfio.bind_vfio(talker, nic)
        opened = vfio.run_user(talker, "group", group, nic, check=False)
        audit.require_success(opened)
        vfio.unbind_vfio(talker, nic)
    else:
        devices.unbind(talker, nic)
        modules.load(talker, "dma_owner", device=nic)
        modules.unload(talker, "dma_owner")
        devices.bind(talker, nic, DRIVER)
    assert_translated(talker, nic)


def test_failed_unload_does_not_affect_dma(talker: Guest) -> None:
    """DMA stays translated after a failed unload of the IOMMU driver."""
    nic = nic_of(talker.state())
    assert_translated(talker, nic)
    assert modules.unload(talker, talker.machine.iommu.driver, check=False).status == 1
    assert_translated(talker, nic)


def test_removing_another_device_does_not_affect_dma(talker: Guest) -> None:
    """The DMA of a NIC stays translated while another device is removed and rescanned."""
    state = talker.state()
    devices.remove(talker, disk_of(state))
    assert_translated(talker, nic_of(state))
    devices.rescan(talker)
    assert_translated(talker, nic_of(state))


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("unloaded-operations-stay")
@pytest.mark.excused(untranslated="the SMMU driver is unloaded")
def test_smmu_bypasses_dma_after_its_driver_is_unloaded(guest_factory: GuestFactory) -> None:
    """After its driver is unloaded, the SMMU bypasses all DMA.

    arm_smmu_device_remove -> arm_smmu_device_disable: if SMMUEN is clear and GBPA does not abort,
    DMA of a device is direct."""
    guest = guest_factory("+virtio", arguments="deferred_probe_timeout=0")
    modules.load(guest, "arm_smmu_v3")
    clients.remove_all(guest)
    for name in clients.behind(guest.state()):
        devices.remove(guest, name)
    modules.unload(guest, "arm_smmu_v3")
    modules.load(guest, "virtio_net")
    step = devices.rescan(guest, check=False)
    require_survival(step)
    assert step.after.untranslated
    assert_direct(guest, nic_of(step.after))


@pytest.mark.machines("smmuv3")
@pytest.mark.parametrize("neighbour", [False, True], ids=["alone", "neighbour"])
@pytest.mark.excused(
    untranslated="the SMMU must block such a stream", faults="the SMMU reports its DMA"
)
def test_dma_of_an_unattached_stream_is_blocked(
    guest_factory: GuestFactory, shows: Shows, neighbour: bool
) -> None:
    """The SMMU blocks DMA from a device that has no group.

    The device is bound before the SMMU driver is loaded, and the driver does not know its stream.
    While the bus has no stream table, the SMMU reports the DMA (C_BAD_STREAMID). Once a neighbour
    has a group, the bus has a stream table, and its other entries abort silently."""
    at_registration = shows(GROUPS_AT_REGISTRATION)
    if neighbour and at_registration:
        not_applicable("the host bridge is a neighbour already")
    guest = guest_factory("+virtio", arguments="deferred_probe_timeout=0")
    modules.load(guest, "virtio_net")
    nic, disk = nic_of(guest.state()), disk_of(guest.state())
    assert_direct(guest, nic)
    modules.load(guest, "arm_smmu_v3")
    if neighbour:
        devices.unbind(guest, disk)
        assert devices.bind(guest, disk, DRIVER).after.devices[disk].group is not None
    assert guest.state().devices[nic].group is None
    with traffic.dma_traced(guest) as trace:
        lost = guest.step("ping -c 1 -W 1 10.0.2.2")
    assert lost.status != 0
    assert trace.count(traffic.requester_ids(nic)) == 0
    # Without a neighbour the SMMU reports the DMA as soon as it is enabled, rate limited per five
    # seconds.
    log = lost.kmsg if neighbour else guest.kmsg()
    events = [entry.text for entry in log if "event 0x02 received" in entry.text]
    assert bool(events) != (neighbour or at_registration)
