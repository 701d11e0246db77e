# SPDX-License-Identifier: GPL-2.0-only
"""What comes and goes again and again leaves no memory: a device, its driver, its
user, the IOMMU's driver.

Counted from outside, by the kernel's own books, so that a leak is seen of whatever it is.
"""

import re
import shlex

import pytest

from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.behaviour import CLIENTS_WAIT, TYPE_CAN_BE_SET, VIRTIO_FLUSH_QUEUE
from harness.iommu.finding import Finding
from harness.kernel.artifact import Kernel
from harness.plugin.plugin import GuestFactory, Shows

# Those that are counted, and those before, in which most of what is kept for later comes.
_CYCLES, _FIRST = 40, 10

# Of /proc/meminfo: what memory is used for that the kernel keeps account of.
_ACCOUNTED = (
    *("Buffers", "Cached", "AnonPages", "Slab", "KernelStack"),
    *("PageTables", "SecPageTables", "VmallocUsed", "Percpu"),
)

_UNACCOUNTED, _PERCPU = "unaccounted pages", "pages per processor"


def footprint(guest: Guest) -> dict[str, int]:
    """What the kernel holds that a leak would add to: objects of the slabs that drivers and
    the IOMMU's core use, pages of IOMMUs' tables where those are counted (since 6.11), and
    pages that nobody keeps account of, as those of a driver's own tables."""
    guest.run(
        "echo 3 > /proc/sys/vm/drop_caches;"
        " for c in /sys/kernel/slab/kmalloc-* /sys/kernel/slab/iommu_*; do echo 1 > $c/shrink; done"
    )
    texts = [guest.run(f"cat /proc/{name}").out.decode() for name in ("slabinfo", "vmstat")]
    slabs, vmstat = ([line.split() for line in text.splitlines()] for text in texts)
    found = {row[0]: int(row[1]) for row in slabs if row[0].startswith(("kmalloc-", "iommu_"))}
    found |= {row[0]: int(row[1]) for row in vmstat if row[0] == "nr_iommu_pages"}
    # By one program: pages go from one account to another at any time.
    text = guest.run("cat /proc/meminfo /proc/zoneinfo").out.decode()
    pages = {name: int(size) // 4 for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.M)}
    return found | {_PERCPU: pages["Percpu"], _UNACCOUNTED: unaccounted(pages, text)}


def unaccounted(memory: dict[str, int], zones: str) -> int:
    """Pages that are in no account, and neither free nor on a processor's list of such: these
    two are told together, because that list is emptied at any time."""
    unused = re.findall(r"^ +(?:pages free +|count: +)(\d+)$", zones, re.MULTILINE)
    accounted = sum(memory.get(name, 0) for name in _ACCOUNTED)
    return memory["MemTotal"] - accounted - sum(map(int, unused))


# Their stacks are kept for ever, each new one in pages that nobody keeps account of.
_KEEP_STACKS = ("KASAN", "DEBUG_KMEMLEAK")


def assert_nothing_grows(kernel: Kernel, guest: Guest, cycle: str, cycles: int = _CYCLES) -> None:
    """A cycle leaves what it found. A leak is one object or page for each, again and again,
    or many at once; what is freed late, or kept once for later, is not."""
    assert guest.run(rounds_of(cycle, min(cycles, _FIRST))).number == 0
    rounds = rounds_of(cycle, cycles)
    leaks = grown(guest, rounds)
    if leaks:
        again = grown(guest, rounds)
        leaks = {name: count for name, count in again.items() if name in leaks}
    if any(kernel.option(name) for name in _KEEP_STACKS):
        leaks.pop(_UNACCOUNTED, None)
    finding.none_of(
        (
            Finding("memory-leak", name, str(count), f"{count} {name} leaked")
            for name, count in leaks.items()
        ),
        f"{cycles} times {cycle!r}",
    )


def rounds_of(cycle: str, count: int) -> str:
    """Each says something: a sign of life."""
    return f"(for n in $(seq {count}); do echo $n; {cycle.replace(';', ' &&')} || exit 1; done)"


def grown(guest: Guest, rounds: str) -> dict[str, int]:
    before = footprint(guest)
    assert guest.run(rounds).number == 0
    after = footprint(guest)
    more = {name: after[name] - count for name, count in before.items()}
    return {name: count for name, count in more.items() if count > _CYCLES // 2}


def test_removing_and_rescanning_devices_leaks_no_memory(
    kernel: Kernel, guest_factory: GuestFactory
) -> None:
    """Group, default domain and its tables, the driver's own record, fwspec; and the device,
    which whoever looks for it holds meanwhile: for its siblings (pci_device_group), or to bind
    it to a driver that refuses. A group that has had a user has a domain that blocks, too
    (__iommu_group_alloc_blocking_domain)."""
    guest = guest_factory("+multifunction", *vfio.WARM_UP, bound=True)
    nics = clients.nics(clients.bound(guest))
    modules.unload(guest, "e1000")
    e1000 = "8086 100e"
    guest.run(f"echo {e1000} > /sys/bus/pci/drivers/vfio-pci/new_id")
    # 5.10 gives a group the next number while vfio-pci still has the one before.
    group = f"$(basename $(readlink /sys/bus/pci/devices/{nics[0]}/iommu_group))"
    cycle = [f"vfio open group {group}"]
    cycle += [
        f"! echo {nics[0]} > /sys/bus/pci/drivers/pcieport/{what} 2> /dev/null"
        for what in ("bind", "unbind")
    ]
    cycle += [f"echo 1 > /sys/bus/pci/devices/{name}/remove" for name in nics]
    assert_nothing_grows(kernel, guest, "; ".join((*cycle, "echo 1 > /sys/bus/pci/rescan")))
    assert [guest.state().devices[name].driver for name in nics] == ["vfio-pci", "vfio-pci"]


@pytest.mark.needs(CLIENTS_WAIT)
def test_removing_and_rescanning_active_devices_leaks_no_memory(
    kernel: Kernel, guest_factory: GuestFactory
) -> None:
    """What comes with use: the IOVAs of a NIC's buffers, and the doorbell of its interrupts
    (iommu_dma_prepare_msi)."""
    guest = guest_factory("+virtio", bound=True)
    nic = sorted(clients.pci(clients.bound(guest)))[0]
    cycle = f"echo 1 > /sys/bus/pci/devices/{nic}/remove; echo 1 > /sys/bus/pci/rescan"
    assert_nothing_grows(kernel, guest, cycle)
    assert guest.state().devices[nic].driver == "virtio-pci"


@pytest.mark.machines("smmuv3")
def test_recreating_platform_clients_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    cycle = "modprobe iommu_client_device; rmmod iommu_client_device"
    assert_nothing_grows(kernel, bound_guest, cycle)


def test_rebinding_a_driver_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    nic = clients.nics(bound_guest.state())[0]
    cycle = (
        f"echo {nic} > /sys/bus/pci/drivers/pci-stub/unbind;"
        f" echo {nic} > /sys/bus/pci/drivers/pci-stub/bind"
    )
    modules.load(bound_guest, "pci-stub")
    devices.override(bound_guest, nic, "pci-stub")
    devices.unbind(bound_guest, nic)
    devices.probe(bound_guest, nic)
    assert_nothing_grows(kernel, bound_guest, cycle)


def test_failed_driver_probes_leak_no_memory(kernel: Kernel, guest: Guest) -> None:
    """Their probe fails after their DMA was configured (pci_device_probe, really_probe)."""
    name = clients.pci(guest.state())[0]
    modules.load(guest, guest.machine.iommu.driver)
    modules.load(guest, "e1000")
    guest.run("echo 8086 10d3 > /sys/bus/pci/drivers/e1000/new_id")  # an e1000e, which it is not
    cycle = f"echo 1 > /sys/bus/pci/devices/{name}/remove; echo 1 > /sys/bus/pci/rescan"
    if guest.machine.overlays:
        modules.load(guest, "iommu_client", probe_error="5")
        cycle += "; modprobe iommu_client_device; rmmod iommu_client_device"
    assert_nothing_grows(kernel, guest, cycle)
    assert devices.bind(guest, name, "e1000").after.devices[name].driver == ""


@pytest.mark.machines("smmuv3")
def test_failed_dma_buffer_allocation_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """Its pages, an IOVA, tables to map it, an address for the driver (iommu_dma_alloc_remap):
    each fails once, and the pages that were there by then are given back. So large that
    they show."""
    client = clients.platform(bound_guest.state())[0]
    devices.unbind(bound_guest, client)
    bound_guest.run(f"echo {64 * 4096} > /sys/module/iommu_client/parameters/buffer")
    driver = "/sys/bus/platform/drivers/iommu_client"
    there_and_back = f"echo {client} > {driver}/bind\necho {client} > {driver}/unbind"
    tracing.arm(bound_guest, tracing.RCACHES)
    fail = f"failnth all sh {shlex.quote(there_and_back)} > /tmp/told"
    assert_nothing_grows(kernel, bound_guest, fail, cycles=2)
    told = bound_guest.run("cat /tmp/told").out.decode().split("\n")
    assert sum(line.startswith("injected ") and line != "injected 0" for line in told) > 5


@pytest.mark.machines("smmuv3")
def test_unmapping_a_whole_table_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """The table that they were in goes with them (__arm_lpae_unmap)."""
    client = clients.platform(bound_guest.state())[0]
    driver = "/sys/bus/platform/drivers/iommu_client"
    bound_guest.run("echo 1 > /sys/module/iommu_client/parameters/fill")
    cycle = f"echo {client} > {driver}/unbind; echo {client} > {driver}/bind"
    assert_nothing_grows(kernel, bound_guest, cycle)


@pytest.mark.needs(TYPE_CAN_BE_SET)
def test_changing_the_group_type_leaks_no_memory(
    kernel: Kernel, bound_guest: Guest, shows: Shows
) -> None:
    """The domain before, its tables, and a lazy one's queue of each processor
    (iommu_dma_free_fq)."""
    lazy = bound_guest.machine.iommu.driver == "arm_smmu_v3" or shows(VIRTIO_FLUSH_QUEUE)
    (nic,) = clients.nics(bound_guest.state())
    group = bound_guest.state().devices[nic].group
    devices.unbind(bound_guest, nic)
    kinds = ["identity", "DMA-FQ" if lazy else "DMA"]
    file = f"/sys/kernel/iommu_groups/{group}/type"
    assert_nothing_grows(kernel, bound_guest, "; ".join(f"echo {kind} > {file}" for kind in kinds))


def test_vfio_users_leak_no_memory(kernel: Kernel, guest_factory: GuestFactory) -> None:
    """What is theirs alone: domains and their tables, and the memory that they map. Two
    groups in one container, two devices in one iommufd, a group in either."""
    guest = guest_factory("+isolated-functions", *vfio.WARM_UP, bound=True)
    nics = clients.nics(clients.bound(guest))
    for name in nics:
        vfio.give(guest, name)
        vfio.spare_resets(guest, name)
    ways: list[vfio.Way] = ["group", "groups", "compat", "cdev"]
    cycle = "; ".join(
        shlex.join(["vfio", "open", way, *vfio.words(guest.state(), way, *nics)])
        for way in ways
        if way not in vfio.NEEDS or kernel.option(vfio.NEEDS[way])
    )
    assert_nothing_grows(kernel, guest, cycle)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("group", marks=pytest.mark.known_issue("no-interrupts-in-a-container")),
        *("compat", "cdev"),
    ],
)
def test_vfio_interrupts_leak_no_memory(
    kernel: Kernel, guest_factory: GuestFactory, way: vfio.Way
) -> None:
    """An SMMU translates what a device writes to its doorbell, which therefore is mapped in
    each of a user's domains (iommu_dma_get_msi_page; iommufd_sw_msi since 6.15)."""
    guest = guest_factory("+nic", *vfio.WARM_UP, bound=True)
    (nic,) = clients.nics(clients.bound(guest))
    vfio.give(guest, nic)
    vfio.spare_resets(guest, nic)
    cycle = shlex.join(["vfio", "interrupts", way, *vfio.words(guest.state(), way, nic)])
    audit.is_served(guest.step(cycle))
    # No more than that, because before 5.15 each resets the NIC, which takes 0.1 s.
    assert_nothing_grows(kernel, guest, cycle, cycles=25)


@pytest.mark.known_issue("smmu-reload-leaks")
def test_reloading_the_iommu_driver_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    driver = bound_guest.machine.iommu.driver
    clients.remove_all(bound_guest)
    assert_nothing_grows(kernel, bound_guest, f"rmmod {driver}; modprobe {driver}")
