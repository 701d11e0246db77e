# SPDX-License-Identifier: GPL-2.0-only
"""The API of a guest: modules, drivers, groups, DMA owners and tracing."""

import pytest

from harness.errors import UsageError
from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest
from harness.iommu import groups, vfio
from harness.iommu.behaviour import (
    BIND_RETURNS_EBUSY,
    DMA_OWNERSHIP,
    GROUP_TYPE_WRITABLE,
    PROBE_DEFERRAL,
    TYPE_STORE_RETURNS_EPERM,
)
from harness.kernel.artifact import Kernel

both = pytest.mark.machines("smmuv3", "virtio-iommu")


def bound(guest: Guest) -> str:
    """Load the drivers of the IOMMU and the NIC, and return the NIC's name."""
    modules.load(guest, guest.machine.iommu.driver)
    state = modules.load(guest, "e1000e").after
    return next(name for name, each in state.devices.items() if each.driver == "e1000e")


def group_of(guest: Guest, name: str) -> int:
    number = guest.state().devices[name].group
    assert number is not None
    return number


def test_load_passes_parameters_and_unload_unloads(guest: Guest) -> None:
    modules.load(guest, "arm-smmu-v3", disable_msipolling=1)
    value = guest.run("cat /sys/module/arm_smmu_v3/parameters/disable_msipolling").out
    assert value == "Y\n"
    modules.load(guest, "iommu_client")
    unloaded = modules.unload(guest, "iommu_client", check=False)
    assert (unloaded.status, unloaded.after.is_loaded("iommu_client")) == (0, False)


def test_unbind_and_bind_change_the_driver_of_a_device(guest: Guest, kernel: Kernel) -> None:
    nic = bound(guest)
    assert devices.unbind(guest, nic).after.devices[nic].driver == ""
    assert devices.bind(guest, nic, "e1000e").after.devices[nic].driver == "e1000e"
    refused = devices.bind(guest, nic, "e1000e", check=False)
    errno = "EBUSY" if BIND_RETURNS_EBUSY.since.include(kernel.release) else "ENODEV"
    assert (refused.status, devices.errno_of(refused)) == (1, errno)


def test_remove_and_rescan_remove_and_restore_a_device(guest: Guest) -> None:
    nic = bound(guest)
    assert nic not in devices.remove(guest, nic).after.devices
    assert devices.rescan(guest).after.devices[nic].driver == "e1000e"


def test_override_selects_the_driver_that_probes_a_device(guest: Guest) -> None:
    nic = bound(guest)
    modules.load(guest, "pci-stub")
    devices.override(guest, nic, "pci-stub")
    devices.unbind(guest, nic)
    assert devices.probe(guest, nic).after.devices[nic].driver == "pci-stub"
    devices.override(guest, nic, "")
    devices.unbind(guest, nic)
    assert devices.probe(guest, nic).after.devices[nic].driver == "e1000e"


def test_set_group_type_fails_while_a_driver_is_bound(guest: Guest, kernel: Kernel) -> None:
    nic = bound(guest)
    group = group_of(guest, nic)
    assert devices.group_type(guest, group) == "DMA"
    if not GROUP_TYPE_WRITABLE.since.include(kernel.release):
        refused = groups.set_group_type(guest, group, "identity", check=False)
        assert (refused.status, devices.errno_of(refused)) == (1, "EACCES")
        return
    refused = groups.set_group_type(guest, group, "identity", check=False)
    errno = "EPERM" if TYPE_STORE_RETURNS_EPERM.since.include(kernel.release) else "EBUSY"
    assert (refused.status, devices.errno_of(refused)) == (1, errno)
    devices.unbind(guest, nic)
    groups.set_group_type(guest, group, "identity")
    assert devices.group_type(guest, group) == "identity"


@both
def test_vfio_group_is_opened_by_one_user_at_a_time(guest: Guest) -> None:
    nic = bound(guest)
    group = group_of(guest, nic)
    assert vfio.bind_vfio(guest, nic).after.devices[nic].driver == "vfio-pci"
    assert vfio.viable(guest, group).out == "viable\n"
    opened = vfio.run_user(guest, "group", group, nic, check=False)
    assert (opened.status, opened.err, opened.out) == (0, "", "open\n")
    step, holder = vfio.start_user(guest, "group", group, nic, check=False)
    assert holder is not None, step.err
    busy = vfio.run_user(guest, "group", group, nic, check=False)
    assert (busy.status != 0, devices.errno_of(busy)) == (True, "EBUSY")
    holder.kill()
    vfio.run_user(guest, "group", group, nic)
    assert vfio.unbind_vfio(guest, nic).after.devices[nic].driver == "e1000e"


def test_vfio_cdev_is_opened_by_one_user_at_a_time(guest: Guest, kernel: Kernel) -> None:
    nic = bound(guest)
    vfio.bind_vfio(guest, nic)
    opened = vfio.run_user(guest, "cdev", nic, check=False)
    if not kernel.option("VFIO_DEVICE_CDEV"):
        assert opened.err == "open /dev/iommu: ENOENT\n"
        return
    assert (opened.status, opened.err) == (0, "")
    _, holder = vfio.start_user(guest, "cdev", nic, check=False)
    assert holder is not None
    assert vfio.run_user(guest, "cdev", nic, check=False).status != 0
    holder.kill()
    vfio.run_user(guest, "cdev", nic)


def test_dma_owner_claims_a_group_unless_a_driver_is_bound(guest: Guest, kernel: Kernel) -> None:
    """The guest module dma_owner claims DMA ownership of a group unless a driver is bound. Until it
    is unloaded, no driver can bind to a device of the group (iommu_group_claim_dma_owner)."""
    nic = bound(guest)
    if not DMA_OWNERSHIP.since.include(kernel.release):
        assert modules.load(guest, "dma_owner", device=nic, check=False).status != 0
        return
    refused = modules.load(guest, "dma_owner", device=nic, check=False)
    assert "Operation not permitted" in refused.err or "Device or resource busy" in refused.err
    devices.unbind(guest, nic)
    modules.load(guest, "dma_owner", device=nic)
    owned = devices.bind(guest, nic, "e1000e", check=False)
    assert (owned.status, devices.errno_of(owned)) == (1, "EBUSY")
    modules.unload(guest, "dma_owner")
    devices.bind(guest, nic, "e1000e")


def test_debug_enables_dynamic_debug_messages(guest: Guest) -> None:
    nic = bound(guest)
    group = group_of(guest, nic)
    tracing.debug(guest, "func iommu_group_release +p")
    removed = devices.remove(guest, nic)
    assert any(f"Releasing group {group}" in entry.text for entry in removed.kmsg)
    with pytest.raises(UsageError, match="cannot apply the dynamic-debug query"):
        tracing.debug(guest, "nonsense")


def test_tracing_suggests_the_trace_variant(guest: Guest) -> None:
    with pytest.raises(UsageError, match="--variant trace"), tracing.tracing(guest, "iommu:map"):
        pass


def test_deferred_lists_devices_that_wait_for_the_iommu(guest: Guest, kernel: Kernel) -> None:
    modules.load(guest, "iommu_client")
    waiting = devices.deferred(guest)
    expected = ["b000000.client0", "b001000.client1"]
    assert waiting == (expected if PROBE_DEFERRAL.since.include(kernel.release) else [])
