# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of the past, each by the commit that fixed it. Where a kernel without the fix shows
it, it is a known issue; 5.10 lacks 32ea2c57dc21 and 809d0810e352 and shows neither here.

Those that other subjects cover are there: groups without a client's driver (bcb81ac6ae3c)
in pinning, default domain races (b46064a18810, 95deee37a123) in races, repeated stream IDs
(b00d24997a11) in firmware, ownership (512881eacfa7) in dma_ownership, ACS (c41e2fb67e26) in
topologies.
"""

import re

import pytest

from harness.errors import GuestLost
from harness.guest import clients, devices, modules, tracing
from harness.guest.guest import Guest
from harness.klog import splat
from harness.pytest_plugin import ExpectSplat, GuestFactory, Shows
from harness.scenario import audit
from harness.scenario.behaviour import CLIENTS_WAIT, FORCE_WARNS

_STAMP = re.compile(r"^\[ *[\d.]+\] ", re.MULTILINE)


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("forced-unload-keeps-dma-ops")
@pytest.mark.needs(CLIENTS_WAIT)
@pytest.mark.excused(state="the module was let go by force")
def test_after_force_dma_goes_past_what_is_gone(
    guest_factory: GuestFactory, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """280e5a301005: iommu-dma's operations are cleared when a device leaves its IOMMU; a
    device that goes on with those of a domain that was freed maps into freed memory."""
    guest = guest_factory("+virtio", bound=True)
    clients.bound(guest)
    if shows(FORCE_WARNS):
        expect_splat("WARNING: .*__iommu_group_free_device")
    force(guest)
    # The disk's driver is still bound, and maps what it reads into; nothing comes back.
    step = guest.step("dd if=/dev/vda of=/dev/null bs=4k count=1 & usleep 100000; kill -9 $!")
    assert not step.killed


def force(guest: Guest) -> None:
    assert modules.unload(guest, "arm_smmu_v3", force=True).status == 0


@pytest.mark.excused(state="the guest has gone", give_back="the guest has gone")
def test_a_reboot_with_active_devices_is_clean(bound_guest: Guest) -> None:
    """32ea2c57dc21: an IOMMU that shuts down stays registered, because its clients may
    still be shutting down."""
    with pytest.raises(GuestLost, match="guest-reset"):
        bound_guest.run("reboot -f")
    console = (bound_guest.directory / "console-kernel.log").read_text(errors="replace")
    lines = _STAMP.sub("", console).splitlines()
    assert [each.title for each in splat.find(lines)] == []
    assert any("reboot: Restarting system" in line for line in lines)


@pytest.mark.machines("smmuv3", "smmuv3-acpi")
def test_an_smmu_that_fails_over_and_over_comes_up_in_the_end(guest: Guest) -> None:
    """2bd22a0d4050: what arm_smmu_device_probe has set up is undone where it fails, each
    time. Here it fails at its first allocations, over and over."""
    smmu = next(name for name in guest.state().devices if "smmu" in name)
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "arm_smmu_v3")
    probe = "/sys/bus/platform/drivers_probe"
    tracing.arm(guest)
    failed = 0
    for number in range(1, 9):
        for _ in range(5):
            guest.run(f"failnth {number} write {probe} {smmu}")
            if guest.state().devices[smmu].driver:
                clients.remove_all(guest)
                guest.run("rmmod arm_smmu_v3; modprobe arm_smmu_v3")
                clients.bring_back(guest)
                break
            failed += 1
    assert failed >= 15
    guest.run(f"echo {smmu} > {probe}; echo 1 > /sys/bus/platform/drivers_autoprobe")
    state = clients.bound(guest)
    assert state.devices[smmu].driver == "arm-smmu-v3"
    assert audit.findings(guest.machine, state) == []


@pytest.mark.machines("virtio-iommu")
def test_a_virtio_iommu_that_fails_to_probe_leaves_nothing(guest: Guest) -> None:
    """viommu_probe's result is iommu_device_register's, or its clients wait for an IOMMU
    that is bound and does not exist."""
    names = guest.run("ls /sys/bus/virtio/devices").out.decode().split()
    guest.run("echo 0 > /sys/bus/virtio/drivers_autoprobe")
    modules.load(guest, "virtio_iommu")
    ours = [n for n in names if read(guest, f"/sys/bus/virtio/devices/{n}/device") == "0x0017"]
    (iommu,) = ours
    bound = f"/sys/bus/virtio/devices/{iommu}/driver"
    probe = "/sys/bus/virtio/drivers_probe"
    failed = 0
    for failure in tracing.failures(guest, "write", probe, iommu):
        state = guest.state()
        wrong = audit.findings(guest.machine, state)
        if guest.run(f"test -e {bound}").number == 0:
            wrong += [] if state.iommus else ["the driver is bound, and no IOMMU registered"]
            clients.remove_all(guest)
            guest.run("rmmod virtio_iommu; modprobe virtio_iommu")
            clients.bring_back(guest)
        else:
            failed += 1
            wrong += [f"IOMMU {name} is left" for name in state.iommus]
            wrong += [f"group {number} is left" for number in state.groups]
        assert not wrong, f"with allocation {failure.number} failing: {'; '.join(wrong)}"
    assert failed > 5


def read(guest: Guest, path: str) -> str:
    return guest.run(f"cat {path}").out.decode().strip()


@pytest.mark.machines("virtio-iommu")
def test_an_endpoint_that_goes_leaves_its_domain(bound_guest: Guest) -> None:
    """809d0810e352: the domain of an endpoint that is released is detached. What is seen
    here is that the next one with its ID binds and is counted as the first was."""
    (nic,) = clients.nics(bound_guest.state())
    for _ in range(5):
        devices.remove(bound_guest, nic)
        after = devices.rescan(bound_guest).after
        assert after.devices[nic].driver == "e1000e"
        assert audit.findings(bound_guest.machine, after) == []


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("forced-unload-null-release")
@pytest.mark.excused(state="the module was let go by force")
def test_after_force_a_device_can_be_removed(bound_guest: Guest) -> None:
    """The IOMMU's operations are gone when iommu_release_device looks for release_device."""
    (nic,) = clients.nics(bound_guest.state())
    modules.unload(bound_guest, "e1000e")
    modules.unload(bound_guest, "iommu_client")
    force(bound_guest)
    step = devices.remove(bound_guest, nic)
    assert (step.killed, step.status) == (False, 0)
    assert nic not in step.after.devices
