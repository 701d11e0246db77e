# SPDX-License-Identifier: GPL-2.0-only
"""Ownership of a group's DMA: kernel drivers share a group, or one user owns it exclusively.

From "Fix BUG_ON in vfio_iommu_group_notifier()" (512881eacfa7): binding a driver claims
the DMA API for the whole group, and a user of VFIO or iommufd claims exclusive ownership. The
second of the two fails with an errno and without side effects.
"""

import errno

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest, Step
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import DMA_OWNERSHIP
from harness.kernel.artifact import Kernel
from harness.machine.topology import Machine
from harness.plugin.applicable import not_applicable
from harness.plugin.plugin import GuestFactory

owned = pytest.mark.needs(DMA_OWNERSHIP)
USERS = ["group", "cdev", "kernel"]

# Internal to the kernel (include/linux/errno.h): the probe is retried later.
EPROBE_DEFER = 517


@pytest.fixture
def bound_guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A guest with bound IOMMU and client drivers, and with the VFIO modules loaded."""
    return guest_factory(machine, *vfio.WARM_UP, bound=True)


def nic_of(guest: Guest) -> str:
    return clients.nics(guest.state())[0]


def group_of(guest: Guest, name: str) -> int:
    number = guest.state().devices[name].group
    assert number is not None
    return number


def claim(guest: Guest, name: str) -> Step:
    """Load the guest module dma_owner, which claims the DMA of the device's group."""
    return modules.load(guest, "dma_owner", device=name, check=False)


def assert_rejected(step: Step, *errnos: str) -> None:
    """Check that the step fails with one of the errnos, given by name or message."""
    text = step.err.strip()
    messages = {"EPERM": "Operation not permitted", "EBUSY": "Device or resource busy"}
    assert step.status != 0, "it succeeds"
    assert any(errno in text or messages.get(errno, errno) in text for errno in errnos), text


class User:
    """A user that claims a device's DMA. ``kind`` is "group" (a VFIO group), "cdev" (a VFIO device
    file and iommufd) or "kernel" (the guest module dma_owner)."""

    def __init__(self, guest: Guest, kind: str, name: str) -> None:
        self.guest, self.kind, self.name = guest, kind, name
        self.holder: vfio.User | None = None

    def prepare(self) -> None:
        """Unbind the device from its driver, and for VFIO bind it to vfio-pci."""
        if self.kind == "kernel":
            if self.guest.state().devices[self.name].driver:
                devices.unbind(self.guest, self.name)
        else:
            vfio.bind_vfio(self.guest, self.name)

    def open(self) -> Step:
        """Claim the DMA. A VFIO user opens the device."""
        if self.kind == "kernel":
            return claim(self.guest, self.name)
        mode: vfio.Mode = "group" if self.kind == "group" else "cdev"
        words = vfio.arguments(self.guest.state(), mode, self.name)
        step, self.holder = vfio.start_user(self.guest, mode, *words, check=False)
        return step

    def close(self) -> None:
        """Release the claim. A VFIO user is killed."""
        if self.holder:
            self.holder.kill()
        elif self.kind == "kernel":
            modules.unload(self.guest, "dma_owner")


@owned
@pytest.mark.parametrize("kind", USERS)
def test_user_can_claim_an_unbound_device(bound_guest: Guest, kind: str) -> None:
    """A user can claim a device without a driver, and releases the device on exit."""
    nic = nic_of(bound_guest)
    user = User(bound_guest, kind, nic)
    user.prepare()
    step = user.open()
    assert step.status == 0, step.err
    user.close()
    finding.require_none(audit.owned_groups(bound_guest, nic))


@owned
def test_bound_driver_blocks_a_claim(bound_guest: Guest) -> None:
    """A group with a bound driver cannot be claimed.

    iommu_group_claim_dma_owner: owner_cnt counts bound drivers."""
    nic = nic_of(bound_guest)
    assert_rejected(claim(bound_guest, nic), "EPERM")
    assert bound_guest.state().devices[nic].driver == "e1000e"
    devices.unbind(bound_guest, nic)
    finding.require_none(audit.owned_groups(bound_guest, nic))


