# SPDX-License-Identifier: GPL-2.0-only
"""Firmware that describes the IOMMU incorrectly, or a device more than once.

If firmware describes an IOMMU for a device and its driver binds without that IOMMU, that is always
a finding: the DMA is untranslated, and the kernel does not log it.
"""

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.iommu import clients
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import (
    DEVICETREE_RESERVED_REGIONS,
    DIRECT_REGIONS_BLOCK_USERS,
    GROUP_RESERVED_REGIONS,
    GROUPS_AT_REGISTRATION,
    STREAM_ALIASES_REFUSED,
)
from harness.iommu.groups import set_group_type
from harness.plugin.plugin import GuestFactory, Shows

pytestmark = pytest.mark.machines("smmuv3")

CLIENT0, CLIENT1 = "b000000.client0", "b001000.client1"

# From dts/reserved-regions.dts: the first of two direct-mapped pages, and an unused page.
DIRECT, UNUSED = 0x4F000000, 0xFFFFF000
PAGE = 0x1000


def groups(state: State) -> list[set[str]]:
    """The groups of the clients, leaving out other devices."""
    found = (set(group.devices) & {CLIENT0, CLIENT1} for group in state.groups.values())
    return sorted((each for each in found if each), key=sorted)


def drivers(state: State) -> list[str]:
    return [state.devices[name].driver for name in (CLIENT0, CLIENT1) if name in state.devices]


@pytest.mark.parametrize("preset", ["repeated-stream-id", "several-stream-ids"])
def test_device_can_have_several_stream_ids(guest_factory: GuestFactory, preset: str) -> None:
    """A device can have several stream IDs, and firmware can repeat one (b00d24997a11)."""
    state = clients.bind_all(guest_factory(f"+{preset}", bound=True))
    assert groups(state) == [{CLIENT0}]
    assert drivers(state) == ["iommu_client"]


@pytest.mark.parametrize("preset", ["repeated-stream-id", "several-stream-ids"])
def test_removing_a_device_frees_all_its_stream_ids(
    guest_factory: GuestFactory, preset: str
) -> None:
    """Removing a device frees all its stream IDs for the next device with the same IDs.

    arm_smmu_remove_master removes each of them from the tree of streams."""
    guest = guest_factory(f"+{preset}", bound=True)
    before = clients.bind_all(guest)
    for _ in range(3):
        modules.load(guest, "iommu_client_device")
        removed = modules.unload(guest, "iommu_client_device").after
        assert CLIENT0 not in removed.devices
        recreated = modules.load(guest, "iommu_client_device").after
        assert groups(recreated) == groups(before)


@pytest.mark.known_issue("stream-alias-bug-on")
@pytest.mark.excused(untranslated="the second client has no group")
def test_shared_stream_id_is_assigned_to_one_client(guest_factory: GuestFactory) -> None:
    """The first of two clients gets their shared stream ID; the second is untranslated and logged.

    arm_smmu_insert_master rejects the second client, whichever client that is."""
    guest = guest_factory("+shared-stream-id")
    modules.load(guest, "arm_smmu_v3")
    step = modules.load(guest, "iommu_client", check=False)
    require_survival(step)
    assert step.status == 0
    assert drivers(step.after) == ["iommu_client", "iommu_client"]
    (group,) = groups(step.after)
    assert len(group) == 1
    assert group | set(step.after.untranslated) == {CLIENT0, CLIENT1}
    log = [entry.text for entry in guest.kmsg()]
    assert any(CLIENT0 in line and CLIENT1 in line for line in log), "the rejection is not logged"


@pytest.mark.needs(STREAM_ALIASES_REFUSED)
@pytest.mark.excused(untranslated="the second client has no group")
def test_rejected_client_does_not_keep_the_shared_stream_id(guest_factory: GuestFactory) -> None:
    """A rejected client does not keep the shared stream ID.

    Each time both clients are removed and created again, one of them gets the ID."""
    guest = guest_factory("+shared-stream-id")
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client")
    for _ in range(3):
        modules.load(guest, "iommu_client_device")
        removed = modules.unload(guest, "iommu_client_device").after
        assert groups(removed) == []
        recreated = modules.load(guest, "iommu_client_device").after
        assert [len(group) for group in groups(recreated)] == [1]


@pytest.mark.errors("Failed to register iommu", "failed with error -34")
@pytest.mark.excused(untranslated="one client, or all, have no group")
def test_stream_id_out_of_range_is_rejected(guest_factory: GuestFactory, shows: Shows) -> None:
    """A stream ID that is out of range is rejected with -ERANGE.

    arm_smmu_insert_master returns it. The client's own probe fails or, since groups are
    created at registration, the probe of the whole SMMU."""
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


@pytest.mark.excused(untranslated="the client with the invalid stream ID has no group")
def test_failed_insert_releases_the_valid_stream_ids(guest_factory: GuestFactory) -> None:
    """A device with one invalid stream ID releases its valid stream IDs for other devices.

    arm_smmu_insert_master must remove the streams before the invalid one from the tree, because
    the other client has the same stream ID. The clients are created after the SMMU has
    registered, because registration could fail with them
    (test_stream_id_out_of_range_is_rejected)."""
    guest = guest_factory("+half-out-of-range")
    clients.remove_all(guest)
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client")
    for _ in range(3):
        clients.remove_all(guest)
        state = modules.load(guest, "iommu_client_device").after
        assert groups(state) == [{CLIENT0}]


