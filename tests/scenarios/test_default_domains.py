# SPDX-License-Identifier: GPL-2.0-only
"""The default domain of a group: its type, type changes, and the return to it.

From the thread on "iommu: Remove detach_dev callbacks" (1b932ceddd19): a group that is
released returns to its default domain. A driver without a default domain causes a WARN or worse.
"""

import pytest

from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, groups, vfio
from harness.iommu.behaviour import (
    DMA_OWNERSHIP,
    FAILED_FIRST_ATTACH_WARNS,
    FAULT_INJECTION,
    GROUP_TYPE,
    GROUP_TYPE_WRITABLE,
    GROUPS_AT_REGISTRATION,
    PROBE_DEFERRAL,
    SHARED_GROUP_TYPE_WRITABLE,
    TYPE_STORE_RETURNS_EPERM,
    VIRTIO_IOMMU_FLUSH_QUEUE,
    VIRTIO_IOMMU_IDENTITY,
)
from harness.iommu.groups import NO_DEFAULT_DOMAIN, GroupType
from harness.plugin.applicable import not_applicable
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows

pytestmark = pytest.mark.needs(GROUP_TYPE)


def nic_of(state: State) -> str:
    return clients.nics(state)[0]


def group_of(guest: Guest, name: str) -> int:
    number = guest.state().devices[name].group
    assert number is not None
    return number


def test_default_domain_type_is_dma(bound_guest: Guest) -> None:
    """Every group has a default domain of type DMA unless configured otherwise.

    iommu_def_domain_type, CONFIG_IOMMU_DEFAULT_DMA_STRICT."""
    groups = bound_guest.state().groups
    assert groups
    assert {group.type for group in groups.values()} == {"DMA"}


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("iommu.passthrough=1", "identity"),
        ("iommu.passthrough=0", "DMA"),
        ("iommu.strict=0", "DMA-FQ"),
        ("iommu.strict=1", "DMA"),
    ],
)
def test_command_line_sets_the_default_domain_type(
    guest_factory: GuestFactory, shows: Shows, argument: str, kind: str
) -> None:
    """The command line selects the type of every default domain."""
    guest = guest_factory(arguments=argument, bound=True)
    state = clients.bind_all(guest)
    virtio = guest.machine.iommu.driver == "virtio_iommu"
    # 5.10 supports a flush queue for an SMMU, but has no type name for it.
    needed = {
        "DMA-FQ": [GROUP_TYPE_WRITABLE, *([VIRTIO_IOMMU_FLUSH_QUEUE] if virtio else [])],
        "identity": [VIRTIO_IOMMU_IDENTITY] if virtio else [],
    }
    if not all(shows(each) for each in needed.get(kind, [])):
        kind = "DMA"
    assert {group.type for group in state.groups.values()} == {kind}


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
@pytest.mark.parametrize("kind", ["identity", "DMA-FQ", "DMA"])
def test_idle_group_can_change_type(bound_guest: Guest, kind: GroupType) -> None:
    """An idle group accepts each type, and the next driver that binds uses it.

    iommu_group_store_type."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    devices.unbind(bound_guest, nic)
    if kind == "DMA":
        groups.set_group_type(bound_guest, group, "identity")
    before = bound_guest.state()
    step = groups.set_group_type(bound_guest, group, kind, check=False)
    assert step.status == 0, step.err
    assert step.after.groups[group].type == kind
    assert {n: g for n, g in step.after.groups.items() if n != group} == {
        n: g for n, g in before.groups.items() if n != group
    }
    assert step.after.refcount(bound_guest.machine.iommu.driver) == len(before.grouped)
    devices.bind(bound_guest, nic, "e1000e")
    assert devices.group_type(bound_guest, group) == kind


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_group_type_can_be_changed_repeatedly(bound_guest: Guest) -> None:
    """The type of an idle group can be changed any number of times, also back to the default."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    devices.unbind(bound_guest, nic)
    kinds: tuple[GroupType, ...] = ("identity", "DMA", "DMA-FQ", "identity", "auto")
    for kind in kinds * 3:
        groups.set_group_type(bound_guest, group, kind)
    assert devices.group_type(bound_guest, group) == "DMA"
    devices.bind(bound_guest, nic, "e1000e")


