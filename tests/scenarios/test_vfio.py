# SPDX-License-Identifier: GPL-2.0-only
"""What a user of VFIO or iommufd holds while he has a device, and that the kernel takes
all of it back, however he ends.

The users are of guest-scripts/vfio.c: they map memory, undo nothing, and are killed.
"""

import re

import pytest

from harness.guest import clients, devices, modules, tracing, vfio
from harness.guest.guest import Guest
from harness.guest.vfio import Holder, Way
from harness.kernel.artifact import Kernel
from harness.pytest_plugin import GuestFactory, not_applicable
from harness.scenario.behaviour import CLIENTS_WAIT, DMA_OWNERSHIP

USERS_MODULES = ("modprobe vfio-pci", "modprobe vfio_iommu_type1")

# What the kernel has to have, and the modules that serve a user.
OPTIONS = {"compat": "IOMMUFD", "cdev": "VFIO_DEVICE_CDEV"}
SERVERS = {
    "group": ("vfio_iommu_type1", "vfio_pci"),
    "compat": ("iommufd", "vfio_pci"),
    "cdev": ("iommufd", "vfio_pci"),
}

each_way = pytest.mark.parametrize("way", ["group", "compat", "cdev"])


@pytest.fixture
def pair(guest_factory: GuestFactory) -> Guest:
    """A guest with two NICs in groups of their own, both given to vfio-pci."""
    return given(guest_factory("+isolated-functions", *USERS_MODULES, bound=True))


@pytest.fixture
def siblings(guest_factory: GuestFactory) -> Guest:
    """The same, in one group."""
    return given(guest_factory("+multifunction", *USERS_MODULES, bound=True))


def given(guest: Guest) -> Guest:
    for name in clients.nics(clients.bound(guest)):
        vfio.give(guest, name)
    return guest


def nics_of(guest: Guest) -> list[str]:
    return [name for name, each in guest.state().devices.items() if each.driver == "vfio-pci"]


def words(guest: Guest, kernel: Kernel, way: Way, *names: str) -> list[str]:
    if way in OPTIONS and not kernel.option(OPTIONS[way]):
        not_applicable("this kernel has no such users of VFIO")
    return vfio.words(guest.state(), way, *names)


def hold(guest: Guest, kernel: Kernel, way: Way, *names: str) -> Holder:
    step, holder = vfio.hold(guest, way, *words(guest, kernel, way, *names))
    assert holder, step.err
    return holder


def assert_free(guest: Guest, name: str) -> None:
    """Its own driver can have it back, which it cannot where anybody owns the group."""
    back = vfio.take_back(guest, name)
    assert back.after.devices[name].driver in clients.NIC_DRIVERS, back.err


@each_way
def test_a_user_holds_the_modules_that_serve_him(pair: Guest, kernel: Kernel, way: Way) -> None:
    """try_module_get in vfio_ioctl_set_iommu, of /dev/iommu's file_operations, and of the
    device's driver in vfio_device_get_from_iommufd and vfio_df_open."""
    nic, _ = nics_of(pair)
    before = pair.state()
    holder = hold(pair, kernel, way, nic)
    for name in SERVERS[way]:
        held = pair.state().refcount(name), before.refcount(name)
        assert (held[0] or 0) > (held[1] or 0), f"{name} has refcount {held[0]} in use"
        assert modules.unload(pair, name).status != 0, f"{name} is unloaded under its user"
    holder.kill()
    assert {name: pair.state().refcount(name) for name in SERVERS[way]} == {
        name: before.refcount(name) or 0 for name in SERVERS[way]
    }


@each_way
def test_a_killed_user_leaves_the_device_to_the_next(pair: Guest, kernel: Kernel, way: Way) -> None:
    """vfio_group_fops_release, vfio_device_fops_release and iommufd_fops_release run when
    the process dies."""
    nic, _ = nics_of(pair)
    for _ in range(3):
        hold(pair, kernel, way, nic).kill()
    assert_free(pair, nic)


def pinned(guest: Guest) -> int:
    """Pages that somebody has pinned for DMA (pin_user_pages), as of now: processors keep
    what they have counted for a while."""
    text = guest.run("cat /proc/sys/vm/stat_refresh; cat /proc/vmstat").out.decode()
    count = dict(re.findall(r"^nr_foll_pin_(acquired|released) (\d+)$", text, re.MULTILINE))
    return int(count["acquired"]) - int(count["released"])


@pytest.mark.parametrize("way", ["group", "cdev"])
def test_memory_is_pinned_as_long_as_a_user_maps_it(pair: Guest, kernel: Kernel, way: Way) -> None:
    """vfio_iommu_type1_release and iommufd_ioas_destroy, for one who unmaps nothing."""
    nic, _ = nics_of(pair)
    assert pinned(pair) == 0
    holder = hold(pair, kernel, way, nic)
    assert pinned(pair) == 16
    holder.kill()
    assert pinned(pair) == 0


LEAVES = pytest.mark.known_issue("detaching-fails-for-memory", sometimes=True)


@pytest.mark.needs(DMA_OWNERSHIP)
@pytest.mark.parametrize("way", ["group", pytest.param("groups", marks=LEAVES), "compat", "cdev"])
def test_a_user_that_fails_anywhere_owns_nothing(pair: Guest, kernel: Kernel, way: Way) -> None:
    """Each allocation of opening, claiming, attaching and mapping fails once; the process
    ends, and with it all that it had."""
    nics = nics_of(pair)
    what = words(pair, kernel, way, *(nics if way == "groups" else nics[:1]))
    failures = tracing.all_failures(pair, "vfio", "open", way, *what)
    assert sum(each.status != 0 for each in failures) > 5
    assert pinned(pair) == 0
    for name in nics:
        assert_free(pair, name)
    unloaded = modules.unload(pair, "vfio_pci")
    assert unloaded.status == 0, f"a device that could not be opened is held: {unloaded.err}"


@pytest.mark.needs(DMA_OWNERSHIP)
def test_a_group_is_owned_until_its_last_device_is_closed(siblings: Guest, kernel: Kernel) -> None:
    """iommu_device_claim_dma_owner counts the devices of one owner (iommufd)."""
    one, two = nics_of(siblings)
    holder = hold(siblings, kernel, "cdev", one, two)
    devices.override(siblings, one, "")
    devices.unbind(siblings, one)
    refused = devices.bind(siblings, one, "e1000")
    assert (refused.status, devices.errno_of(refused)) == (1, "EBUSY")
    holder.kill()
    assert devices.bind(siblings, one, "e1000").status == 0


@pytest.mark.needs(CLIENTS_WAIT)
def test_a_port_does_not_keep_what_is_below_it(guest_factory: GuestFactory) -> None:
    """pcie_portdriver is exempt (driver_managed_dma): it may share its devices' group."""
    guest = given(guest_factory("+root-port", *USERS_MODULES, bound=True))
    state = guest.state()
    one, two = nics_of(guest)
    assert [name for name, each in state.devices.items() if each.driver == "pcieport"]
    assert state.devices[one].group == state.devices[two].group
    opened = vfio.use(guest, "group", *vfio.words(state, "group", one))
    assert opened.status == 0, opened.err
