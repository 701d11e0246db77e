# SPDX-License-Identifier: GPL-2.0-only
"""Firmware that is wrong about the IOMMU, or says more than one thing of a device.

Whatever it says, a driver that is bound past an IOMMU that firmware names is told: its DMA
goes untranslated, and nothing in the log says so.
"""

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.iommu import clients
from harness.iommu.audit import survives
from harness.iommu.behaviour import (
    ALIASES_ARE_REFUSED,
    DIRECT_IS_NOBODYS,
    FIRMWARE_RESERVES,
    GROUPS_AT_REGISTRATION,
)
from harness.iommu.groups import set_group_type
from harness.plugin.plugin import GuestFactory, Shows

pytestmark = pytest.mark.machines("smmuv3")

CLIENT0, CLIENT1 = "b000000.client0", "b001000.client1"

# Of dts/reserved-regions.dts: two pages that stay where they are, one that is left alone.
DIRECT, UNUSED = 0x4F000000, 0xFFFFF000
PAGE = 0x1000


def groups(state: State) -> list[set[str]]:
    """Of the clients."""
    found = (set(group.devices) & {CLIENT0, CLIENT1} for group in state.groups.values())
    return sorted((each for each in found if each), key=sorted)


def drivers(state: State) -> list[str]:
    return [state.devices[name].driver for name in (CLIENT0, CLIENT1) if name in state.devices]


@pytest.mark.parametrize("preset", ["repeated-stream-id", "several-stream-ids"])
def test_device_can_have_several_stream_ids(guest_factory: GuestFactory, preset: str) -> None:
    """One more than once, too (b00d24997a11)."""
    state = clients.bound(guest_factory(f"+{preset}", bound=True))
    assert groups(state) == [{CLIENT0}]
    assert drivers(state) == ["iommu_client"]


@pytest.mark.parametrize("preset", ["repeated-stream-id", "several-stream-ids"])
def test_removing_a_device_frees_all_its_stream_ids(
    guest_factory: GuestFactory, preset: str
) -> None:
    """arm_smmu_remove_master takes each out of the tree, or the next one finds it there."""
    guest = guest_factory(f"+{preset}", bound=True)
    before = clients.bound(guest)
    for _ in range(3):
        modules.load(guest, "iommu_client_device")
        gone = modules.unload(guest, "iommu_client_device").after
        assert CLIENT0 not in gone.devices
        back = modules.load(guest, "iommu_client_device").after
        assert groups(back) == groups(before)


@pytest.mark.known_issue("stream-alias-bug-on")
@pytest.mark.excused(untranslated="the second client is what is left without a group")
def test_shared_stream_id_goes_to_one_client(guest_factory: GuestFactory) -> None:
    """arm_smmu_insert_master refuses the second; whichever that is goes untranslated."""
    guest = guest_factory("+shared-stream-id")
    modules.load(guest, "arm_smmu_v3")
    step = modules.load(guest, "iommu_client")
    survives(step)
    assert step.status == 0
    assert drivers(step.after) == ["iommu_client", "iommu_client"]
    (group,) = groups(step.after)
    assert len(group) == 1
    assert group | set(step.after.untranslated) == {CLIENT0, CLIENT1}
    said = [entry.text for entry in guest.kmsg()]
    assert any(CLIENT0 in line and CLIENT1 in line for line in said), "nobody is told of it"


@pytest.mark.needs(ALIASES_ARE_REFUSED)
@pytest.mark.excused(untranslated="the second client is what is left without a group")
def test_refused_client_does_not_keep_the_shared_stream_id(guest_factory: GuestFactory) -> None:
    """Both go and come back: who is first has it, and nothing of the refusal is left."""
    guest = guest_factory("+shared-stream-id")
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client")
    for _ in range(3):
        modules.load(guest, "iommu_client_device")
        gone = modules.unload(guest, "iommu_client_device").after
        assert groups(gone) == []
        back = modules.load(guest, "iommu_client_device").after
        assert [len(group) for group in groups(back)] == [1]


@pytest.mark.errors("Failed to register iommu", "failed with error -34")
@pytest.mark.excused(untranslated="its client goes without, or all do")
def test_stream_id_out_of_range_is_rejected(guest_factory: GuestFactory, shows: Shows) -> None:
    """arm_smmu_insert_master gives -ERANGE: to its own device, or since groups come at
    registration to the whole SMMU."""
    guest = guest_factory("+stream-id-out-of-range")
    modules.load(guest, "arm_smmu_v3")
    state = modules.load(guest, "iommu_client").after
    if shows(GROUPS_AT_REGISTRATION):
        assert (state.groups, state.iommus) == ({}, {})
        assert any("failed with error -34" in entry.text for entry in guest.kmsg())
        assert state.refcount("arm_smmu_v3") == 0
    else:
        assert groups(state) == [{CLIENT0}]
        assert state.untranslated == [CLIENT1]


@pytest.mark.excused(untranslated="the client with the bad stream ID goes without")
def test_failed_insert_releases_the_valid_stream_ids(guest_factory: GuestFactory) -> None:
    """arm_smmu_insert_master takes back the streams before the one that failed, or the
    tree keeps those of a device that has failed: another client has the same. They come after
    the SMMU has registered, which could fail with them
    (test_stream_id_out_of_range_is_rejected)."""
    guest = guest_factory("+half-out-of-range")
    clients.remove_all(guest)
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client")
    for _ in range(3):
        clients.remove_all(guest)
        state = modules.load(guest, "iommu_client_device").after
        assert groups(state) == [{CLIENT0}]


