# SPDX-License-Identifier: GPL-2.0-only
"""The commands that a driver sends to the IOMMU, in QEMU's trace.

sysfs does not show what the IOMMU still caches or has attached. A device that gets a freed ID, or
a stream with an entry that was not invalidated, would use the translation of another device.
"""

import re
from collections import Counter

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest
from harness.iommu import clients, traffic
from harness.iommu.behaviour import GROUP_TYPE_WRITABLE, PROBE_DEFERRAL
from harness.plugin.plugin import GuestFactory

# In kernels without probe deferral the virtio devices bind before their IOMMU, because virtio-pci
# is built in.
pytestmark = pytest.mark.needs(PROBE_DEFERRAL)


def nic_of(guest: Guest) -> str:
    return sorted(clients.pci(guest.state()))[0]


def values_of_ten_devices(guest: Guest, event: str, field: str) -> list[int]:
    """The values of the field in QEMU's events while a NIC is removed and found ten times."""
    nic = nic_of(guest)
    with traffic.traced(guest, event) as trace:
        for _ in range(10):
            devices.remove(guest, nic)
            devices.rescan(guest)
    return trace.values(field)


@pytest.mark.machines("smmuv3", "smmuv3-acpi")
def test_asids_are_reused(talker: Guest) -> None:
    """The ASID of a freed domain is reused.

    arm_smmu_domain_free releases the ASID, and QEMU traces invalidations of only a few ASIDs."""
    asids = values_of_ten_devices(talker, "smmuv3_cmdq_tlbi_nh_asid", "asid")
    assert len(asids) >= 10, "the ASID of a freed domain is not invalidated"
    assert len(set(asids)) <= 3, f"ten domains have the ASIDs {asids}"


@pytest.mark.machines("virtio-iommu", "virtio-iommu-acpi")
def test_virtio_iommu_domain_ids_are_reused(talker: Guest) -> None:
    """The ID of a freed virtio-iommu domain is reused.

    viommu_domain_free releases the ID (ida_free)."""
    ids = values_of_ten_devices(talker, "virtio_iommu_attach", "domain")
    assert len(ids) >= 10
    assert len(set(ids)) <= 3, f"ten domains have the IDs {ids}"


# The event that QEMU traces when a device is detached, and its field for the device, by IOMMU
# driver. The event is the invalidation of a stream table entry, or a request.
DETACHING = {
    "arm_smmu_v3": ("smmuv3_cmdq_cfgi_ste", "streamid"),
    "virtio_iommu": ("virtio_iommu_detach", "endpoint"),
}


@pytest.mark.parametrize("arguments", ["", "iommu.passthrough=1"], ids=["translated", "direct"])
def test_each_removed_device_is_detached(guest_factory: GuestFactory, arguments: str) -> None:
    """Each removed device is detached in the IOMMU, not only the last device of its group.

    This includes devices with direct DMA. Otherwise a device that replaces a removed one would
    inherit its translation (iommu_deinit_device, arm_smmu_release_device,
    viommu_release_device)."""
    guest = guest_factory("+virtio-siblings", bound=True, arguments=arguments)
    nics = sorted(clients.behind(clients.bind_all(guest)))
    event, device = DETACHING[guest.machine.iommu.driver]
    with traffic.traced(guest, event) as trace:
        for name in nics:
            devices.remove(guest, name)
    detached = set(trace.values(device))
    attached = [name for name in nics if not detached & traffic.requester_ids(name)]
    assert not attached, f"still attached: {attached}"


STREAMS = 6


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
@pytest.mark.machines("smmuv3")
def test_smmu_driver_invalidates_caches_for_each_stream(guest_factory: GuestFactory) -> None:
    """Each change of a stream table entry or context descriptor is invalidated for each stream of
    the device.

    An SMMU may cache both (arm_smmu_sync_ste_for_sid, arm_smmu_sync_cd)."""
    guest = guest_factory("+several-stream-ids", bound=True)
    (name,) = clients.platform(clients.bind_all(guest))
    modules.load(guest, clients.PLATFORM_DEVICES)
    assert_invalidated(guest, *(f"echo {number} > {clients.PRESENT}" for number in (0, 1)))
    devices.unbind(guest, name)
    file = f"/sys/bus/platform/devices/{name}/iommu_group/type"
    # The change from DMA-FQ to DMA changes only the context descriptor, in kernels with a
    # descriptor for each device (6.12, 7.2).
    guest.run(f"echo DMA-FQ > {file}")
    assert_invalidated(guest, *(f"echo {kind} > {file}" for kind in ("DMA", "identity", "DMA")))


def assert_invalidated(guest: Guest, *changes: str) -> None:
    """Check that each change makes the driver invalidate the configuration of every stream."""
    for change in changes:
        with traffic.traced(guest, "smmuv3_cmdq_opcode") as trace:
            assert guest.run(change).status == 0
        commands = Counter(re.findall(r"CMD_CFGI_(STE|CD)\b", "\n".join(trace.lines)))
        assert commands, f"{change!r} invalidates nothing"
        assert not any(count % STREAMS for count in commands.values()), f"{change!r}: {commands}"
