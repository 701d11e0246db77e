# SPDX-License-Identifier: GPL-2.0-only
"""What a user of VFIO or iommufd holds while a device is open, and that the kernel releases all of
it when the user exits or is killed.

The users are processes of guest-scripts/commands/vfio.c. They map memory and undo nothing on exit.
"""

import re

import pytest

from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, finding, traffic, vfio
from harness.iommu.behaviour import DMA_OWNERSHIP, FAULT_INJECTION, PROBE_DEFERRAL
from harness.iommu.vfio import Mode, User
from harness.plugin.plugin import GuestFactory

# The modules that serve a user, and the modules that can be unloaded if there is no user.
SERVERS = {
    "group": ("vfio_iommu_type1", "vfio_pci"),
    "compat": ("iommufd", "vfio_pci"),
    "cdev": ("iommufd", "vfio_pci"),
}
UNLOADABLE = ("vfio_iommu_type1", "vfio_pci")

# How many of a user's 16 pages for DMA count as locked (vfio_lock_acct) and as pinned
# (do_update_pinned; in 7.2 iopt_pages_update_pinned).
CHARGED = {"group": (16, 0), "remap": (16, 0)} | dict.fromkeys(
    ("compat", "cdev", "replace"), (0, 16)
)

each_mode = pytest.mark.parametrize("mode", ["group", "compat", "cdev"])


@pytest.fixture
def two_nics(guest_factory: GuestFactory) -> Guest:
    """A guest with two NICs in separate groups, both bound to vfio-pci."""
    guest = bind_nics_to_vfio(guest_factory("+isolated-functions", *vfio.WARM_UP, bound=True))
    state = guest.state()
    assert len({state.devices[name].group for name in nics_of(state)}) == 2
    return guest


def bind_nics_to_vfio(guest: Guest) -> Guest:
    for name in clients.nics(clients.bind_all(guest)):
        vfio.bind_vfio(guest, name)
    return guest


def nics_of(state: State) -> list[str]:
    return [name for name, each in state.devices.items() if each.driver == "vfio-pci"]


def hold_open(guest: Guest, mode: Mode, *names: str) -> User:
    """Start a process that opens the devices and keeps them open."""
    step, holder = vfio.start_user(
        guest, mode, *vfio.arguments(guest.state(), mode, *names), check=False
    )
    audit.require_success(step)
    assert holder
    return holder


def assert_released(guest: Guest, *names: str) -> None:
    """Check that the groups of the devices have no DMA owner, and that their own drivers bind."""
    finding.require_none(audit.owned_groups(guest, *names))
    for name in names:
        unbound = vfio.unbind_vfio(guest, name, check=False)
        assert unbound.after.devices[name].driver in clients.PCI_NIC_DRIVERS, unbound.err


def pinned(guest: Guest) -> int:
    """The number of pages that are pinned for DMA (pin_user_pages). The statistics are refreshed
    first, because CPUs batch their counts."""
    text = guest.run("cat /proc/sys/vm/stat_refresh; cat /proc/vmstat").out
    count = dict(re.findall(r"^nr_foll_pin_(acquired|released) (\d+)$", text, re.MULTILINE))
    return int(count["acquired"]) - int(count["released"])