@owned
@pytest.mark.parametrize("bound", [0, 1], ids=["first", "second"])
def test_bound_sibling_blocks_claims(siblings: Guest, kernel: Kernel, bound: int) -> None:
    """A group is not viable, and cannot be claimed, while one of its devices has a DMA driver."""
    guest = siblings
    nics = clients.nics(clients.bind_all(guest))
    nic = nics[1 - bound]
    group = group_of(guest, nic)
    vfio.bind_vfio(guest, nic)
    assert vfio.viable(guest, group).out == "not viable\n"
    assert_rejected(vfio.run_user(guest, "group", group, nic, check=False), "EPERM")
    if kernel.option(vfio.REQUIRED_OPTIONS["cdev"]):
        assert_rejected(vfio.run_user(guest, "cdev", nic, check=False), "EPERM")
    assert_rejected(claim(guest, nic), "EPERM")
    assert guest.state().devices[nics[bound]].driver == "e1000"
    devices.unbind(guest, nics[bound])
    assert vfio.viable(guest, group).out == "viable\n"
    vfio.run_user(guest, "group", group, nic)


@owned
@pytest.mark.parametrize("kind", USERS)
def test_user_blocks_binding_a_sibling(siblings: Guest, kind: str) -> None:
    """A driver cannot bind to a sibling of a device that a user owns.

    iommu_device_use_default_domain returns EBUSY, and the driver core logs nothing."""
    guest = siblings
    one, two = clients.nics(clients.bind_all(guest))
    devices.unbind(guest, two)
    user = User(guest, kind, one)
    user.prepare()
    assert user.open().status == 0
    for _ in range(2):
        refused = devices.bind(guest, two, "e1000", check=False)
        assert (refused.status, devices.errno_of(refused)) == (1, "EBUSY")
        assert refused.after.devices[two].driver == ""
        assert not [entry for entry in refused.kmsg if entry.level < 4]
    user.close()
    assert devices.bind(guest, two, "e1000").after.devices[two].driver == "e1000"


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.known_issue("vfio-group-viable-bug-on")
@pytest.mark.excused(teardown="after the BUG the group's notifier chain stays locked")
def test_binding_a_sibling_of_a_vfio_device_returns_ebusy(siblings: Guest) -> None:
    """Binding a driver to a sibling of an open VFIO device fails with EBUSY.

    This is the bug that the series fixes: vfio_iommu_group_notifier could only BUG_ON."""
    guest = siblings
    one, two = clients.nics(clients.bind_all(guest))
    devices.unbind(guest, two)
    vfio.bind_vfio(guest, one)
    _, holder = vfio.start_user(guest, "group", group_of(guest, one), one)
    assert holder
    step = devices.bind(guest, two, "e1000", check=False)
    require_survival(step)
    assert (step.status, devices.errno_of(step)) == (1, "EBUSY")
    holder.kill()


@owned
def test_claim_blocks_a_driver_that_binds(bound_guest: Guest) -> None:
    """A driver that uses the DMA API cannot bind to a device while its group has a DMA owner.

    really_probe fails in iommu_device_use_default_domain. A device of a VFIO user is bound to
    vfio-pci, so another driver cannot bind to it whether the group is owned or not."""
    nic = nic_of(bound_guest)
    devices.unbind(bound_guest, nic)
    assert claim(bound_guest, nic).status == 0
    refused = devices.bind(bound_guest, nic, "e1000e", check=False)
    assert (refused.status, devices.errno_of(refused)) == (1, "EBUSY")
    assert refused.after.devices == refused.before.devices
    modules.unload(bound_guest, "dma_owner")
    devices.bind(bound_guest, nic, "e1000e")


# The errno of the second user, by the first and second user. Claiming an owned group returns
# EPERM, opening a VFIO group or device that is already open returns EBUSY, and binding an iommufd
# device that is already bound returns EINVAL (iommu_group_claim_dma_owner, vfio_group_fops_open,
# vfio_device_block_group, vfio_df_open).
REFUSED_WITH = {
    ("group", "group"): "EBUSY",
    ("group", "cdev"): "EBUSY",
    ("group", "kernel"): "EPERM",
    ("cdev", "group"): "EBUSY",
    ("cdev", "cdev"): "EINVAL",
    ("cdev", "kernel"): "EPERM",
    ("kernel", "group"): "EPERM",
    ("kernel", "cdev"): "EPERM",
}