@pytest.mark.errors("Device is still bound to driver")
@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_group_type_change_fails_while_a_driver_is_bound(bound_guest: Guest, shows: Shows) -> None:
    """Changing a group's type to identity fails while a device in it has a driver, and the type
    stays the same."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    step = groups.set_group_type(bound_guest, group, "identity", check=False)
    errno = "EPERM" if shows(TYPE_STORE_RETURNS_EPERM) else "EBUSY"
    assert (step.status, devices.errno_of(step)) == (1, errno)
    assert step.after == step.before


@pytest.mark.errors("Device is still bound to driver")
@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_bound_group_can_switch_to_dma_fq(bound_guest: Guest, shows: Shows) -> None:
    """A group with a bound driver accepts the change from DMA to DMA-FQ, but not back.

    It is the only change that keeps the domain (iommu_dma_init_fq)."""
    if bound_guest.machine.iommu.driver == "virtio_iommu" and not shows(VIRTIO_IOMMU_FLUSH_QUEUE):
        not_applicable(f"requires that {VIRTIO_IOMMU_FLUSH_QUEUE.summary}")
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    step = groups.set_group_type(bound_guest, group, "DMA-FQ", check=False)
    assert step.status == 0, step.err
    assert step.after.groups[group].type == "DMA-FQ"
    assert groups.set_group_type(bound_guest, group, "DMA", check=False).status != 0
    assert devices.group_type(bound_guest, group) == "DMA-FQ"


@pytest.mark.errors("Device is still bound to driver")
@pytest.mark.needs(GROUP_TYPE_WRITABLE)
@pytest.mark.parametrize("owner", ["vfio", "kernel"])
def test_group_type_change_fails_while_the_group_is_owned(
    bound_guest: Guest, owner: str, shows: Shows
) -> None:
    """Changing a group's type fails while its DMA has an owner, and the type stays the same."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    if owner == "vfio":
        vfio.bind_vfio(bound_guest, nic)
        _, holder = vfio.start_user(bound_guest, "group", group, nic)
        assert holder
        step = groups.set_group_type(bound_guest, group, "identity", check=False)
        holder.kill()
    else:
        devices.unbind(bound_guest, nic)
        modules.load(bound_guest, "dma_owner", device=nic)
        step = groups.set_group_type(bound_guest, group, "identity", check=False)
        modules.unload(bound_guest, "dma_owner")
    errno = "EPERM" if shows(TYPE_STORE_RETURNS_EPERM) else "EBUSY"
    assert (step.status, devices.errno_of(step)) == (1, errno)
    assert devices.group_type(bound_guest, group) == "DMA"


def test_type_file_is_writable_only_if_the_type_can_be_changed(
    bound_guest: Guest, shows: Shows
) -> None:
    """The type attribute of a group is writable only in kernels that can change the type."""
    group = group_of(bound_guest, nic_of(bound_guest.state()))
    mode = bound_guest.run(f"stat -c %a /sys/kernel/iommu_groups/{group}/type").out.strip()
    assert mode == ("644" if shows(GROUP_TYPE_WRITABLE) else "444")


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
@pytest.mark.parametrize("kind", ["nonsense", "", "blocked", "dma"])
def test_invalid_group_type_returns_einval(bound_guest: Guest, kind: str) -> None:
    """Writing an unknown type to an idle group fails with EINVAL and changes nothing."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    devices.unbind(bound_guest, nic)
    step = devices.write(bound_guest, f"/sys/kernel/iommu_groups/{group}/type", kind, check=False)
    assert (step.status, devices.errno_of(step)) == (1, "EINVAL")
    assert step.after == step.before


@pytest.mark.errors("Cannot change default domain: Group has more than one device")
@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_type_change_requires_all_devices_of_the_group_to_be_unbound(
    guest_factory: GuestFactory, shows: Shows
) -> None:
    """The type of a group with several devices changes only when all of them are unbound."""
    guest = guest_factory("+multifunction", bound=True)
    one, two = clients.nics(clients.bind_all(guest))
    group = group_of(guest, one)
    devices.unbind(guest, one)
    assert groups.set_group_type(guest, group, "identity", check=False).status == 1
    assert devices.group_type(guest, group) == "DMA"
    devices.unbind(guest, two)
    idle = groups.set_group_type(guest, group, "identity", check=False)
    assert (idle.status == 0) == shows(SHARED_GROUP_TYPE_WRITABLE)
    kind = "identity" if shows(SHARED_GROUP_TYPE_WRITABLE) else "DMA"
    assert devices.group_type(guest, group) == kind
    for name in (one, two):
        devices.bind(guest, name, "e1000")


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_recreated_group_has_the_default_type(bound_guest: Guest) -> None:
    """A group that is released and created again has the default type, whatever its type was."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    devices.unbind(bound_guest, nic)
    groups.set_group_type(bound_guest, group, "identity")
    devices.remove(bound_guest, nic)
    assert devices.rescan(bound_guest).after.devices[nic].driver == "e1000e"
    assert devices.group_type(bound_guest, group_of(bound_guest, nic)) == "DMA"


