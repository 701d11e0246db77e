# SPDX-License-Identifier: GPL-2.0-only
"""Which devices share a group, by what they are and where they are plugged.

pci_device_group (drivers/iommu/iommu.c) joins what PCI cannot keep apart: functions
without ACS, and what is behind a bridge to conventional PCI.
"""

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.guest import devices, modules, snapshot, traffic
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.machine.device import Device
from harness.pytest_plugin import GuestFactory
from tests.behaviour import (
    ACS_BEFORE_GROUPS,
    ALIASES_ARE_REFUSED,
    CLIENTS_WAIT,
    GROUPS_AT_REGISTRATION,
    OUT_OF_RANGE_FAILS_SMMU,
)

CLIENT0, CLIENT1 = "b000000.client0", "b001000.client1"
BRIDGE = "0000:00:00.0"

# What drives the devices of a preset, and the groups that it then has; the host bridge's
# is not counted, which only some kernels give one.
TOPOLOGIES = {
    "nic": ("e1000e", [{"0000:00:01.0"}]),
    "clients": ("iommu_client", [{CLIENT0}, {CLIENT1}]),
    "multifunction": ("e1000", [{"0000:00:05.0", "0000:00:05.1"}]),
    "isolated-functions": ("e1000e", [{"0000:00:05.0"}, {"0000:00:05.1"}]),
    "nvme": ("nvme", [{"0000:00:01.0"}]),
    "repeated-stream-id": ("iommu_client", [{CLIENT0}]),
    "two-stream-ids": ("iommu_client", [{CLIENT0}]),
    "disabled-iommu": ("iommu_client", [{CLIENT0}]),
}


def groups(state: State) -> list[set[str]]:
    """The groups as sets of devices, in a fixed order, without the host bridge's."""
    found = [set(group.devices) for group in state.groups.values()]
    return sorted((each for each in found if each != {BRIDGE}), key=sorted)


def loaded(guest: Guest, *names: str) -> State:
    for name in names:
        modules.load(guest, name)
    return guest.state()


def assert_bug(guest: Guest, driver: str) -> None:
    """Binding the second device of a stream hits a BUG_ON."""
    modules.load(guest, "arm_smmu_v3")
    step = modules.load(guest, driver)
    assert step.status == 139, "modprobe is killed"
    found = splat.find([entry.text for entry in step.kmsg])
    assert "arm_smmu_write_strtab_ent" in {each.function for each in found}


@pytest.mark.parametrize("preset", TOPOLOGIES)
def test_groups_of_a_topology(guest_factory: GuestFactory, preset: str) -> None:
    driver, expected = TOPOLOGIES[preset]
    guest = guest_factory(f"smmuv3+{preset}")
    state = loaded(guest, "arm_smmu_v3", driver)
    assert groups(state) == expected
    # One reference for each device that has a group.
    grouped = sum(len(group.devices) for group in state.groups.values())
    assert state.refcount("arm_smmu_v3") == grouped


@pytest.mark.parametrize("preset", ["multifunction", "isolated-functions"])
def test_groups_behind_a_virtio_iommu_are_the_same(
    guest_factory: GuestFactory, preset: str
) -> None:
    driver, expected = TOPOLOGIES[preset]
    state = loaded(guest_factory(f"virtio-iommu+{preset}"), "virtio_iommu", driver)
    assert groups(state) == expected
    assert state.untranslated == []


@pytest.mark.machines("smmuv3+root-port", "virtio-iommu+root-port")
def test_a_root_port_shares_its_group_until_acs_is_in_time(guest: Guest, kernel: Kernel) -> None:
    """With a modular IOMMU and a device tree ACS is requested too late, after the port
    was set up, until c41e2fb67e26. 5.10's port does not wait for its IOMMU at all."""
    state = loaded(guest, guest.machine.iommu.driver, "e1000e")
    port = next(name for name, each in state.devices.items() if each.driver == "pcieport")
    below = {"0000:01:00.0", "0000:01:00.1"}
    if not CLIENTS_WAIT.of(kernel):
        assert groups(state) == [{name} for name in sorted(below)]
        assert state.untranslated == [port]
        return
    apart = [{port}, below]
    assert groups(state) == (apart if ACS_BEFORE_GROUPS.of(kernel) else [{port, *below}])


def test_the_second_nic_behind_a_pci_bridge_has_no_group(
    guest_factory: GuestFactory, kernel: Kernel
) -> None:
    """Both have the bridge's stream ID, and a stream is one device's
    (arm_smmu_insert_master)."""
    guest = guest_factory("smmuv3+pci-bridge")
    if not ALIASES_ARE_REFUSED.of(kernel):
        assert_bug(guest, "e1000")
        return
    state = loaded(guest, "arm_smmu_v3", "e1000")
    said = [entry.text for entry in guest.kmsg]
    assert groups(state) == [{"0000:00:01.0", "0000:01:01.0"}]
    assert state.untranslated == ["0000:01:02.0"]
    assert any("0000:01:02.0" in line and "0000:01:01.0" in line for line in said)


def test_a_stream_id_is_one_clients(guest_factory: GuestFactory, kernel: Kernel) -> None:
    guest = guest_factory("smmuv3+shared-stream-id")
    if not ALIASES_ARE_REFUSED.of(kernel):
        assert_bug(guest, "iommu_client")
        return
    state = loaded(guest, "arm_smmu_v3", "iommu_client")
    bound = [state.devices[name].driver for name in (CLIENT0, CLIENT1)]
    assert bound == ["iommu_client", "iommu_client"]
    # Whichever is probed first; the other's DMA goes untranslated.
    (group,) = groups(state)
    assert group | set(state.untranslated) == {CLIENT0, CLIENT1}
    assert len(group) == 1