@owned
@pytest.mark.parametrize("second", USERS)
@pytest.mark.parametrize("first", USERS)
def test_first_user_blocks_a_second_user(bound_guest: Guest, first: str, second: str) -> None:
    """A second user cannot claim a device that a user owns until the first user exits."""
    nic = nic_of(bound_guest)
    if first == second == "kernel":
        not_applicable("the module that claims can be loaded only once")
    vfio.bind_vfio(bound_guest, nic)
    one, two = (User(bound_guest, kind, nic) for kind in (first, second))
    assert one.open().status == 0
    for _ in range(2):
        assert_rejected(two.open(), REFUSED_WITH[first, second])
    one.close()
    again = two.open()
    assert again.status == 0, again.err
    two.close()
    finding.require_none(audit.owned_groups(bound_guest, nic))


@owned
def test_vfio_container_claims_the_group_without_an_open_device(bound_guest: Guest) -> None:
    """A VFIO group in a container owns its DMA before any device is opened.

    VFIO_GROUP_SET_CONTAINER claims the group."""
    nic = nic_of(bound_guest)
    vfio.bind_vfio(bound_guest, nic)
    _, holder = vfio.start_user(bound_guest, "group", group_of(bound_guest, nic))
    assert holder
    assert_rejected(claim(bound_guest, nic), "EPERM")
    holder.kill()
    finding.require_none(audit.owned_groups(bound_guest, nic))


@owned
@pytest.mark.parametrize("stub", ["pci-stub", "vfio-pci"])
def test_driver_with_managed_dma_binds_to_an_owned_group(siblings: Guest, stub: str) -> None:
    """A driver with driver_managed_dma can bind to a device in a group that a user owns.

    pci-stub and vfio-pci do not claim the group when they bind."""
    guest = siblings
    one, two = clients.nics(clients.bind_all(guest))
    group = group_of(guest, one)
    vfio.bind_vfio(guest, one)
    modules.load(guest, stub)
    devices.override(guest, two, stub)
    devices.unbind(guest, two)
    assert devices.probe(guest, two).after.devices[two].driver == stub
    assert vfio.viable(guest, group).out == "viable\n"
    _, holder = vfio.start_user(guest, "group", group, one)
    assert holder
    # The device can be unbound and bound again while a user owns the group.
    devices.unbind(guest, two)
    assert devices.probe(guest, two).after.devices[two].driver == stub
    holder.kill()


@owned
def test_group_is_owned_until_its_last_driver_unbinds(siblings: Guest) -> None:
    """Each driver of a group releases its own claim; the last driver releases the group."""
    guest = siblings
    one, two = clients.nics(clients.bind_all(guest))
    for first, last in ((one, two), (two, one)):
        devices.unbind(guest, first)
        assert_rejected(claim(guest, first), "EPERM")
        devices.unbind(guest, last)
        finding.require_none(audit.owned_groups(guest, last))
        devices.bind(guest, one, "e1000")
        devices.bind(guest, two, "e1000")


@owned
def test_repeated_binding_leaves_no_owner(bound_guest: Guest) -> None:
    """Each unbind releases what its bind has claimed."""
    nic = nic_of(bound_guest)
    devices.unbind(bound_guest, nic)
    drivers = "/sys/bus/pci/drivers"
    cycle = f"echo {nic} > {drivers}/e1000e/bind && echo {nic} > {drivers}/e1000e/unbind"
    assert bound_guest.run(f"(for n in $(seq 10); do {cycle} || exit 1; done)").status == 0
    finding.require_none(audit.owned_groups(bound_guest, nic))


@owned
@pytest.mark.machines("smmuv3")
def test_platform_driver_claims_the_group(bound_guest: Guest) -> None:
    """A platform driver claims its group like a PCI driver.

    platform_dma_configure corresponds to pci_dma_configure."""
    for name in clients.platform(bound_guest.state()):
        assert_rejected(claim(bound_guest, name), "EPERM")
        devices.unbind(bound_guest, name)
        finding.require_none(audit.owned_groups(bound_guest, name))
        assert claim(bound_guest, name).status == 0
        refused = devices.bind(bound_guest, name, "iommu_client", check=False)
        assert (refused.status, devices.errno_of(refused)) == (1, "EBUSY")
        modules.unload(bound_guest, "dma_owner")
        devices.bind(bound_guest, name, "iommu_client")


