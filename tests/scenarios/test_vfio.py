# SPDX-License-Identifier: GPL-2.0-only
"""What a user of VFIO or iommufd holds while he has a device, and that the kernel takes
all of it back, however he ends.

The users are of guest-scripts/vfio.c: they map memory, undo nothing at their end, and are killed.
"""

import re

import pytest

from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, finding, traffic, vfio
from harness.iommu.behaviour import CLIENTS_WAIT, DMA_OWNERSHIP
from harness.iommu.vfio import Holder, Way
from harness.plugin.plugin import GuestFactory

# The modules that serve a user, and which of them could be unloaded but for him.
SERVERS = {
    "group": ("vfio_iommu_type1", "vfio_pci"),
    "compat": ("iommufd", "vfio_pci"),
    "cdev": ("iommufd", "vfio_pci"),
}
UNLOADABLE = ("vfio_iommu_type1", "vfio_pci")

# What his 16 pages for DMA count as, locked and pinned: vfio_lock_acct, and do_update_pinned
# (7.2: iopt_pages_update_pinned).
CHARGED = {"group": (16, 0), "remap": (16, 0)} | dict.fromkeys(
    ("compat", "cdev", "replace"), (0, 16)
)

each_way = pytest.mark.parametrize("way", ["group", "compat", "cdev"])


@pytest.fixture
def pair(guest_factory: GuestFactory) -> Guest:
    """A guest with two NICs in groups of their own, both given to vfio-pci."""
    guest = given(guest_factory("+isolated-functions", *vfio.WARM_UP, bound=True))
    state = guest.state()
    assert len({state.devices[name].group for name in nics_of(state)}) == 2
    return guest


def given(guest: Guest) -> Guest:
    for name in clients.nics(clients.bound(guest)):
        vfio.give(guest, name)
    return guest


def nics_of(state: State) -> list[str]:
    return [name for name, each in state.devices.items() if each.driver == "vfio-pci"]


def held(guest: Guest, way: Way, *names: str) -> Holder:
    step, holder = vfio.hold(guest, way, *vfio.words(guest.state(), way, *names))
    audit.is_served(step)
    assert holder
    return holder


def assert_given_back(guest: Guest, *names: str) -> None:
    """Nobody owns their groups' DMA, and their own driver can have them back."""
    finding.none_of(audit.owners(guest, *names))
    for name in names:
        back = vfio.take_back(guest, name)
        assert back.after.devices[name].driver in clients.NIC_DRIVERS, back.err


def pinned(guest: Guest) -> int:
    """Pages that somebody has pinned for DMA (pin_user_pages), as of now: processors keep
    what they have counted for a while."""
    text = guest.run("cat /proc/sys/vm/stat_refresh; cat /proc/vmstat").out.decode()
    count = dict(re.findall(r"^nr_foll_pin_(acquired|released) (\d+)$", text, re.MULTILINE))
    return int(count["acquired"]) - int(count["released"])


