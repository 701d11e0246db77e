# SPDX-License-Identifier: GPL-2.0-only
"""Which devices share a group, by their kind and their position in the topology.

pci_device_group (drivers/iommu/iommu.c) puts devices that PCI cannot isolate into one group:
functions without ACS, and devices behind a bridge to conventional PCI.
"""

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import clients, finding
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import (
    ACS_BEFORE_GROUPS,
    GROUPS_AT_REGISTRATION,
    PROBE_DEFERRAL,
)
from harness.machine import qemu
from harness.machine.device import EmulatedDevice
from harness.machine.topology import Machine
from harness.plugin.applicable import not_applicable
from harness.plugin.plugin import GuestFactory, Shows

BRIDGE = devices.HOST_BRIDGE
# The functions below a root port.
BELOW = {"0000:01:00.0", "0000:01:00.1"}

# The groups of a preset's devices, by slot and function. The group of the host bridge is left out,
# because the host bridge has a group only in some kernels.
PCI = {
    "nic": [{"nic"}],
    "multifunction": [{"05.0", "05.1"}],
    "isolated-functions": [{"05.0"}, {"05.1"}],
}


def groups(state: State) -> list[set[str]]:
    """The groups as sets of devices, in a fixed order, leaving out the group of the host bridge."""
    found = [set(group.devices) for group in state.groups.values()]
    return sorted((each for each in found if each != {BRIDGE}), key=sorted)


@pytest.mark.parametrize("preset", PCI)
def test_pci_functions_share_a_group_unless_isolated(
    guest_factory: GuestFactory, preset: str
) -> None:
    """PCI functions share a group unless ACS isolates them, with either IOMMU.

    Both drivers call pci_device_group."""
    state = clients.bind_all(guest_factory(f"+{preset}", bound=True))
    (nic, *_) = clients.nics(state)
    expected = [
        {nic if each == "nic" else f"0000:00:{each}" for each in group} for group in PCI[preset]
    ]
    assert groups(state) == expected


@pytest.mark.machines("smmuv3", "smmuv3-acpi")
def test_nvme_disk_has_a_group(guest_factory: GuestFactory) -> None:
    """An NVMe disk has its own group."""
    assert groups(clients.bind_all(guest_factory("+nvme", bound=True))) == [{"0000:00:01.0"}]


def test_root_port_shares_its_group_without_early_acs(
    guest_factory: GuestFactory, shows: Shows, early_acs: bool
) -> None:
    """A root port has its own group only if ACS is enabled before groups are created.

    Before c41e2fb67e26, with a modular IOMMU and a device tree, ACS is requested too late, after
    the port is set up. In 5.10 the port does not wait for its IOMMU."""
    if not shows(PROBE_DEFERRAL):
        not_applicable("the port binds at boot, past its IOMMU")
    guest = guest_factory("+root-port", bound=True)
    state = clients.bind_all(guest)
    port = port_of(state)
    apart = sorted([{port}, BELOW], key=sorted)
    assert groups(state) == (apart if early_acs else [{port, *BELOW}])


def port_of(state: State) -> str:
    return next(name for name, each in state.devices.items() if each.driver == "pcieport")


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.known_issue("rescan-splits-functions")
def test_root_port_scanned_after_registration_has_its_own_group_with_early_acs(
    guest_factory: GuestFactory, shows: Shows
) -> None:
    """A root port scanned after its IOMMU has registered has its own group if ACS is enabled early.

    With strict device links the bus is scanned only after the SMMU has registered. pci_acs_init
    enables ACS before device_add assigns a group to a device."""
    guest = guest_factory("+root-port", arguments="fw_devlink.strict=1")
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "e1000e")
    devices.wait_for(guest, "the bus", lambda state: "0000:01:00.1" in state.devices)
    state = clients.bind_all(guest)
    found = groups(state)
    assert ({port_of(state)} in found) == shows(ACS_BEFORE_GROUPS), found
    shared = any(each >= BELOW for each in found)
    finding.require(shared, "functions-share-a-group", ", ".join(sorted(BELOW)), len(found))