@pytest.mark.excused(untranslated="that is what firmware has asked for")
@pytest.mark.parametrize("arguments", ["", "fw_devlink.strict=1"], ids=["links", "strict"])
def test_client_of_a_disabled_iommu_binds_untranslated(
    guest_factory: GuestFactory, arguments: str
) -> None:
    """of_iommu_configure takes a disabled IOMMU for none, which nobody waits for; and no
    device link is made to it (of_link_to_phandle)."""
    guest = guest_factory("+disabled-iommu", arguments=arguments)
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client")
    bound = clients.are_bound([CLIENT0, CLIENT1])
    state = devices.wait_for(guest, "both clients to be bound", bound)
    assert state.untranslated == [CLIENT1]
    assert groups(state) == [{CLIENT0}]


@pytest.mark.known_issue("half-filled-fwspec-oopses", "failed-probe-oopses-on-removal")
@pytest.mark.excused(untranslated="that is what firmware has asked for")
def test_client_with_one_of_two_iommus_disabled_gets_no_group(guest_factory: GuestFactory) -> None:
    """of_iommu_configure: one of them is disabled, and the stream ID of the other is no more
    its than that one's."""
    guest = guest_factory("+half-disabled-iommu")
    modules.load(guest, "arm_smmu_v3")
    for _ in range(2):
        modules.load(guest, "iommu_client")
        state = guest.state()
        assert drivers(state) == ["iommu_client", "iommu_client"]
        assert groups(state) == [{CLIENT0}]
        modules.unload(guest, "iommu_client")


@pytest.fixture
def arguments() -> str:
    """The kernel's, for what takes them from a parameter."""
    return ""


@pytest.fixture
def reserved(guest_factory: GuestFactory, arguments: str) -> Guest:
    """A guest with the SMMU's driver, and a client for which firmware reserves regions."""
    guest = guest_factory("+reserved-regions", arguments=arguments)
    modules.load(guest, "arm_smmu_v3")
    return guest


def mapped(step: Step, address: int) -> bool:
    """Whether the client that was bound says that the address is mapped to itself; if not,
    that it is mapped to nothing."""
    where = mapped_to(step)
    assert where in (0, address), f"{address:#x} is mapped to {where:#x}"
    return where == address


def mapped_to(step: Step) -> int:
    """Where the client that was bound says that its address is mapped; to 0 it is not."""
    (said,) = [entry.text for entry in step.kmsg if "is mapped to" in entry.text]
    return int(said.rpartition(" ")[2], 16)


def look(guest: Guest, address: int) -> bool:
    """The same, of a client that is bound for it."""
    guest.run(f"echo {address} > /sys/module/iommu_client/parameters/look")
    found = mapped(devices.bind(guest, CLIENT0, "iommu_client"), address)
    devices.unbind(guest, CLIENT0)
    return found


@pytest.mark.needs(FIRMWARE_RESERVES)
def test_direct_region_is_mapped_before_the_driver_probes(reserved: Guest) -> None:
    """iommu_create_device_direct_mappings: all of it and no more, in each domain that the
    device is given, though not where it is left alone."""
    step = modules.load(reserved, "iommu_client", look=str(DIRECT))
    assert mapped(step, DIRECT)
    number = step.after.devices[CLIENT0].group
    assert number is not None
    told = reserved.run(f"cat /sys/kernel/iommu_groups/{number}/reserved_regions").out.decode()
    assert told.splitlines() == [
        "0x0000000008000000 0x00000000080fffff msi",
        "0x000000004f000000 0x000000004f001fff direct",
        "0x00000000fffff000 0x00000000ffffffff reserved",
    ]
    devices.unbind(reserved, CLIENT0)
    for _ in range(2):
        assert look(reserved, DIRECT + PAGE)
        assert not look(reserved, DIRECT + 2 * PAGE)
        assert not look(reserved, UNUSED)
        assert set_group_type(reserved, number, "identity").status == 0
        assert set_group_type(reserved, number, "DMA").status == 0
    assert look(reserved, DIRECT)


@pytest.mark.needs(FIRMWARE_RESERVES)
@pytest.mark.parametrize(("address", "used"), [(UNUSED, False), (UNUSED - PAGE, True)])
def test_dma_avoids_reserved_regions(reserved: Guest, address: int, used: bool) -> None:
    """iova_reserve_iommu_regions: addresses are taken from the top, but for that page."""
    step = modules.load(reserved, "iommu_client", buffer=str(PAGE), look=str(address))
    found = mapped_to(step)
    assert bool(found) == used, f"{address:#x} is mapped to {found:#x}"


@pytest.mark.needs(DIRECT_IS_NOBODYS)
@pytest.mark.parametrize("arguments", ["", "iommu.passthrough=1"], ids=["DMA", "identity"])
def test_direct_region_blocks_a_claim(reserved: Guest) -> None:
    """A user would be given a domain without the region, whatever the group's own is like; and
    who is refused changes nothing."""
    modules.load(reserved, "iommu_client")
    devices.unbind(reserved, CLIENT0)
    refused = modules.load(reserved, "dma_owner", device=CLIENT0)
    assert refused.err, "the claim was granted"
    assert "Invalid argument" in refused.err or "EINVAL" in refused.err
    assert look(reserved, DIRECT)
