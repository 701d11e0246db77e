# SPDX-License-Identifier: GPL-2.0-only
"""Fixed bugs, and the commits that fixed them. If a kernel without the fix shows the bug, the bug
is a known issue. 5.10 lacks 32ea2c57dc21 and 809d0810e352, but shows neither bug here.

Other subjects cover other fixed bugs: pinning covers groups without a client driver
(bcb81ac6ae3c), races covers default domain races (b46064a18810, 95deee37a123), firmware covers
repeated stream IDs (b00d24997a11), dma_ownership covers ownership (512881eacfa7), and topologies
covers ACS (c41e2fb67e26).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from harness.errors import GuestLost
from harness.guest import devices, failnth, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, finding
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import (
    FAULT_INJECTION,
    GROUPS_AT_REGISTRATION,
    OWNED_GROUP_REMOVAL_WARNS,
    PROBE_DEFERRAL,
)
from harness.iommu.finding import Finding
from harness.klog import splat
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows

_STAMP = re.compile(r"^\[ *[\d.]+\] ", re.MULTILINE)


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("forced-unload-keeps-dma-ops")
@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.excused(
    state="the module is unloaded by force",
    untranslated="the IOMMU driver is unloaded",
    teardown="the module is unloaded by force",
)
def test_forced_unload_clears_dma_ops_of_bound_devices(
    guest_factory: GuestFactory, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """A device that leaves its IOMMU loses the DMA operations of iommu-dma.

    280e5a301005: a device that keeps the operations of a freed domain uses freed memory for
    its mappings."""
    guest = guest_factory("+virtio", bound=True)
    clients.bind_all(guest)
    if shows(OWNED_GROUP_REMOVAL_WARNS):
        expect_splat("WARNING in __iommu_group_free_device")
    force_unload(guest)
    # The disk driver is still bound and maps its read buffers. The request never completes.
    reading = "dd if=/dev/vda of=/dev/null bs=4k count=1"
    # /proc/PID/exe does not exist once the process has exited.
    not_yet = "[ -e /proc/$!/exe ] && ! grep -q '[1-9]' /sys/block/vda/inflight"
    guest.run(f"{reading} & while {not_yet}; do usleep 1000; done; kill -9 $!")
    in_flight = guest.run("grep -q '[1-9]' /sys/block/vda/inflight")
    finding.require(in_flight.status == 0, "dma-attempted", "vda", "no")


def force_unload(guest: Guest) -> None:
    modules.unload(guest, "arm_smmu_v3", force=True)


@pytest.mark.excused(everything="the guest has rebooted")
def test_reboot_with_active_devices_causes_no_splat(bound_guest: Guest) -> None:
    """Shutdown keeps an IOMMU registered, because its clients may still be shutting down.

    32ea2c57dc21."""
    assert_reboots(bound_guest)


@pytest.mark.excused(everything="the guest has rebooted")
def test_shutdown_does_not_call_a_driver_whose_probe_failed(bound_guest: Guest) -> None:
    """A failed probe leaves the device without a driver, so shutdown has no driver to call.

    local_pci_probe clears the device's driver, and pci_device_shutdown calls the driver of
    each device that has one."""
    nic = clients.nics(bound_guest.state())[0]
    devices.unbind(bound_guest, nic)
    modules.load(bound_guest, "e1000")
    # The ID of an e1000e, which e1000 cannot drive.
    step = bound_guest.step("echo 8086 10d3 > /sys/bus/pci/drivers/e1000/new_id")
    assert (step.status, step.after.devices[nic].driver) == (0, "")
    assert any(re.search("e1000.* failed with error", entry.text) for entry in step.kmsg)
    assert_reboots(bound_guest)


def assert_reboots(guest: Guest) -> None:
    """Reboot the guest, and check that its console shows the restart and no splat."""
    with pytest.raises(GuestLost, match="guest-reset"):
        guest.run("reboot -f")
    console = (guest.directory / "console-kernel.log").read_text(errors="replace")
    lines = _STAMP.sub("", console).splitlines()
    assert [each.title for each in splat.find(lines)] == []
    assert any("reboot: Restarting system" in line for line in lines)


# Every seventh allocation fails.
_STEP = 7


@pytest.mark.needs(FAULT_INJECTION)
@pytest.mark.machines("smmuv3", "smmuv3-acpi")
@pytest.mark.known_issue("failed-smmu-probe-leaves-sysfs")
@pytest.mark.errors(
    "failed with error",
    "can't (request region|generate pretty name)",
    "ioremap failed",
    "[Ff]ailed to (allocate|register iommu)",
)
# Not every allocation fails here.
@pytest.mark.known_issue("failed-attach-is-detached", sometimes=True)
def test_smmu_binds_after_repeated_failed_probes(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """Each failed arm_smmu_device_probe undoes what it has set up, so that a later probe succeeds.

    2bd22a0d4050. Some of the probe's allocations fail here, each of them several times."""
    if shows(GROUPS_AT_REGISTRATION):
        # Not every allocation fails here.
        expect_splat("WARNING in iommu_setup_default_domain", sometimes=True)
    smmu = next(name for name in guest.state().devices if "smmu" in name)
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "arm_smmu_v3")
    probe = "/sys/bus/platform/drivers_probe"
    guest.new_kmsg()
    failed = 0
    attempted = failnth.fail_each(guest, "write", probe, smmu, exclude=failnth.RCACHES, step=_STEP)
    for failure in attempted:
        for _ in range(4):
            state = guest.state()
            if state.devices[smmu].driver:
                clients.remove_all(guest)
                guest.run("rmmod arm_smmu_v3; modprobe arm_smmu_v3")
                clients.add_all(guest)
                break
            finding.require_none(audit.leaks(state))
            failnth.fail_nth(guest, failure.number, "write", probe, smmu)
        # This does not count failures before the driver's probe function.
        failed += sum("failed with error" in entry.text for entry in guest.new_kmsg())
    assert failed >= 15
    guest.run("echo 1 > /sys/bus/platform/drivers_autoprobe")
    state = clients.bind_all(guest)
    assert state.devices[smmu].driver == "arm-smmu-v3"
    finding.require_none(audit.findings(guest.machine, state))