@pytest.mark.needs(SHARED_GROUP_TYPE_WRITABLE, FAULT_INJECTION)
def test_failed_type_change_keeps_the_old_domain(bound_guest: Guest) -> None:
    """A type change that fails with -ENOMEM leaves the old default domain in place.

    Each allocation of iommu_setup_default_domain fails once. test_translation.py checks the
    domain of the group's other devices, which is visible only in their DMA."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    devices.unbind(bound_guest, nic)
    groups.set_group_type(bound_guest, group, "identity")
    path = f"/sys/kernel/iommu_groups/{group}/type"
    before = bound_guest.state()
    failed = 0
    for failure in failnth.fail_each(bound_guest, "write", path, "DMA", exclude=failnth.RCACHES):
        if failure.status == 0:
            groups.set_group_type(bound_guest, group, "identity")
            continue
        failed += 1
        assert bound_guest.state() == before, f"with allocation {failure.number} failing"
    assert failed > 2
    assert devices.group_type(bound_guest, group) == "DMA"
    devices.bind(bound_guest, nic, "e1000e")


# Not with ACPI, because its interpreter does not survive a failed allocation.
@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.needs(DMA_OWNERSHIP, FAULT_INJECTION)
@pytest.mark.known_issue("claimed-group-has-no-default-domain")
@pytest.mark.known_issue("failed-attach-warns", sometimes=True)
def test_group_without_default_domain_can_be_claimed_and_released(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """A group without a default domain is either not created, or can be claimed and released.

    Each allocation of a device's first bind fails once. If the default domain cannot be
    allocated, later kernels create no group. In 6.1 the group exists, and releasing it triggers
    the WARN_ON(!detach_dev) of the thread."""
    if shows(GROUPS_AT_REGISTRATION):
        not_applicable("devices have groups before they are bound")
    if shows(FAILED_FIRST_ATTACH_WARNS) and guest.machine.iommu.driver == "arm_smmu_v3":
        expect_splat("WARNING in iommu_setup_default_domain")
    nic = clients.pci(guest.state())[0]
    modules.load(guest, guest.machine.iommu.driver)
    modules.load(guest, "pci-stub")
    devices.override(guest, nic, "pci-stub")
    device = f"/sys/bus/pci/devices/{nic}"
    recreate = f"echo 1 > {device}/remove; echo 1 > /sys/bus/pci/rescan"
    bind = ("write", "/sys/bus/pci/drivers/pci-stub/bind", nic)
    # The SMMU driver keeps some allocations of the first bind, which would shift the numbers.
    devices.bind(guest, nic, "pci-stub")
    assert guest.run(f"{recreate}; echo pci-stub > {device}/driver_override").status == 0
    no_group, no_domain = 0, 0
    for _ in failnth.fail_each(guest, *bind, exclude=failnth.RCACHES):
        state = guest.state()
        group = state.devices[nic].group
        if group is None:
            no_group += 1
            # Removing the device triggers another bug in 6.1: see test_unwinding.py.
            if state.devices[nic].driver:
                devices.unbind(guest, nic)
            continue
        if state.groups[group].type == NO_DEFAULT_DOMAIN:
            no_domain += 1
            modules.load(guest, "dma_owner", device=nic)
            modules.unload(guest, "dma_owner")
        assert guest.run(f"{recreate}; echo pci-stub > {device}/driver_override").status == 0
    assert no_group > 2
    if shows(FAILED_FIRST_ATTACH_WARNS):
        assert no_domain == 0


@pytest.mark.parametrize("kind", ["DMA", "identity"])
@pytest.mark.needs(DMA_OWNERSHIP)
def test_releasing_a_kernel_claim_restores_the_default_domain(
    bound_guest: Guest, kind: GroupType
) -> None:
    """Releasing a claim in the kernel attaches the default domain again.

    __iommu_release_dma_ownership sets group->default_domain, so group->domain is the default
    domain for the next driver that binds and for the next type change."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    devices.unbind(bound_guest, nic)
    if kind != "DMA":
        groups.set_group_type(bound_guest, group, kind)
    for _ in range(3):
        modules.load(bound_guest, "dma_owner", device=nic)
        modules.unload(bound_guest, "dma_owner")
    assert devices.group_type(bound_guest, group) == kind
    devices.bind(bound_guest, nic, "e1000e")


@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.parametrize("mode", ["group", "cdev"])
def test_exit_of_a_vfio_user_restores_the_default_domain(
    bound_guest: Guest, mode: vfio.Mode
) -> None:
    """When a VFIO user exits, its group is attached to the default domain again."""
    nic = nic_of(bound_guest.state())
    group = group_of(bound_guest, nic)
    vfio.bind_vfio(bound_guest, nic)
    for _ in range(3):
        opened = vfio.run_user(
            bound_guest, mode, *vfio.arguments(bound_guest.state(), mode, nic), check=False
        )
        audit.require_success(opened)
    assert vfio.unbind_vfio(bound_guest, nic).after.devices[nic].driver == "e1000e"
    assert devices.group_type(bound_guest, group) == "DMA"