def test_a_stream_id_out_of_range(guest_factory: GuestFactory, kernel: Kernel) -> None:
    """arm_smmu_insert_master gives -ERANGE: to its own device, or since groups come at
    registration to the whole SMMU."""
    guest = guest_factory("smmuv3+stream-id-out-of-range")
    state = loaded(guest, "arm_smmu_v3", "iommu_client")
    if OUT_OF_RANGE_FAILS_SMMU.of(kernel):
        assert state.groups == {}
        assert any("failed with error -34" in entry.text for entry in guest.kmsg)
        return
    assert groups(state) == [{CLIENT0}]
    assert state.untranslated == [CLIENT1]


def test_behind_a_disabled_iommu_a_client_is_untranslated(guest_factory: GuestFactory) -> None:
    """of_iommu_configure takes a disabled IOMMU for none."""
    state = loaded(guest_factory("smmuv3+disabled-iommu"), "arm_smmu_v3", "iommu_client")
    assert state.devices[CLIENT1].driver == "iommu_client"
    assert state.untranslated == [CLIENT1]


def test_a_bridge_behind_a_virtio_iommu(guest_factory: GuestFactory, kernel: Kernel) -> None:
    """QEMU's virtio-iommu knows no endpoint below the bridge: probing one gives -ENODEV.
    Where that happens within registration, registration fails and takes all groups with
    it, viommu_probe does not look at the result, and the NICs wait for ever."""
    guest = guest_factory("virtio-iommu+pci-bridge")
    state = loaded(guest, "virtio_iommu", "e1000")
    nics = ["0000:01:01.0", "0000:01:02.0"]
    if GROUPS_AT_REGISTRATION.of(kernel):
        assert groups(state) == []
        assert devices.deferred(guest) == ["0000:00:02.0", *nics]
        return
    assert [state.devices[name].group for name in nics] == [None, None]
    assert [state.devices[name].driver for name in nics] == ["e1000", "e1000"]
    assert state.untranslated == nics


def test_virtio_devices_wait_for_their_iommu(guest_factory: GuestFactory, kernel: Kernel) -> None:
    """virtio_pci is built in and would bind at boot, as it does on 5.10: the SMMU, once it
    is there, then blocks what the devices do."""
    guest = guest_factory("smmuv3+virtio")
    nic, disk = "0000:00:01.0", "0000:00:02.0"
    state = loaded(guest, "arm_smmu_v3")
    if not CLIENTS_WAIT.of(kernel):
        assert state.untranslated == [nic, disk]
        return
    state = loaded(guest, "virtio_net", "virtio_blk")
    assert groups(state) == [{nic}, {disk}]
    assert traffic.ping(guest, nic).translated > 0
    assert guest.run("dd if=/dev/vda of=/dev/null bs=64k count=4").number == 0


@pytest.mark.machines("smmuv3", "virtio-iommu", "smmuv3+multifunction")
def test_traffic_is_translated_as_qemu_sees_it(guest: Guest) -> None:
    state = loaded(guest, guest.machine.iommu.driver, "e1000e", "e1000")
    nic = next(
        name for name, each in state.devices.items() if each.group is not None and each.driver
    )
    ping = traffic.ping(guest, nic)
    assert ping.answered
    assert ping.translated > 0


def test_without_its_iommu_nothing_is_translated(guest_factory: GuestFactory) -> None:
    """The witness can also say no: the NIC does not wait and binds without."""
    guest = guest_factory("smmuv3+nic", arguments="deferred_probe_timeout=0")
    (nic,) = [n for n, each in loaded(guest, "e1000e").devices.items() if each.driver == "e1000e"]
    assert guest.state().untranslated == [nic]
    ping = traffic.ping(guest, nic)
    assert ping.answered
    assert ping.translated == 0


@pytest.mark.machines("smmuv3+hotplug", "virtio-iommu+hotplug")
def test_a_plugged_device_gets_a_group_and_a_pulled_one_leaves_it(
    guest: Guest, kernel: Kernel, tmp_path: Path
) -> None:
    before = loaded(guest, guest.machine.iommu.driver, "e1000e")
    if not CLIENTS_WAIT.of(kernel):
        # The port is bound without its IOMMU, and so its interrupts are lost.
        (port,) = before.untranslated
        assert before.devices[port].driver == "pcieport"
        return
    late = Device("e1000e", "late", bus="slot")
    name = devices.plug(guest, late)
    with pytest.raises(UsageError, match=r"plugged or pulled \(late\) cannot be saved"):
        snapshot.save(guest, tmp_path / "kept")
    bound = guest.state()
    assert bound.devices[name].driver == "e1000e"
    assert bound.devices[name].group is not None
    driver = guest.machine.iommu.driver
    assert bound.refcount(driver) == (before.refcount(driver) or 0) + 1
    devices.pull(guest, "late", name)
    after = guest.state()
    assert after.refcount(driver) == before.refcount(driver)
    assert groups(after) == groups(before)
    snapshot.save(guest, tmp_path / "again")
    assert devices.plug(guest, late) == name, "it can be plugged again"