@pytest.mark.excused(untranslated="firmware disables the IOMMU")
@pytest.mark.parametrize("arguments", ["", "fw_devlink.strict=1"], ids=["links", "strict"])
def test_client_of_a_disabled_iommu_binds_without_translation(
    guest_factory: GuestFactory, arguments: str
) -> None:
    """A client behind a disabled IOMMU is not deferred, and binds without translation.

    of_iommu_configure ignores a disabled IOMMU, and of_link_to_phandle creates no device link
    to it."""
    guest = guest_factory("+disabled-iommu", arguments=arguments)
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client")
    bound = clients.are_bound([CLIENT0, CLIENT1])
    state = devices.wait_for(guest, "both clients to be bound", bound)
    assert state.untranslated == [CLIENT1]
    assert groups(state) == [{CLIENT0}]


@pytest.mark.known_issue("half-filled-fwspec-oopses", "failed-probe-oopses-on-removal")
@pytest.mark.excused(untranslated="firmware disables the IOMMU")
def test_client_with_one_of_two_iommus_disabled_gets_no_group(guest_factory: GuestFactory) -> None:
    """A client of two IOMMUs gets no group if one of them is disabled.

    of_iommu_configure must drop the stream ID of the enabled IOMMU too."""
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
    """The kernel arguments: none, unless a scenario parametrises them."""
    return ""


@pytest.fixture
def reserved(guest_factory: GuestFactory, arguments: str) -> Guest:
    """A guest with the SMMU driver loaded, and a client with reserved regions in firmware."""
    guest = guest_factory("+reserved-regions", arguments=arguments)
    modules.load(guest, "arm_smmu_v3")
    return guest


def mapped(step: Step, address: int) -> bool:
    """Whether the client that the step has bound reports that the address is mapped to itself.
    Fails if the address is mapped to another address."""
    physical = mapped_to(step)
    assert physical in (0, address), f"{address:#x} is mapped to {physical:#x}"
    return physical == address


def mapped_to(step: Step) -> int:
    """The physical address that the client reports for its DMA address, or 0 if it is unmapped."""
    (line,) = [entry.text for entry in step.kmsg if "is mapped to" in entry.text]
    return int(line.rpartition(" ")[2], 16)


def is_mapped(guest: Guest, address: int) -> bool:
    """Bind the client, which looks up the address. Returns whether it is mapped to itself."""
    guest.run(f"echo {address} > /sys/module/iommu_client/parameters/lookup")
    found = mapped(devices.bind(guest, CLIENT0, "iommu_client"), address)
    devices.unbind(guest, CLIENT0)
    return found


@pytest.mark.needs(DEVICETREE_RESERVED_REGIONS, GROUP_RESERVED_REGIONS)
def test_direct_region_is_mapped_before_the_driver_probes(reserved: Guest) -> None:
    """A direct region is mapped before the driver probes, in each DMA domain of the device.

    iommu_create_device_direct_mappings maps the whole region and nothing else. A reserved region
    that is not direct stays unmapped."""
    step = modules.load(reserved, "iommu_client", lookup=str(DIRECT))
    assert mapped(step, DIRECT)
    number = step.after.devices[CLIENT0].group
    assert number is not None
    regions = reserved.run(f"cat /sys/kernel/iommu_groups/{number}/reserved_regions").out
    assert regions.splitlines() == [
        "0x0000000008000000 0x00000000080fffff msi",
        "0x000000004f000000 0x000000004f001fff direct",
        "0x00000000fffff000 0x00000000ffffffff reserved",
    ]
    devices.unbind(reserved, CLIENT0)
    for _ in range(2):
        assert is_mapped(reserved, DIRECT + PAGE)
        assert not is_mapped(reserved, DIRECT + 2 * PAGE)
        assert not is_mapped(reserved, UNUSED)
        set_group_type(reserved, number, "identity")
        set_group_type(reserved, number, "DMA")
    assert is_mapped(reserved, DIRECT)


@pytest.mark.needs(DEVICETREE_RESERVED_REGIONS)
@pytest.mark.parametrize(("address", "used"), [(UNUSED, False), (UNUSED - PAGE, True)])
def test_dma_avoids_reserved_regions(reserved: Guest, address: int, used: bool) -> None:
    """DMA addresses are allocated from the top down, but not in a reserved region.

    iova_reserve_iommu_regions."""
    step = modules.load(reserved, "iommu_client", buffer=str(PAGE), lookup=str(address))
    found = mapped_to(step)
    assert bool(found) == used, f"{address:#x} is mapped to {found:#x}"


@pytest.mark.needs(DIRECT_REGIONS_BLOCK_USERS)
@pytest.mark.parametrize("arguments", ["", "iommu.passthrough=1"], ids=["DMA", "identity"])
def test_direct_region_blocks_a_claim(reserved: Guest) -> None:
    """A device with a direct region cannot be claimed, and a rejected claim changes nothing.

    An owner's domain would lack the region, whatever the type of the default domain."""
    modules.load(reserved, "iommu_client")
    devices.unbind(reserved, CLIENT0)
    refused = modules.load(reserved, "dma_owner", device=CLIENT0, check=False)
    assert refused.err, "the claim succeeds"
    assert "Invalid argument" in refused.err or "EINVAL" in refused.err
    assert is_mapped(reserved, DIRECT)
