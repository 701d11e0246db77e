# SPDX-License-Identifier: GPL-2.0-only
"""Every allocation on the way fails once: binding, adding a device, VFIO's probe, the
IOMMU's own.

What iommu_init_device has done by then iommu_deinit_device undoes (aa0958570f24); before it
each error path had a hand of its own.
"""

import pytest

from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.behaviour import (
    DMA_OWNERSHIP,
    FIRST_ATTACH_WARNS,
    GROUPS_AT_REGISTRATION,
)
from harness.iommu.finding import Finding
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows

# What fails for want of memory, a driver's probe reports.
pytestmark = pytest.mark.errors("driver_sysfs_add failed", "failed with error -12")


def assert_unwound(guest: Guest, name: str, bind: str, undo: str) -> int:
    """Each allocation of binding a device fails once. Where that is before it has a group,
    nothing has changed; one that has its group keeps it, whole, whatever comes after. How
    often it failed."""
    base = guest.state()
    # What the IOMMU's driver keeps from the first time on (a level of its stream table) would
    # put the numbers of all later allocations out, and some would never fail.
    guest.run(f"echo {name} > {bind}; {undo}")
    assert guest.state() == base
    failed = 0
    for failure in tracing.failures(guest, "write", bind, name, but_for=tracing.RCACHES):
        after = guest.state()
        wrong = audit.findings(guest.machine, after)
        if after.devices[name].group is None and after.groups != base.groups:
            text = f"groups are {after.groups} and were {base.groups}"
            wrong.append(Finding("groups-unchanged", text=text))
        if after.modules.keys() != base.modules.keys():
            text = f"modules are {list(after.modules)} and were {list(base.modules)}"
            wrong.append(Finding("modules-unchanged", text=text))
        finding.none_of(wrong, f"with allocation {failure.number} failing")
        failed += failure.status != 0
        if after != base:
            guest.run(undo)
    return failed


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("failed-probe-oopses-on-removal", "failed-probe-puts-twice")
# It comes after those, which mostly end it before.
@pytest.mark.known_issue("failed-link-is-ignored", sometimes=True)
@pytest.mark.parametrize("preset", ["clients", "several-stream-ids"])
def test_failed_platform_bind_is_unwound(
    guest_factory: GuestFactory, preset: str, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """of_iommu_configure -> iommu_probe_device, then the driver core's own. Many
    stream IDs need memory as well (iommu_fwspec_add_ids)."""
    guest = guest_factory(f"+nic+{preset}")
    client = "b000000.client0"
    if shows(FIRST_ATTACH_WARNS) and not shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING in iommu_setup_default_domain")
    modules.load(guest, "iommu_client_device")
    modules.load(guest, "arm_smmu_v3")
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "iommu_client")
    driver = "/sys/bus/platform/drivers/iommu_client"
    anew = "rmmod iommu_client_device; modprobe iommu_client_device"
    assert assert_unwound(guest, client, f"{driver}/bind", anew) > 2
    assert guest.state().devices[client].driver == "iommu_client"


# With ACPI it is the interpreter's allocations that fail, which it does not survive
# (acpi_ns_check_object_type of 6.12).
@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.known_issue("failed-attach-warns", sometimes=True)
@pytest.mark.known_issue("failed-probe-oopses-on-removal", "failed-probe-puts-twice")
# It comes after those, which mostly end it before.
@pytest.mark.known_issue("failed-link-is-ignored", sometimes=True)
def test_failed_pci_bind_is_unwound(guest: Guest, shows: Shows, expect_splat: ExpectSplat) -> None:
    """pci_dma_configure, with a driver that does no more than bind."""
    smmu = guest.machine.iommu.driver == "arm_smmu_v3"
    if smmu and shows(FIRST_ATTACH_WARNS) and not shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING in iommu_setup_default_domain")
    nic = clients.pci(guest.state())[0]
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


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(GROUPS_AT_REGISTRATION)
@pytest.mark.known_issue("failed-attach-is-detached")
@pytest.mark.splats("WARNING in iommu_setup_default_domain")
def test_failed_device_add_is_unwound(guest: Guest) -> None:
    """iommu_bus_notifier: each allocation of adding two devices fails once. One that is
    added without a group goes without a trace, and gets a group when it is added again."""
    modules.load(guest, "arm_smmu_v3")
    modules.load(guest, "iommu_client_device")
    names = clients.platform(guest.state())
    guest.run(f"echo 0 > {clients.PRESENT}")
    base = guest.state()
    without = 0
    for failure in tracing.failures(guest, "write", clients.PRESENT, "1", but_for=tracing.RCACHES):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        finding.none_of(wrong, f"with allocation {failure.number} failing")
        without += any(name in state.devices and name not in state.grouped for name in names)
        guest.run(f"echo 0 > {clients.PRESENT}")
        assert guest.state() == base, f"with allocation {failure.number} failing"
    assert without > 2
    assert set(guest.state().grouped) >= set(names)