def charged(guest: Guest, holder: Holder) -> tuple[int, ...]:
    """Pages that the process is told to have locked and pinned."""
    text = guest.run(f"cat /proc/{holder.pid}/status").out.decode()
    assert "VmLck" in text, f"process {holder.pid} has no memory"
    counts = dict(re.findall(r"^Vm(Lck|Pin):\s+(\d+) kB$", text, re.MULTILINE))
    return tuple(int(counts[which]) // 4 for which in ("Lck", "Pin"))


@each_way
def test_vfio_user_pins_the_modules_it_uses(pair: Guest, way: Way) -> None:
    """try_module_get in vfio_ioctl_set_iommu, in vfio_df_device_first_open (5.10:
    vfio_pci_open), and of the owner of /dev/iommu when it is opened."""
    before = pair.state()
    nic, _ = nics_of(before)
    holder = held(pair, way, nic)
    during = pair.state()
    for name in SERVERS[way]:
        counts = before.refcount(name) or 0, during.refcount(name) or 0
        assert counts[0] < counts[1], f"{name} has refcount {counts[1]} with a user"
        if name in UNLOADABLE:
            assert modules.unload(pair, name).status != 0, f"{name} is unloaded under its user"
    holder.kill()
    after = pair.state()
    for name in SERVERS[way]:
        assert (after.refcount(name) or 0) == (before.refcount(name) or 0), name


@pytest.mark.needs(DMA_OWNERSHIP)
@each_way
def test_killed_user_releases_its_device(pair: Guest, way: Way) -> None:
    """vfio_group_fops_release, vfio_device_fops_release and iommufd_fops_release run when
    the process dies."""
    nic, _ = nics_of(pair.state())
    for _ in range(3):
        held(pair, way, nic).kill()
    assert_given_back(pair, nic)


@pytest.mark.parametrize("way", ["group", "remap", "compat", "cdev"])
def test_memory_is_pinned_while_a_user_maps_it(pair: Guest, way: Way) -> None:
    """And counts as his. At his end it is unpinned: by vfio_iommu_unmap_unpin_all when the last
    group leaves the container, by iopt_table_remove_domain when the last device leaves its
    page table. Who may lock no more than that can unmap it and map it again."""
    nic, _ = nics_of(pair.state())
    assert pinned(pair) == 0
    holder = held(pair, way, nic)
    assert (pinned(pair), charged(pair, holder)) == (16, CHARGED[way])
    holder.kill()
    assert pinned(pair) == 0


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.parametrize(
    "way",
    [
        "group",
        # The process makes an allocation more or less from run to run, so that the one of
        # unmapping can come between two numbers that fail.
        pytest.param(
            "remap",
            marks=pytest.mark.known_issue("unmapping-fails-for-memory", sometimes=True),
        ),
        "compat",
        "cdev",
    ],
)
def test_failed_user_leaves_no_owner_and_no_pinned_pages(pair: Guest, way: Way) -> None:
    """Each allocation of opening, claiming, attaching, mapping and unmapping fails once; the
    process ends, and with it all that it had."""
    state = pair.state()
    nic, _ = nics_of(state)
    vfio.spare_resets(pair, nic)
    what = vfio.words(state, way, nic)
    failures = tracing.all_failures(pair, "vfio", "open", way, *what)
    assert sum(each.status != 0 for each in failures) > 5
    left = pinned(pair)
    finding.require(not left, "pinned", "pages", left)
    enabled = pair.run(f"cat /sys/bus/pci/devices/{nic}/enable").out.decode().strip()
    assert enabled == "0", f"it is left enabled {enabled} times"
    assert_given_back(pair, nic)
    devices.unbind(pair, nics_of(state)[1])
    unloaded = modules.unload(pair, "vfio_pci")
    assert unloaded.status == 0, f"a device that could not be opened is held: {unloaded.err}"


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.known_issue("detaching-fails-for-memory", sometimes=True)
def test_failed_container_attach_leaves_no_owner(pair: Guest) -> None:
    """The same for a second group, whose error paths are others: it comes to a container
    that is set up and has memory mapped (vfio_iommu_type1_attach_group)."""
    state = pair.state()
    nics = nics_of(state)
    failed = 0
    for failure in tracing.failures(
        pair, "vfio", "open", "groups", *vfio.words(state, "groups", *nics)
    ):
        failed += failure.status != 0
    assert failed > 5
    assert pinned(pair) == 0
    assert_given_back(pair, *nics)


@pytest.mark.known_issue("virtio-iommu-space-before-attach", "smmu-space-before-attach")
@pytest.mark.parametrize("way", ["move"])
def test_ioas_can_be_destroyed_after_its_devices_moved(siblings: Guest, way: Way) -> None:
    """iommufd_device_do_replace: the first device of a group takes all to the new page
    table, with a reference for each and with what they reserve."""
    opened = vfio.use(siblings, way, *nics_of(given(siblings).state()))
    audit.is_served(opened)
    assert_given_back(siblings, *nics_of(siblings.state()))


@pytest.mark.known_issue("virtio-iommu-space-before-attach", "smmu-space-before-attach")
@pytest.mark.parametrize("way", ["replace"])
def test_replacement_page_table_receives_the_mappings(pair: Guest, way: Way) -> None:
    """iopt_table_remove_domain: an address space goes on to fill and empty all that it has,
    and to keep what their devices reserve."""
    nic, _ = nics_of(pair.state())
    holder = held(pair, way, nic)
    assert (pinned(pair), charged(pair, holder)) == (16, CHARGED[way])
    holder.kill()
    assert pinned(pair) == 0
    assert_given_back(pair, nic)


@pytest.mark.known_issue("virtio-iommu-space-before-attach", "smmu-space-before-attach")
@pytest.mark.parametrize("way", ["return"])
def test_reattached_page_table_keeps_its_mappings(pair: Guest, way: Way) -> None:
    """The address space takes what the device reserves again, though a list of what may be
    mapped was refused for that meanwhile (iopt_set_allow_iova). A virtio-iommu forgets a
    domain's mappings with its last device, and the driver, which counts them, has to send
    them again (viommu_replay_mappings)."""
    nic, _ = nics_of(pair.state())
    with traffic.traced(pair, "virtio_iommu_map") as witness:
        opened = vfio.use(pair, way, nic)
    audit.is_served(opened)
    sent = 2 if pair.machine.iommu.driver == "virtio_iommu" else 0
    for address in (vfio.MAPPED_AT, vfio.HIGH_AT):
        assert witness.values("virt_start").count(address) == sent, f"{address:#x}"


def test_failed_map_uses_no_dma_entry(pair: Guest) -> None:
    """The entries of a container are limited, and one that fails is given back
    (vfio_remove_dma): the user asks twice for memory that is not there."""
    limited = pair.run("echo 2 > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
    assert limited.number == 0, limited.err
    state = pair.state()
    opened = vfio.use(pair, "group", *vfio.words(state, "group", nics_of(state)[0]))
    audit.is_served(opened)


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.parametrize("way", ["cdev"])
def test_group_is_owned_until_its_last_device_closes(siblings: Guest, way: Way) -> None:
    """iommu_device_claim_dma_owner counts the devices of one owner (iommufd)."""
    one, two = nics_of(given(siblings).state())
    holder = held(siblings, way, one, two)
    devices.override(siblings, one, "")
    devices.unbind(siblings, one)
    refused = devices.bind(siblings, one, "e1000")
    assert (refused.status, devices.errno_of(refused)) == (1, "EBUSY")
    holder.kill()
    assert devices.bind(siblings, one, "e1000").status == 0


def test_vfio_pci_binds_only_by_driver_override(guest: Guest) -> None:
    """Its table of devices is for driver_override only (pci_match_device)."""
    modules.load(guest, guest.machine.iommu.driver)
    state = modules.load(guest, "vfio-pci").after
    assert state.refcount("vfio_pci") == 0
    assert nics_of(state) == []


@pytest.mark.needs(CLIENTS_WAIT, DMA_OWNERSHIP)
def test_port_driver_does_not_block_vfio_below_it(
    guest_factory: GuestFactory, early_acs: bool
) -> None:
    """pcie_portdriver is exempt (driver_managed_dma): it may share its devices' group."""
    guest = given(guest_factory("+root-port", *vfio.WARM_UP, bound=True))
    state = guest.state()
    port = next(name for name, each in state.devices.items() if each.driver == "pcieport")
    one, two = nics_of(state)
    assert state.devices[one].group == state.devices[two].group
    shared = state.devices[port].group == state.devices[one].group
    assert shared != early_acs
    opened = vfio.use(guest, "group", *vfio.words(state, "group", one))
    audit.is_served(opened)


def test_driver_override_moves_a_device_to_vfio_and_back(bound_guest: Guest) -> None:
    nic = clients.nics(bound_guest.state())[0]
    for _ in range(4):
        assert vfio.give(bound_guest, nic).after.devices[nic].driver == "vfio-pci"
        opened = vfio.use(bound_guest, "group", *vfio.words(bound_guest.state(), "group", nic))
        audit.is_served(opened)
        assert vfio.take_back(bound_guest, nic).after.devices[nic].driver == "e1000e"


def test_driver_override_excludes_dynamic_ids(bound_guest: Guest) -> None:
    """pci_match_device: IDs that were added to a driver at run time are not for a device that
    is meant for another, which may not even be there."""
    nic = clients.nics(bound_guest.state())[0]
    modules.load(bound_guest, "vfio-pci")
    devices.unbind(bound_guest, nic)
    devices.override(bound_guest, nic, "pci-stub")
    added = bound_guest.step("echo 8086 10d3 > /sys/bus/pci/drivers/vfio-pci/new_id")
    assert (added.status, added.after.devices[nic].driver) == (0, "")
    assert devices.bind(bound_guest, nic, "vfio-pci").after.devices[nic].driver == ""
    assert devices.probe(bound_guest, nic).after.devices[nic].driver == ""
    devices.override(bound_guest, nic, "")
    assert devices.bind(bound_guest, nic, "vfio-pci").after.devices[nic].driver == "vfio-pci"


@pytest.mark.machines("smmuv3", "virtio-iommu")
@pytest.mark.errors("failed with error -22")
def test_vfio_pci_requires_a_group(guest_factory: GuestFactory) -> None:
    """Without the IOMMU's driver there is none, and though nobody waits for that any more
    vfio-pci does not bind (vfio_group_find_or_alloc, vfio_iommu_group_get of 5.10)."""
    guest = guest_factory(arguments="deferred_probe_timeout=0")
    (nic,) = clients.pci(guest.state())
    modules.load(guest, "vfio-pci")
    devices.override(guest, nic, "vfio-pci")
    state = devices.probe(guest, nic).after
    assert "vfio_pci" in state.modules
    assert (state.devices[nic].driver, state.devices[nic].deferred) == ("", False)