@owned
@pytest.mark.machines("smmuv3")
def test_driver_owns_the_group_until_its_remove_returns(bound_guest: Guest) -> None:
    """A driver owns its group until its remove function has returned.

    __device_release_driver calls dma_cleanup after remove, because the device may still do DMA
    during remove."""
    name = clients.platform(bound_guest.state())[0]
    block_remove = "/sys/module/iommu_client/parameters/block_remove"
    unbind = f"echo {name} > /sys/bus/platform/drivers/iommu_client/unbind"
    bound_guest.run(f"echo 1 > {block_remove}; {unbind} &")
    bound_guest.run("until dmesg | grep -q 'waiting in remove'; do usleep 1000; done")
    assert_rejected(claim(bound_guest, name), "EPERM")
    bound_guest.run(f"echo 0 > {block_remove}; wait")
    assert bound_guest.state().devices[name].driver == ""
    finding.require_none(audit.owned_groups(bound_guest, name))


@owned
@pytest.mark.parametrize("kind", USERS)
@pytest.mark.excused(faults="the DMA that must be blocked")
def test_dma_is_blocked_while_the_group_is_owned(guest_factory: GuestFactory, kind: str) -> None:
    """While a group is owned, DMA of its unbound devices does not reach memory.

    Without an owner the DMA reaches memory, because the default domain is an identity domain.
    An owner's domain applies to unused siblings too (iommu_group_claim_dma_owner,
    vfio_iommu_type1_attach_group)."""
    guest = guest_factory(
        "+multifunction", *vfio.WARM_UP, bound=True, arguments="iommu.passthrough=1"
    )
    one, two = clients.nics(clients.bind_all(guest))
    devices.unbind(guest, two)
    user = User(guest, kind, one)
    user.prepare()
    assert reaches_memory(guest, two)
    step = user.open()
    assert step.status == 0, step.err
    assert not reaches_memory(guest, two), f"{two} writes to memory past the owner"
    user.close()
    assert reaches_memory(guest, two)


def reaches_memory(guest: Guest, nic: str) -> bool:
    """Whether DMA of an unbound NIC to an unmapped address reaches memory."""
    sent = modules.load(guest, "stray_dma", device=nic, check=False)
    assert sent.status == 0, sent.err
    reached = guest.run("cat /sys/module/stray_dma/parameters/reached").out
    modules.unload(guest, "stray_dma")
    return reached == "Y\n"


@owned
@pytest.mark.machines("smmuv3")
@pytest.mark.parametrize("error", [errno.EIO, EPROBE_DEFER])
def test_failed_driver_probe_leaves_no_owner(guest: Guest, error: int) -> None:
    """A driver does not keep DMA ownership if its probe fails or is deferred.

    really_probe -> dma_cleanup on its error path."""
    modules.load(guest, "arm_smmu_v3")
    state = modules.load(guest, "iommu_client", probe_error=error).after
    for name in clients.platform(state):
        for _ in range(3):
            assert devices.bind(guest, name, "iommu_client", check=False).status == 1
        finding.require_none(audit.owned_groups(guest, name))


@owned
def test_rejected_claim_leaves_no_owner(bound_guest: Guest) -> None:
    """A rejected claim leaves no owner behind."""
    nic = nic_of(bound_guest)
    for _ in range(3):
        assert_rejected(claim(bound_guest, nic), "EPERM")
    devices.unbind(bound_guest, nic)
    finding.require_none(audit.owned_groups(bound_guest, nic))
    devices.bind(bound_guest, nic, "e1000e")


@owned
def test_rescanned_device_has_no_owner(bound_guest: Guest) -> None:
    """A device that was owned has no owner after it is removed and rescanned.

    It is removed after its owner is killed, while it is still bound to vfio-pci."""
    nic = nic_of(bound_guest)
    vfio.bind_vfio(bound_guest, nic)
    _, holder = vfio.start_user(bound_guest, "group", group_of(bound_guest, nic), nic)
    assert holder
    holder.kill()
    devices.remove(bound_guest, nic)
    assert devices.rescan(bound_guest).after.devices[nic].driver == "e1000e"
    devices.unbind(bound_guest, nic)
    finding.require_none(audit.owned_groups(bound_guest, nic))