@pytest.mark.needs(DMA_OWNERSHIP)  # 5.10's VFIO follows groups by a notifier instead
@pytest.mark.known_issue("vfio-keeps-group-it-failed-to-open")
def test_failed_vfio_probe_releases_the_group(guest: Guest) -> None:
    """Each allocation of vfio-pci's probe fails once: the group's last reference goes with
    the device all the same."""
    nic = clients.pci(guest.state())[0]
    modules.load(guest, guest.machine.iommu.driver)
    group = vfio.give(guest, nic).after.devices[nic].group
    devices.unbind(guest, nic)
    fail_to_take(guest, nic)
    left = devices.remove(guest, nic).after.groups
    finding.require(group not in left, "group-leak-by-vfio", nic)


def fail_to_take(guest: Guest, nic: str) -> None:
    """Binds the NIC to vfio-pci with each allocation of it failing once, and leaves it."""
    failed = 0
    for failure in tracing.failures(guest, "write", "/sys/bus/pci/drivers/vfio-pci/bind", nic):
        failed += failure.status != 0
        if failure.status == 0:
            guest.run(f"echo {nic} > /sys/bus/pci/drivers/vfio-pci/unbind")
    assert failed > 2
    devices.unbind(guest, nic)


@pytest.mark.needs(DMA_OWNERSHIP)
def test_failed_vfio_probe_of_a_sibling_releases_the_group(siblings: Guest) -> None:
    """The same where VFIO has the group already, and only counts the device in
    (vfio_group_find_or_alloc)."""
    state = siblings.state()
    one, two = clients.nics(state)
    group = state.devices[one].group
    for name in (one, two):
        vfio.give(siblings, name)
    devices.unbind(siblings, two)
    fail_to_take(siblings, two)
    devices.remove(siblings, two)
    left = devices.remove(siblings, one).after.groups
    assert group not in left, f"group {group} is left without its devices"


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.machines("smmuv3")
def test_failed_bind_leaves_no_owner(bound_guest: Guest) -> None:
    """Each allocation of a bind fails once."""
    name = clients.platform(bound_guest.state())[0]
    devices.unbind(bound_guest, name)
    bind = "/sys/bus/platform/drivers/iommu_client/bind"
    failed = 0
    for failure in tracing.failures(bound_guest, "write", bind, name):
        if failure.status == 0:
            devices.unbind(bound_guest, name)
        failed += failure.status != 0
    assert failed > 2
    devices.unbind(bound_guest, name)
    finding.none_of(audit.owners(bound_guest, name))
    devices.bind(bound_guest, name, "iommu_client")
    assert bound_guest.state().devices[name].driver == "iommu_client"


@pytest.mark.machines("virtio-iommu", "virtio-iommu-acpi")
@pytest.mark.needs(DMA_OWNERSHIP)
def test_failed_claim_does_not_block_drivers(siblings: Guest) -> None:
    """Who could not have the group's DMA, for want of memory, is not its owner, with whom no
    driver would be let in (__iommu_take_dma_ownership)."""
    one, two = clients.nics(siblings.state())
    for name in (one, two):
        vfio.give(siblings, name)
    vfio.spare_resets(siblings, one)
    siblings.take_kmsg()
    what = vfio.words(siblings.state(), "group", one)
    refused = 0
    for failure in tracing.failures(siblings, "vfio", "open", "group", *what):
        said = siblings.take_kmsg()
        if failure.status and any("_claim_dma_owner" in entry.text for entry in said):
            refused += 1
            for name in (one, two):
                bound = vfio.take_back(siblings, name).after.devices[name].driver
                assert bound == "e1000", f"allocation {failure.number} keeps {name} from it"
            for name in (one, two):
                vfio.give(siblings, name)
    assert refused > 0


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
    """arm_smmu_device_probe -> iommu_device_register -> bus_iommu_probe: what one device
    of the bus could not get undoes all the others."""
    if shows(GROUPS_AT_REGISTRATION):
        expect_splat("WARNING in iommu_setup_default_domain")
    smmu = next(name for name in guest.state().devices if "smmu" in name)
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "arm_smmu_v3")
    failed = 0
    probe = "/sys/bus/platform/drivers_probe"
    for failure in tracing.failures(guest, "write", probe, smmu, but_for=tracing.RCACHES):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        if not state.devices[smmu].driver:
            failed += 1
            wrong += audit.leaks(state)
        else:
            clients.remove_all(guest)
            guest.run("rmmod arm_smmu_v3; modprobe arm_smmu_v3")
            clients.bring_back(guest)
        finding.none_of(wrong, f"with allocation {failure.number} failing")
    assert failed > 10
    assert guest.state().devices[smmu].driver == "arm-smmu-v3"
