# SPDX-License-Identifier: GPL-2.0-only
"""Error paths of binding, of adding a device, of VFIO's probe and of the IOMMU driver's probe: each
allocation fails once.

Since aa0958570f24 iommu_deinit_device undoes what iommu_init_device has done before the error.
Before that commit each error path undid it separately.
"""

import pytest

from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.behaviour import (
    DMA_OWNERSHIP,
    FAILED_FIRST_ATTACH_WARNS,
    FAULT_INJECTION,
    GROUPS_AT_REGISTRATION,
)
from harness.iommu.finding import Finding
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows

# A driver probe that fails with -ENOMEM logs an error.
pytestmark = [
    pytest.mark.needs(FAULT_INJECTION),
    pytest.mark.errors("driver_sysfs_add failed", "failed with error -12"),
]


def assert_unwound(guest: Guest, name: str, bind: str, undo: str) -> int:
    """Bind the device with each allocation failing once, and return how often the bind failed.

    A failure before the device has a group must change nothing. A device that has a group keeps
    it in a consistent state, whatever fails later."""
    base = guest.state()
    # The IOMMU driver keeps some allocations of the first bind (a level of its stream table). They
    # would shift the numbers of all later allocations, and some would never fail.
    guest.run(f"echo {name} > {bind}; {undo}")
    assert guest.state() == base
    failed = 0
    for failure in failnth.fail_each(guest, "write", bind, name, exclude=failnth.RCACHES):
        after = guest.state()
        wrong = audit.findings(guest.machine, after)
        if after.devices[name].group is None and after.groups != base.groups:
            text = f"groups are {after.groups}, and were {base.groups}"
            wrong.append(Finding("groups-unchanged", text=text))
        if after.modules.keys() != base.modules.keys():
            text = f"modules are {list(after.modules)}, and were {list(base.modules)}"
            wrong.append(Finding("modules-unchanged", text=text))
        finding.require_none(wrong, f"with allocation {failure.number} failing")
        failed += failure.status != 0
        if after != base:
            guest.run(undo)
    return failed


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("failed-probe-oopses-on-removal", "failed-probe-puts-twice")
# This bug is rarely reached, because the bugs above usually end the scenario first.
@pytest.mark.known_issue("failed-link-is-ignored", sometimes=True)
@pytest.mark.parametrize("preset", ["clients", "several-stream-ids"])
def test_failed_platform_bind_is_unwound(
    guest_factory: GuestFactory, preset: str, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """A platform device that fails to bind with -ENOMEM has a complete group or no group.

    The allocations are those of of_iommu_configure -> iommu_probe_device, then of the driver core.
    Several stream IDs require memory too (iommu_fwspec_add_ids)."""
    guest = guest_factory(f"+nic+{preset}")
    client = "b000000.client0"
    if shows(FAILED_FIRST_ATTACH_WARNS) and not shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING in iommu_setup_default_domain")
    modules.load(guest, "iommu_client_device")
    modules.load(guest, "arm_smmu_v3")
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "iommu_client")
    driver = "/sys/bus/platform/drivers/iommu_client"
    recreate = "rmmod iommu_client_device; modprobe iommu_client_device"
    assert assert_unwound(guest, client, f"{driver}/bind", recreate) > 2
    assert guest.state().devices[client].driver == "iommu_client"


# Not with ACPI, because its interpreter does not survive a failed allocation
# (acpi_ns_check_object_type of 6.12).
@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.known_issue("failed-attach-warns", sometimes=True)
@pytest.mark.known_issue("failed-probe-oopses-on-removal", "failed-probe-puts-twice")
# This bug is rarely reached, because the bugs above usually end the scenario first.
@pytest.mark.known_issue("failed-link-is-ignored", sometimes=True)
def test_failed_pci_bind_is_unwound(guest: Guest, shows: Shows, expect_splat: ExpectSplat) -> None:
    """A PCI device that fails to bind with -ENOMEM has a complete group or no group.

    pci_dma_configure, with a driver that only binds."""
    smmu = guest.machine.iommu.driver == "arm_smmu_v3"
    if smmu and shows(FAILED_FIRST_ATTACH_WARNS) and not shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING in iommu_setup_default_domain")
    nic = clients.pci(guest.state())[0]
    modules.load(guest, guest.machine.iommu.driver)
    modules.load(guest, "pci-stub")
    devices.override(guest, nic, "pci-stub")
    recreate = (
        f"echo 1 > /sys/bus/pci/devices/{nic}/remove; echo 1 > /sys/bus/pci/rescan;"
        f" echo pci-stub > /sys/bus/pci/devices/{nic}/driver_override"
    )
    failed = assert_unwound(guest, nic, "/sys/bus/pci/drivers/pci-stub/bind", recreate)
    assert failed > 2
    assert guest.state().devices[nic].driver == "pci-stub"


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(GROUPS_AT_REGISTRATION)
@pytest.mark.known_issue("failed-attach-is-detached")
@pytest.mark.splats("WARNING in iommu_setup_default_domain")
def test_failed_device_add_is_unwound(guest: Guest) -> None:
    """A device that was added without a group can be removed completely and added again.

    iommu_bus_notifier: each allocation of adding two devices fails once. A device that gets
    no group gets a group when it is added again."""
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client_device")
    names = clients.platform(guest.state())
    guest.run(f"echo 0 > {clients.PRESENT}")
    base = guest.state()
    no_group = 0
    for failure in failnth.fail_each(guest, "write", clients.PRESENT, "1", exclude=failnth.RCACHES):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        finding.require_none(wrong, f"with allocation {failure.number} failing")
        no_group += any(name in state.devices and name not in state.grouped for name in names)
        guest.run(f"echo 0 > {clients.PRESENT}")
        assert guest.state() == base, f"with allocation {failure.number} failing"
    assert no_group > 2
    assert set(guest.state().grouped) >= set(names)