@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.parametrize(("preset", "count"), [("switch", 4), ("unisolated-switch", 1)])
def test_isolation_requires_acs_up_to_the_root(
    machine: Machine, guest_factory: GuestFactory, preset: str, count: int
) -> None:
    """A switch with ACS isolates its ports only if ACS is enabled up to the root port.

    pci_acs_path_enabled: isolated ports of a switch do not help if the root port above has no
    ACS. (A NIC and its own port still share a group, because QEMU's port has no ACS.) The devices
    are removed and rescanned, because ACS may be requested too late at boot."""
    # QEMU 7.2 has this property of the port, and 11.1 does not.
    has_property = qemu.has_property(machine.qemu, "pcie-root-port", "disable-acs")
    if preset == "unisolated-switch" and not has_property:
        not_applicable("this QEMU cannot emulate a root port without ACS")
    guest = guest_factory(f"+{preset}", bound=True)
    root = min(clients.pci(clients.bind_all(guest)))
    devices.remove(guest, root)
    devices.rescan(guest)
    found = groups(clients.bind_all(guest))
    assert len(found) == count, f"{len(found)} groups instead of {count}: {found}"
    assert sum(len(group) for group in found) == 6, f"not all devices have a group: {found}"


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("stream-alias-bug-on")
@pytest.mark.excused(untranslated="the second NIC has no group")
def test_nics_behind_a_pci_bridge_share_a_group_or_the_second_gets_none(
    guest_factory: GuestFactory,
) -> None:
    """NICs behind a PCI bridge share a group, or the second NIC gets no group and this is logged.

    Both NICs have the bridge's stream ID, and a stream has one domain. In kernels in which a
    stream belongs to one device (arm_smmu_insert_master), the driver rejects the second device."""
    guest = guest_factory("+pci-bridge")
    modules.load(guest, "arm_smmu_v3")
    step = modules.load(guest, "e1000", check=False)
    require_survival(step)
    assert step.status == 0
    bridge, one, two = "0000:00:01.0", "0000:01:01.0", "0000:01:02.0"
    if step.after.devices[two].group is not None:
        assert groups(step.after) == [{bridge, one, two}]
        return
    assert groups(step.after) == [{bridge, one}]
    assert step.after.untranslated == [two]
    log = [entry.text for entry in guest.kmsg()]
    assert any(two in line and one in line for line in log)


@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-ignores-registration")
@pytest.mark.excused(
    untranslated="QEMU has no endpoint behind the bridge",
    teardown="QEMU has no endpoint behind the bridge",
)
def test_nics_without_an_endpoint_bind_without_translation(guest_factory: GuestFactory) -> None:
    """NICs that are not endpoints of the virtio-iommu bind without translation.

    QEMU's virtio-iommu (7.2 to 11.1) has no endpoints below the bridge: probing a NIC there
    returns -ENODEV."""
    guest = guest_factory("+pci-bridge")
    modules.load(guest, "virtio_iommu")
    state = modules.load(guest, "e1000").after
    nics = ["0000:01:01.0", "0000:01:02.0"]
    for name in nics:
        finding.require(state.devices[name].driver == "e1000", "client-bound", name, "no")
    without_group = [name for name in nics if state.devices[name].group is None]
    assert without_group, "QEMU has endpoints for the NICs: the scenario shows nothing"
    assert state.untranslated == without_group


def test_virtio_devices_are_deferred_until_their_iommu_registers(
    guest_factory: GuestFactory, shows: Shows
) -> None:
    """Virtio devices are deferred until their IOMMU registers.

    virtio_pci is built in, and would otherwise bind at boot as in 5.10."""
    if not shows(PROBE_DEFERRAL):
        not_applicable("virtio-pci binds at boot, past its IOMMU")
    guest = guest_factory("+virtio")
    names = clients.pci(guest.state())
    assert devices.deferred(guest) == sorted(names)
    assert groups(clients.bind_all(guest)) == [{name} for name in sorted(names)]
    assert devices.deferred(guest) == []


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.known_issue("pciehp-lock-order", sometimes=True)  # only lockdep reports it
def test_hotplugged_device_joins_and_leaves_its_group(
    guest_factory: GuestFactory, shows: Shows
) -> None:
    """A hot-plugged device gets a group and pins the module until it is unplugged."""
    if not shows(PROBE_DEFERRAL):
        not_applicable("the port is bound past its IOMMU, and loses its interrupts")
    guest = guest_factory("+hotplug", bound=True)
    before = clients.bind_all(guest)
    modules.load(guest, "e1000e")
    driver = guest.machine.iommu.driver
    name = devices.plug(guest, EmulatedDevice("e1000e", "late", bus="slot"))
    bound = devices.wait_for(guest, "the NIC", clients.are_bound([name]))
    assert bound.devices[name].group is not None
    assert bound.refcount(driver) == (before.refcount_if_loaded(driver) or 0) + 1
    devices.unplug(guest, "late", name)
    after = guest.state()
    assert after.refcount_if_loaded(driver) == before.refcount_if_loaded(driver)
    assert groups(after) == groups(before)


def test_every_device_has_exactly_one_group(bound_guest: Guest, shows: Shows) -> None:
    """Every device behind the IOMMU is a member of exactly one group."""
    state = bound_guest.state()
    members = [name for group in state.groups.values() for name in group.devices]
    assert len(members) == len(set(members))
    expected = set(clients.behind(state))
    if shows(GROUPS_AT_REGISTRATION):
        expected.add(BRIDGE)
    assert set(members) == expected
