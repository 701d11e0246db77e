# SPDX-License-Identifier: GPL-2.0-only
"""Repeated cycles of a device, its driver, its user or the IOMMU driver leak no memory.

The kernel's own statistics show a leak of any kind.
"""

import re
import shlex

import pytest

from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.behaviour import (
    FAULT_INJECTION,
    GROUP_TYPE_WRITABLE,
    PROBE_DEFERRAL,
    VIRTIO_IOMMU_FLUSH_QUEUE,
)
from harness.iommu.finding import Finding
from harness.kernel.artifact import Kernel
from harness.plugin.plugin import GuestFactory, Shows

# The number of measured cycles, and of cycles before them, which allocate most of what the kernel
# caches.
_CYCLES, _FIRST = 40, 10
# Growth up to this is noise: partial slabs, and pages on the per-CPU free lists.
_NOISE = _CYCLES // 2

# The fields of /proc/meminfo that account for used memory.
_ACCOUNTED = (
    *("Buffers", "Cached", "AnonPages", "Slab", "KernelStack"),
    *("PageTables", "SecPageTables", "VmallocUsed", "Percpu"),
)

_UNACCOUNTED, _PERCPU = "unaccounted pages", "per-CPU pages"


def footprint(guest: Guest) -> dict[str, int]:
    """Return the memory that a leak would increase, by name: objects in the slabs that drivers and
    the IOMMU core use, pages of IOMMU page tables (counted since 6.11), and pages that no field
    accounts for, such as the pages of a driver's own tables."""
    guest.run(
        "echo 3 > /proc/sys/vm/drop_caches;"
        " for c in /sys/kernel/slab/kmalloc-* /sys/kernel/slab/iommu_*; do echo 1 > $c/shrink; done"
    )
    texts = [guest.run(f"cat /proc/{name}").out for name in ("slabinfo", "vmstat")]
    slabs, vmstat = ([line.split() for line in text.splitlines()] for text in texts)
    found = {row[0]: int(row[1]) for row in slabs if row[0].startswith(("kmalloc-", "iommu_"))}
    found |= {row[0]: int(row[1]) for row in vmstat if row[0] == "nr_iommu_pages"}
    # One program reads both files, because pages can move from one field to another at any time.
    text = guest.run("cat /proc/meminfo /proc/zoneinfo").out
    pages = {name: int(size) // 4 for name, size in re.findall(r"^(\w+): +(\d+) kB$", text, re.M)}
    return found | {_PERCPU: pages["Percpu"], _UNACCOUNTED: unaccounted(pages, text)}


def unaccounted(memory: dict[str, int], zones: str) -> int:
    """The number of pages that no field accounts for and that are neither free nor on a per-CPU
    list of free pages. ``zones`` must have been read together with ``memory``, because the kernel
    can drain these lists at any time."""
    unused = re.findall(r"^ +(?:pages free +|count: +)(\d+)$", zones, re.MULTILINE)
    accounted = sum(memory.get(name, 0) for name in _ACCOUNTED)
    return memory["MemTotal"] - accounted - sum(map(int, unused))


# These options keep each new stack trace permanently, in pages that no field accounts for.
_KEEP_STACKS = ("KASAN", "DEBUG_KMEMLEAK")


def assert_nothing_grows(kernel: Kernel, guest: Guest, cycle: str, cycles: int = _CYCLES) -> None:
    """Run the shell commands ``cycle`` ``cycles`` times, and once more if memory has grown.

    A leak is memory that grows markedly both times, by one object or page per cycle or by many
    at once. Memory that is freed late or cached once is not a leak."""
    assert guest.run(rounds_of(cycle, min(cycles, _FIRST))).status == 0
    rounds = rounds_of(cycle, cycles)
    leaks = grown(guest, rounds)
    if leaks:
        again = grown(guest, rounds)
        leaks = {name: count for name, count in again.items() if name in leaks}
    if any(kernel.option(name) for name in _KEEP_STACKS):
        leaks.pop(_UNACCOUNTED, None)
    finding.require_none(
        (
            Finding("memory-leak", name, str(count), f"{count} {name} leaked")
            for name, count in leaks.items()
        ),
        f"after {cycles} times {cycle!r}",
    )


def rounds_of(cycle: str, count: int) -> str:
    """A shell loop over the cycle. Each round prints its number to show that the guest is alive."""
    return f"(for n in $(seq {count}); do echo $n; {cycle.replace(';', ' &&')} || exit 1; done)"


def grown(guest: Guest, rounds: str) -> dict[str, int]:
    """Run the rounds, and return the growth of the parts of the footprint that grow markedly."""
    before = footprint(guest)
    assert guest.run(rounds).status == 0
    after = footprint(guest)
    growth = {name: after[name] - count for name, count in before.items()}
    return {name: count for name, count in growth.items() if count > _NOISE}


def test_removing_and_rescanning_devices_leaks_no_memory(
    kernel: Kernel, guest_factory: GuestFactory
) -> None:
    """Removing a device frees the device and everything that was allocated for it.

    That is its group, the default domain and its tables, the IOMMU driver's data, and the fwspec.
    Searching for siblings (pci_device_group) and binding the device to a driver that rejects it
    take references to the device. A group that has had a user also has a blocking domain
    (__iommu_group_alloc_blocking_domain)."""
    guest = guest_factory("+multifunction", *vfio.WARM_UP, bound=True)
    nics = clients.nics(clients.bind_all(guest))
    modules.unload(guest, "e1000")
    e1000 = "8086 100e"
    guest.run(f"echo {e1000} > /sys/bus/pci/drivers/vfio-pci/new_id")
    # In 5.10 a group gets the next ID while vfio-pci still holds the previous group.
    group = f"$(basename $(readlink /sys/bus/pci/devices/{nics[0]}/iommu_group))"
    cycle = [f"vfio open group {group}"]
    cycle += [
        f"! echo {nics[0]} > /sys/bus/pci/drivers/pcieport/{what} 2> /dev/null"
        for what in ("bind", "unbind")
    ]
    cycle += [f"echo 1 > /sys/bus/pci/devices/{name}/remove" for name in nics]
    assert_nothing_grows(kernel, guest, "; ".join((*cycle, "echo 1 > /sys/bus/pci/rescan")))
    assert [guest.state().devices[name].driver for name in nics] == ["vfio-pci", "vfio-pci"]


@pytest.mark.needs(PROBE_DEFERRAL)
def test_removing_and_rescanning_active_devices_leaks_no_memory(
    kernel: Kernel, guest_factory: GuestFactory
) -> None:
    """Removing an active device frees the IOVAs of its buffers and the mapping of its MSI doorbell.

    iommu_dma_prepare_msi maps the doorbell."""
    guest = guest_factory("+virtio", bound=True)
    nic = sorted(clients.pci(clients.bind_all(guest)))[0]
    cycle = f"echo 1 > /sys/bus/pci/devices/{nic}/remove; echo 1 > /sys/bus/pci/rescan"
    assert_nothing_grows(kernel, guest, cycle)
    assert guest.state().devices[nic].driver == "virtio-pci"


@pytest.mark.machines("smmuv3")
def test_recreating_platform_clients_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """Destroying a platform device frees everything that was allocated for it."""
    cycle = "modprobe iommu_client_device; rmmod iommu_client_device"
    assert_nothing_grows(kernel, bound_guest, cycle)


def test_rebinding_a_driver_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """Unbinding a driver frees everything that binding it has allocated."""
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
    """A failed driver probe leaks no memory of the DMA configuration that precedes it.

    pci_device_probe, really_probe."""
    name = clients.pci(guest.state())[0]
    modules.load(guest, guest.machine.iommu.driver)
    modules.load(guest, "e1000")
    # The ID of an e1000e, which e1000 cannot drive.
    guest.run("echo 8086 10d3 > /sys/bus/pci/drivers/e1000/new_id")
    cycle = f"echo 1 > /sys/bus/pci/devices/{name}/remove; echo 1 > /sys/bus/pci/rescan"
    if guest.machine.overlays:
        modules.load(guest, "iommu_client", probe_error="5")
        cycle += "; modprobe iommu_client_device; rmmod iommu_client_device"
    assert_nothing_grows(kernel, guest, cycle)
    refused = devices.bind(guest, name, "e1000", check=False)
    assert (refused.status, refused.after.devices[name].driver) == (1, ""), refused.err


@pytest.mark.needs(FAULT_INJECTION)
@pytest.mark.machines("smmuv3")
def test_failed_dma_buffer_allocation_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """A failed allocation of a DMA buffer frees the pages that it has already allocated.

    Each allocation fails once: the buffer's pages, an IOVA, tables to map it, an address for
    the driver (iommu_dma_alloc_remap). The buffer is large enough to make a leak visible."""
    client = clients.platform(bound_guest.state())[0]
    devices.unbind(bound_guest, client)
    bound_guest.run(f"echo {64 * 4096} > /sys/module/iommu_client/parameters/buffer")
    driver = "/sys/bus/platform/drivers/iommu_client"
    bind_and_unbind = f"echo {client} > {driver}/bind\necho {client} > {driver}/unbind"
    failnth.arm(bound_guest, failnth.RCACHES)
    fail = f"failnth all sh {shlex.quote(bind_and_unbind)} > /tmp/failures"
    assert_nothing_grows(kernel, bound_guest, fail, cycles=2)
    failures = bound_guest.run("cat /tmp/failures").out.split("\n")
    assert sum(line.startswith("injected ") and line != "injected 0" for line in failures) > 5


@pytest.mark.machines("smmuv3")
def test_unmapping_a_whole_table_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """Unmapping all pages of a page table at once frees the table too.

    __arm_lpae_unmap."""
    client = clients.platform(bound_guest.state())[0]
    driver = "/sys/bus/platform/drivers/iommu_client"
    bound_guest.run("echo 1 > /sys/module/iommu_client/parameters/fill")
    cycle = f"echo {client} > {driver}/unbind; echo {client} > {driver}/bind"
    assert_nothing_grows(kernel, bound_guest, cycle)


@pytest.mark.needs(GROUP_TYPE_WRITABLE)
def test_changing_the_group_type_leaks_no_memory(
    kernel: Kernel, bound_guest: Guest, shows: Shows
) -> None:
    """A type change frees the old domain, its tables and its flush queues.

    iommu_dma_free_fq frees the queue of each CPU."""
    lazy = bound_guest.machine.iommu.driver == "arm_smmu_v3" or shows(VIRTIO_IOMMU_FLUSH_QUEUE)
    (nic,) = clients.nics(bound_guest.state())
    group = bound_guest.state().devices[nic].group
    devices.unbind(bound_guest, nic)
    kinds = ["identity", "DMA-FQ" if lazy else "DMA"]
    file = f"/sys/kernel/iommu_groups/{group}/type"
    assert_nothing_grows(kernel, bound_guest, "; ".join(f"echo {kind} > {file}" for kind in kinds))


def test_vfio_users_leak_no_memory(kernel: Kernel, guest_factory: GuestFactory) -> None:
    """A VFIO user that exits leaks no domains, page tables or mapped memory.

    The users open one or two groups in a container, a group through iommufd's compatibility mode,
    and two devices in one iommufd."""
    guest = guest_factory("+isolated-functions", *vfio.WARM_UP, bound=True)
    nics = clients.nics(clients.bind_all(guest))
    for name in nics:
        vfio.bind_vfio(guest, name)
        vfio.disable_reset(guest, name)
    modes: list[vfio.Mode] = ["group", "groups", "compat", "cdev"]
    cycle = "; ".join(
        shlex.join(["vfio", "open", mode, *vfio.arguments(guest.state(), mode, *nics)])
        for mode in modes
        if mode not in vfio.REQUIRED_OPTIONS or kernel.option(vfio.REQUIRED_OPTIONS[mode])
    )
    assert_nothing_grows(kernel, guest, cycle)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("group", marks=pytest.mark.known_issue("no-interrupts-in-a-container")),
        *("compat", "cdev"),
    ],
)
def test_vfio_interrupts_leak_no_memory(
    kernel: Kernel, guest_factory: GuestFactory, mode: vfio.Mode
) -> None:
    """A VFIO user that exits leaks no mapping of an MSI doorbell.

    An SMMU translates writes to the doorbell. Therefore the doorbell is mapped in each of a user's
    domains (iommu_dma_get_msi_page; iommufd_sw_msi since 6.15)."""
    guest = guest_factory("+nic", *vfio.WARM_UP, bound=True)
    (nic,) = clients.nics(clients.bind_all(guest))
    vfio.bind_vfio(guest, nic)
    vfio.disable_reset(guest, nic)
    cycle = shlex.join(["vfio", "interrupts", mode, *vfio.arguments(guest.state(), mode, nic)])
    audit.require_success(guest.step(cycle))
    # Only 25 cycles, because before 5.15 each cycle resets the NIC, which takes 0.1 s.
    assert_nothing_grows(kernel, guest, cycle, cycles=25)


@pytest.mark.known_issue("smmu-reload-leaks")
def test_reloading_the_iommu_driver_leaks_no_memory(kernel: Kernel, bound_guest: Guest) -> None:
    """Unloading the IOMMU driver frees everything that loading it has allocated."""
    driver = bound_guest.machine.iommu.driver
    clients.remove_all(bound_guest)
    assert_nothing_grows(kernel, bound_guest, f"rmmod {driver}; modprobe {driver}")