@pytest.mark.needs(DMA_OWNERSHIP)  # in 5.10 VFIO uses a notifier of the group instead
@pytest.mark.known_issue("vfio-leaks-group-reference")
def test_failed_vfio_probe_leaks_no_group_reference(guest: Guest) -> None:
    """A VFIO probe that fails leaks no reference to the group.

    Each allocation of the vfio-pci probe fails once. The group must be released with its device."""
    nic = clients.pci(guest.state())[0]
    modules.load(guest, guest.machine.iommu.driver)
    group = vfio.bind_vfio(guest, nic).after.devices[nic].group
    devices.unbind(guest, nic)
    fail_vfio_probe(guest, nic)
    groups = devices.remove(guest, nic).after.groups
    finding.require(group not in groups, "group-leak-by-vfio", nic)


def fail_vfio_probe(guest: Guest, nic: str) -> None:
    """Bind the NIC to vfio-pci with each allocation failing once, and unbind it."""
    failed = 0
    for failure in failnth.fail_each(guest, "write", "/sys/bus/pci/drivers/vfio-pci/bind", nic):
        failed += failure.status != 0
        if failure.status == 0:
            guest.run(f"echo {nic} > /sys/bus/pci/drivers/vfio-pci/unbind")
    assert failed > 2
    devices.unbind(guest, nic)


@pytest.mark.needs(DMA_OWNERSHIP)
def test_failed_vfio_probe_of_a_sibling_leaks_no_group_reference(siblings: Guest) -> None:
    """A VFIO probe that fails for the second device of a group leaks no reference to the group.

    VFIO already has the group, and only adds the device (vfio_group_find_or_alloc)."""
    state = siblings.state()
    one, two = clients.nics(state)
    group = state.devices[one].group
    for name in (one, two):
        vfio.bind_vfio(siblings, name)
    devices.unbind(siblings, two)
    fail_vfio_probe(siblings, two)
    devices.remove(siblings, two)
    groups = devices.remove(siblings, one).after.groups
    assert group not in groups, f"group {group} leaked without its devices"


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.machines("smmuv3")
def test_failed_bind_leaves_no_owner(bound_guest: Guest) -> None:
    """A bind that fails with -ENOMEM leaves the group without an owner.

    Each allocation of a bind fails once."""
    name = clients.platform(bound_guest.state())[0]
    devices.unbind(bound_guest, name)
    bind = "/sys/bus/platform/drivers/iommu_client/bind"
    failed = 0
    for failure in failnth.fail_each(bound_guest, "write", bind, name):
        if failure.status == 0:
            devices.unbind(bound_guest, name)
        failed += failure.status != 0
    assert failed > 2
    devices.unbind(bound_guest, name)
    finding.require_none(audit.owned_groups(bound_guest, name))
    devices.bind(bound_guest, name, "iommu_client")
    assert bound_guest.state().devices[name].driver == "iommu_client"


@pytest.mark.machines("virtio-iommu", "virtio-iommu-acpi")
@pytest.mark.needs(DMA_OWNERSHIP)
def test_failed_claim_does_not_block_drivers(siblings: Guest) -> None:
    """A claim of DMA ownership that fails with -ENOMEM leaves no owner, and drivers can bind.

    __iommu_take_dma_ownership: a remaining owner would block all drivers."""
    one, two = clients.nics(siblings.state())
    for name in (one, two):
        vfio.bind_vfio(siblings, name)
    vfio.disable_reset(siblings, one)
    siblings.new_kmsg()
    what = vfio.arguments(siblings.state(), "group", one)
    failed_claims = 0
    for failure in failnth.fail_each(siblings, "vfio", "open", "group", *what):
        log = siblings.new_kmsg()
        if failure.status and any("_claim_dma_owner" in entry.text for entry in log):
            failed_claims += 1
            for name in (one, two):
                bound = vfio.unbind_vfio(siblings, name).after.devices[name].driver
                assert bound == "e1000", f"allocation {failure.number} blocks the driver of {name}"
            for name in (one, two):
                vfio.bind_vfio(siblings, name)
    assert failed_claims > 0


@pytest.mark.errors(
    r"failed with error -\d+",
    "can't (request region|generate pretty name)",
    "ioremap failed",
    "[Ff]ailed to (allocate|register iommu)",
)
@pytest.mark.machines("smmuv3", "smmuv3-acpi")
@pytest.mark.known_issue("failed-smmu-probe-leaves-sysfs", "failed-attach-is-detached")
def test_failed_smmu_probe_leaks_nothing(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """A failed probe of an SMMU leaves no group, no IOMMU and no pin.

    arm_smmu_device_probe -> iommu_device_register -> bus_iommu_probe: a failure for one device on
    the bus undoes the groups of the devices before it."""
    if shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING in iommu_setup_default_domain")
    smmu = next(name for name in guest.state().devices if "smmu" in name)
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "arm_smmu_v3")
    failed = 0
    probe = "/sys/bus/platform/drivers_probe"
    for failure in failnth.fail_each(guest, "write", probe, smmu, exclude=failnth.RCACHES):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        if not state.devices[smmu].driver:
            failed += 1
            wrong += audit.leaks(state)
        else:
            clients.remove_all(guest)
            guest.run("rmmod arm_smmu_v3; modprobe arm_smmu_v3")
            clients.add_all(guest)
        finding.require_none(wrong, f"with allocation {failure.number} failing")
    assert failed > 10
    assert guest.state().devices[smmu].driver == "arm-smmu-v3"