PROBE = "/sys/bus/virtio/drivers_probe"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A virtio-iommu probe in which allocation ``number`` fails. ``state`` is the guest's state
    after the probe, and ``bound`` is whether the driver is bound in spite of the failure."""

    number: int
    state: State
    bound: bool


def iommu_of(guest: Guest) -> str:
    """The name of the virtio device that is the IOMMU (VIRTIO_ID_IOMMU)."""
    names = guest.run("ls /sys/bus/virtio/devices").out.split()
    (name,) = [n for n in names if read(guest, f"/sys/bus/virtio/devices/{n}/device") == "0x0017"]
    return name


def is_bound(guest: Guest, name: str) -> bool:
    return guest.run(f"test -e /sys/bus/virtio/devices/{name}/driver").status == 0


def attempts(guest: Guest) -> Iterator[Attempt]:
    """Yield one attempt for each allocation of the probe. The last probe succeeds.

    Rebinding the transport resets the device after each attempt, because of
    virtio-iommu-failed-probe-keeps-queues."""
    iommu = iommu_of(guest)
    transport = read(guest, f"/sys/bus/virtio/devices/{iommu}", "readlink -f").split("/")[-2]
    driver = "/sys/bus/pci/drivers/virtio-pci"
    guest.run("echo 0 > /sys/bus/virtio/drivers_autoprobe")
    modules.load(guest, "virtio_iommu")
    for failure in failnth.fail_each(guest, "write", PROBE, iommu):
        yield Attempt(failure.number, guest.state(), is_bound(guest, iommu))
        if is_bound(guest, iommu):
            clients.remove_all(guest)
            guest.run("rmmod virtio_iommu; modprobe virtio_iommu")
            clients.add_all(guest)
        guest.run(f"echo {transport} > {driver}/unbind; echo {transport} > {driver}/bind")
    assert is_bound(guest, iommu), "not bound although no allocation fails"


def has_interrupt(guest: Guest, iommu: str) -> bool:
    """Whether /proc/interrupts lists an interrupt of the device."""
    return guest.run(f"grep -w {iommu} /proc/interrupts").status == 0


@pytest.mark.needs(FAULT_INJECTION)
@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-unregistered-stays-bound")
@pytest.mark.errors("failed with error", "driver_sysfs_add failed")
def test_failed_virtio_iommu_probe_leaks_nothing(guest: Guest) -> None:
    """A failed viommu_probe releases its groups, IOMMU and interrupt.

    A successful probe registers the IOMMU (viommu_probe -> iommu_device_sysfs_add,
    iommu_device_register). An interrupt that is not released could be delivered to an
    unloaded module."""
    nic = clients.pci(guest.state())[0]
    iommu = iommu_of(guest)
    modules.load(guest, "pci-stub")
    failed = 0
    for attempt in attempts(guest):
        state = attempt.state
        wrong = audit.findings(guest.machine, state)
        if attempt.bound:
            devices.override(guest, nic, "pci-stub")
            client = devices.probe(guest, nic, check=False).after.devices[nic]
            if client.group is None:
                wrong.append(
                    Finding("registered", iommu, "no", f"{iommu} is bound but not registered")
                )
        else:
            failed += 1
            wrong += audit.leaks(state)
            if has_interrupt(guest, iommu):
                text = f"an interrupt of {iommu} is still requested"
                wrong.append(Finding("interrupt-leak", iommu, text=text))
        finding.require_none(wrong, f"with allocation {attempt.number} failing")
    assert failed > 10
    assert has_interrupt(guest, iommu), "a bound virtio-iommu has an interrupt of that name"


@pytest.mark.needs(FAULT_INJECTION)
@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-failed-probe-keeps-queues")
def test_failed_virtio_iommu_probe_can_be_retried(guest: Guest) -> None:
    """A failed viommu_probe deletes the virtqueues that it has set up in the device.

    err_free_vqs of viommu_probe."""
    iommu = iommu_of(guest)
    for attempt in attempts(guest):
        if attempt.bound:
            continue
        guest.run(f"echo {iommu} > {PROBE}")
        finding.require(is_bound(guest, iommu), "reprobe", iommu, "no")


def read(guest: Guest, path: str, how: str = "cat") -> str:
    return guest.run(f"{how} {path}").out.strip()


@pytest.mark.machines("virtio-iommu")
def test_removing_an_endpoint_detaches_its_domain(bound_guest: Guest) -> None:
    """Removing an endpoint detaches its domain.

    809d0810e352. The next endpoint with the same ID must bind and pin the module like the
    first."""
    (nic,) = clients.nics(bound_guest.state())
    for _ in range(5):
        devices.remove(bound_guest, nic)
        after = devices.rescan(bound_guest).after
        assert after.devices[nic].driver == "e1000e"
        finding.require_none(audit.findings(bound_guest.machine, after))


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("forced-unload-null-release")
@pytest.mark.excused(
    state="the module is unloaded by force", teardown="the module is unloaded by force"
)
def test_device_can_be_removed_after_forced_unload(bound_guest: Guest) -> None:
    """iommu_release_device does not use the iommu_ops of an unregistered IOMMU.

    Affected kernels call ->release_device in iommu_ops that the forced unload has freed."""
    (nic,) = clients.nics(bound_guest.state())
    modules.unload(bound_guest, "e1000e")
    modules.unload(bound_guest, "iommu_client")
    force_unload(bound_guest)
    step = devices.remove(bound_guest, nic, check=False)
    require_survival(step)
    assert step.status == 0
    assert nic not in step.after.devices