def charged(guest: Guest, holder: User) -> tuple[int, ...]:
    """The numbers of pages that are charged to the process as locked and as pinned."""
    text = guest.run(f"cat /proc/{holder.pid}/status").out
    assert "VmLck" in text, f"process {holder.pid} has no memory"
    counts = dict(re.findall(r"^Vm(Lck|Pin):\s+(\d+) kB$", text, re.MULTILINE))
    return tuple(int(counts[which]) // 4 for which in ("Lck", "Pin"))


@each_mode
def test_vfio_user_pins_the_modules_it_uses(two_nics: Guest, mode: Mode) -> None:
    """A VFIO user pins the modules that serve it until it exits.

    try_module_get in vfio_ioctl_set_iommu, in vfio_df_device_first_open (5.10:
    vfio_pci_open), and of the owner of /dev/iommu when it is opened."""
    before = two_nics.state()
    nic, _ = nics_of(before)
    holder = hold_open(two_nics, mode, nic)
    during = two_nics.state()
    for name in SERVERS[mode]:
        counts = before.refcount_if_loaded(name) or 0, during.refcount_if_loaded(name) or 0
        assert counts[0] < counts[1], f"{name} has refcount {counts[1]} with a user"
        if name in UNLOADABLE:
            refused = modules.unload(two_nics, name, check=False)
            assert refused.status != 0, f"{name} can be unloaded although it has a user"
    holder.kill()
    after = two_nics.state()
    for name in SERVERS[mode]:
        assert (after.refcount_if_loaded(name) or 0) == (before.refcount_if_loaded(name) or 0), name


@pytest.mark.needs(DMA_OWNERSHIP)
@each_mode
def test_killed_user_releases_its_device(two_nics: Guest, mode: Mode) -> None:
    """A killed user releases its device for the next user and for the kernel driver.

    vfio_group_fops_release, vfio_device_fops_release and iommufd_fops_release run when the
    process exits."""
    nic, _ = nics_of(two_nics.state())
    for _ in range(3):
        hold_open(two_nics, mode, nic).kill()
    assert_released(two_nics, nic)


@pytest.mark.parametrize("mode", ["group", "remap", "compat", "cdev"])
def test_memory_is_pinned_while_a_user_maps_it(two_nics: Guest, mode: Mode) -> None:
    """Memory that a user maps is pinned and charged to the user until it exits.

    vfio_iommu_unmap_unpin_all unpins the memory when the last group leaves the container, and
    iopt_table_remove_domain when the last device leaves its page table. A user that has reached
    its limit of locked memory can unmap memory and map it again."""
    nic, _ = nics_of(two_nics.state())
    assert pinned(two_nics) == 0
    holder = hold_open(two_nics, mode, nic)
    assert (pinned(two_nics), charged(two_nics, holder)) == (16, CHARGED[mode])
    holder.kill()
    assert pinned(two_nics) == 0


@pytest.mark.needs(DMA_OWNERSHIP, FAULT_INJECTION)
@pytest.mark.parametrize(
    "mode",
    [
        "group",
        # The number of allocations in the process varies by one between runs. The allocation
        # for unmapping can therefore be skipped.
        pytest.param(
            "remap",
            marks=pytest.mark.known_issue("unmapping-fails-for-memory", sometimes=True),
        ),
        "compat",
        "cdev",
    ],
)
def test_failed_user_leaves_no_owner_and_no_pinned_pages(two_nics: Guest, mode: Mode) -> None:
    """A user that fails with -ENOMEM anywhere leaves no owner and no pinned pages when it exits.

    Each allocation of opening, claiming, attaching, mapping and unmapping fails once."""
    state = two_nics.state()
    nic, _ = nics_of(state)
    vfio.disable_reset(two_nics, nic)
    what = vfio.arguments(state, mode, nic)
    failures = failnth.fail_all(two_nics, "vfio", "open", mode, *what)
    assert sum(each.status != 0 for each in failures) > 5
    pages = pinned(two_nics)
    finding.require(not pages, "pinned", "pages", pages)
    enabled = two_nics.run(f"cat /sys/bus/pci/devices/{nic}/enable").out.strip()
    assert enabled == "0", f"{nic} is still enabled {enabled} times"
    assert_released(two_nics, nic)
    devices.unbind(two_nics, nics_of(state)[1])
    unloaded = modules.unload(two_nics, "vfio_pci", check=False)
    assert unloaded.status == 0, f"a failed open keeps a reference: {unloaded.err}"


@pytest.mark.needs(DMA_OWNERSHIP, FAULT_INJECTION)
@pytest.mark.known_issue("detaching-fails-for-memory", sometimes=True)
def test_failed_container_attach_leaves_no_owner(two_nics: Guest) -> None:
    """A user that fails to add a second group to its container leaves neither group owned.

    Adding a second group has its own error paths, because the container is already set up and
    has memory mapped (vfio_iommu_type1_attach_group)."""
    state = two_nics.state()
    nics = nics_of(state)
    failed = 0
    for failure in failnth.fail_each(
        two_nics, "vfio", "open", "groups", *vfio.arguments(state, "groups", *nics)
    ):
        failed += failure.status != 0
    assert failed > 5
    assert pinned(two_nics) == 0
    assert_released(two_nics, *nics)


@pytest.mark.known_issue("virtio-iommu-space-before-attach", "smmu-space-before-attach")
@pytest.mark.parametrize("mode", ["move"])
def test_ioas_can_be_destroyed_after_its_devices_moved(siblings: Guest, mode: Mode) -> None:
    """An IOAS can be destroyed after all devices of the group have moved to another IOAS.

    iommufd_device_do_replace: the first device of a group moves all of them to the new page
    table, with a reference for each device and with their reserved regions."""
    opened = vfio.run_user(
        siblings, mode, *nics_of(bind_nics_to_vfio(siblings).state()), check=False
    )
    audit.require_success(opened)
    assert_released(siblings, *nics_of(siblings.state()))


@pytest.mark.known_issue("virtio-iommu-space-before-attach", "smmu-space-before-attach")
@pytest.mark.parametrize("mode", ["replace"])
def test_replacement_hwpt_receives_the_mappings(two_nics: Guest, mode: Mode) -> None:
    """A page table that replaces another in its IOAS receives the mappings, and loses them on exit.

    iopt_table_remove_domain: the IOAS continues to fill and empty its remaining page tables, and
    to keep the reserved regions of their devices."""
    nic, _ = nics_of(two_nics.state())
    holder = hold_open(two_nics, mode, nic)
    assert (pinned(two_nics), charged(two_nics, holder)) == (16, CHARGED[mode])
    holder.kill()
    assert pinned(two_nics) == 0
    assert_released(two_nics, nic)


@pytest.mark.known_issue("virtio-iommu-space-before-attach", "smmu-space-before-attach")
@pytest.mark.parametrize("mode", ["return"])
def test_device_reattached_to_its_hwpt_finds_its_mappings(two_nics: Guest, mode: Mode) -> None:
    """A device that is attached to its page table again finds all mappings in it.

    The IOAS reserves the device's regions again, although it has rejected a list of allowed IOVAs
    because of them in between (iopt_set_allow_iova). A virtio-iommu drops the mappings of a domain
    when its last device is detached. The driver keeps track of them, and must send them again
    (viommu_replay_mappings)."""
    nic, _ = nics_of(two_nics.state())
    with traffic.traced(two_nics, "virtio_iommu_map") as trace:
        opened = vfio.run_user(two_nics, mode, nic, check=False)
    audit.require_success(opened)
    sent = 2 if two_nics.machine.iommu.driver == "virtio_iommu" else 0
    for address in (vfio.MAPPED_AT, vfio.HIGH_AT):
        assert trace.values("virt_start").count(address) == sent, f"{address:#x}"


def test_failed_mapping_consumes_no_dma_entry(two_nics: Guest) -> None:
    """A failed mapping does not consume an entry of the container's limited number of DMA entries.

    vfio_remove_dma releases the entry. The user tries twice to map memory that does not exist."""
    limited = two_nics.run("echo 2 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
    assert limited.status == 0, limited.err
    state = two_nics.state()
    words = vfio.arguments(state, "group", nics_of(state)[0])
    opened = vfio.run_user(two_nics, "group", *words, check=False)
    audit.require_success(opened)


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.parametrize("mode", ["cdev"])
def test_group_is_owned_until_its_last_device_closes(siblings: Guest, mode: Mode) -> None:
    """A group is owned until its last device is closed.

    iommu_device_claim_dma_owner counts the devices of an owner (iommufd)."""
    one, two = nics_of(bind_nics_to_vfio(siblings).state())
    holder = hold_open(siblings, mode, one, two)
    devices.override(siblings, one, "")
    devices.unbind(siblings, one)
    refused = devices.bind(siblings, one, "e1000", check=False)
    assert (refused.status, devices.errno_of(refused)) == (1, "EBUSY")
    holder.kill()
    devices.bind(siblings, one, "e1000")


def test_vfio_pci_binds_only_by_driver_override(guest: Guest) -> None:
    """vfio-pci does not bind to a device without a driver_override.

    Its ID table applies only to devices with a driver_override (pci_match_device)."""
    modules.load(guest, guest.machine.iommu.driver)
    state = modules.load(guest, "vfio-pci").after
    assert state.refcount("vfio_pci") == 0
    assert nics_of(state) == []


@pytest.mark.needs(PROBE_DEFERRAL, DMA_OWNERSHIP)
def test_port_driver_does_not_block_vfio_below_it(
    guest_factory: GuestFactory, early_acs: bool
) -> None:
    """The driver of a port does not block VFIO users of the devices below the port.

    pcie_portdriver sets driver_managed_dma, because the port may share the group of its devices."""
    guest = bind_nics_to_vfio(guest_factory("+root-port", *vfio.WARM_UP, bound=True))
    state = guest.state()
    port = next(name for name, each in state.devices.items() if each.driver == "pcieport")
    one, two = nics_of(state)
    assert state.devices[one].group == state.devices[two].group
    shared = state.devices[port].group == state.devices[one].group
    assert shared != early_acs
    opened = vfio.run_user(guest, "group", *vfio.arguments(state, "group", one), check=False)
    audit.require_success(opened)


def test_driver_override_moves_a_device_to_vfio_and_back(bound_guest: Guest) -> None:
    """A driver_override moves a device to vfio-pci, and clearing it moves the device back."""
    nic = clients.nics(bound_guest.state())[0]
    for _ in range(4):
        assert vfio.bind_vfio(bound_guest, nic).after.devices[nic].driver == "vfio-pci"
        words = vfio.arguments(bound_guest.state(), "group", nic)
        opened = vfio.run_user(bound_guest, "group", *words, check=False)
        audit.require_success(opened)
        assert vfio.unbind_vfio(bound_guest, nic).after.devices[nic].driver == "e1000e"


def test_driver_override_excludes_dynamic_ids(bound_guest: Guest) -> None:
    """IDs added to a driver at run time do not match a device with another driver_override.

    pci_match_device. The driver in driver_override does not need to be loaded."""
    nic = clients.nics(bound_guest.state())[0]
    modules.load(bound_guest, "vfio-pci")
    devices.unbind(bound_guest, nic)
    devices.override(bound_guest, nic, "pci-stub")
    added = bound_guest.step("echo 8086 10d3 > /sys/bus/pci/drivers/vfio-pci/new_id")
    assert (added.status, added.after.devices[nic].driver) == (0, "")
    refused = devices.bind(bound_guest, nic, "vfio-pci", check=False)
    assert (devices.errno_of(refused), refused.after.devices[nic].driver) == ("ENODEV", "")
    assert devices.probe(bound_guest, nic).after.devices[nic].driver == ""
    devices.override(bound_guest, nic, "")
    assert devices.bind(bound_guest, nic, "vfio-pci").after.devices[nic].driver == "vfio-pci"


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.errors("failed with error -22")
def test_vfio_pci_requires_a_group(guest_factory: GuestFactory) -> None:
    """vfio-pci does not bind to a device without an IOMMU group.

    Without the IOMMU driver the device has no group, and it is not deferred, because the timeout
    is 0 (vfio_group_find_or_alloc; in 5.10 vfio_iommu_group_get)."""
    guest = guest_factory(arguments="deferred_probe_timeout=0")
    (nic,) = clients.pci(guest.state())
    modules.load(guest, "vfio-pci")
    devices.override(guest, nic, "vfio-pci")
    state = devices.probe(guest, nic).after
    assert "vfio_pci" in state.modules
    assert (state.devices[nic].driver, state.devices[nic].deferred) == ("", False)
