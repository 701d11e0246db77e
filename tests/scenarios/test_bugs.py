# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of the past, each by the commit that fixed it. Where a kernel without the fix shows
it, it is a known issue; 5.10 lacks 32ea2c57dc21 and 809d0810e352 and shows neither here.

Those that other subjects cover are there: groups without a client's driver (bcb81ac6ae3c)
in pinning, default domain races (b46064a18810, 95deee37a123) in races, repeated stream IDs
(b00d24997a11) in firmware, ownership (512881eacfa7) in dma_ownership, ACS (c41e2fb67e26) in
topologies.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from harness.errors import GuestLost
from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, finding
from harness.iommu.audit import survives
from harness.iommu.behaviour import CLIENTS_WAIT, FORCE_WARNS, GROUPS_AT_REGISTRATION
from harness.iommu.finding import Finding
from harness.klog import splat
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows

_STAMP = re.compile(r"^\[ *[\d.]+\] ", re.MULTILINE)


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("forced-unload-keeps-dma-ops")
@pytest.mark.needs(CLIENTS_WAIT)
@pytest.mark.excused(state="the module was let go by force")
def test_forced_unload_clears_dma_ops_of_bound_devices(
    guest_factory: GuestFactory, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """280e5a301005: iommu-dma's operations are cleared when a device leaves its IOMMU; a
    device that goes on with those of a domain that was freed maps into freed memory."""
    guest = guest_factory("+virtio", bound=True)
    clients.bound(guest)
    if shows(FORCE_WARNS):
        expect_splat("WARNING in __iommu_group_free_device")
    force(guest)
    # The disk's driver is still bound, and maps what it reads into; nothing comes back.
    reading = "dd if=/dev/vda of=/dev/null bs=4k count=1"
    # Of a process that has ended /proc has no program any more.
    asked = "[ -e /proc/$!/exe ] && ! grep -q '[1-9]' /sys/block/vda/inflight"
    guest.run(f"{reading} & while {asked}; do usleep 1000; done; kill -9 $!")
    asked_for = guest.run("grep -q '[1-9]' /sys/block/vda/inflight")
    finding.require(asked_for.number == 0, "dma-attempted", "vda", "no")


def force(guest: Guest) -> None:
    assert modules.unload(guest, "arm_smmu_v3", force=True).status == 0


@pytest.mark.excused(state="the guest has gone", teardown="the guest has gone")
def test_reboot_with_active_devices_raises_no_splat(bound_guest: Guest) -> None:
    """32ea2c57dc21: an IOMMU that shuts down stays registered, because its clients may
    still be shutting down."""
    assert_reboots(bound_guest)


@pytest.mark.excused(state="the guest has gone", teardown="the guest has gone")
def test_shutdown_skips_a_driver_whose_probe_failed(bound_guest: Guest) -> None:
    """A device whose probe failed is nobody's (local_pci_probe), and pci_device_shutdown asks
    the driver of each that is somebody's."""
    nic = clients.nics(bound_guest.state())[0]
    devices.unbind(bound_guest, nic)
    modules.load(bound_guest, "e1000")
    # An e1000e, which it is not.
    step = bound_guest.step("echo 8086 10d3 > /sys/bus/pci/drivers/e1000/new_id")
    assert (step.status, step.after.devices[nic].driver) == (0, "")
    assert any(re.search("e1000.* failed with error", entry.text) for entry in step.kmsg)
    assert_reboots(bound_guest)


def assert_reboots(guest: Guest) -> None:
    """With nothing to complain of on the way."""
    with pytest.raises(GuestLost, match="guest-reset"):
        guest.run("reboot -f")
    console = (guest.directory / "console-kernel.log").read_text(errors="replace")
    lines = _STAMP.sub("", console).splitlines()
    assert [each.title for each in splat.find(lines)] == []
    assert any("reboot: Restarting system" in line for line in lines)


# How many allocations lie between two that fail.
_STEP = 7


@pytest.mark.machines("smmuv3", "smmuv3-acpi")
@pytest.mark.known_issue("failed-smmu-probe-leaves-sysfs")
@pytest.mark.errors(
    "failed with error",
    "can't (request region|generate pretty name)",
    "ioremap failed",
    "[Ff]ailed to (allocate|register iommu)",
)
# Not each allocation fails here.
@pytest.mark.known_issue("failed-attach-is-detached", sometimes=True)
def test_smmu_binds_after_repeated_failed_probes(
    guest: Guest, shows: Shows, expect_splat: ExpectSplat
) -> None:
    """What arm_smmu_device_probe has set up is undone where it fails, each time
    (2bd22a0d4050). Here some of its allocations fail, each over and over."""
    if shows(GROUPS_AT_REGISTRATION):
        # Not each allocation fails here.
        expect_splat("WARNING in iommu_setup_default_domain", sometimes=True)
    smmu = next(name for name in guest.state().devices if "smmu" in name)
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "arm_smmu_v3")
    probe = "/sys/bus/platform/drivers_probe"
    guest.take_kmsg()
    failed = 0
    attempted = tracing.failures(guest, "write", probe, smmu, but_for=tracing.RCACHES, step=_STEP)
    for failure in attempted:
        for _ in range(4):
            state = guest.state()
            if state.devices[smmu].driver:
                clients.remove_all(guest)
                guest.run("rmmod arm_smmu_v3; modprobe arm_smmu_v3")
                clients.bring_back(guest)
                break
            finding.none_of(audit.leaks(state))
            tracing.fail(guest, failure.number, "write", probe, smmu)
        # Not those that fail before the driver is called.
        failed += sum("failed with error" in entry.text for entry in guest.take_kmsg())
    assert failed >= 15
    guest.run("echo 1 > /sys/bus/platform/drivers_autoprobe")
    state = clients.bound(guest)
    assert state.devices[smmu].driver == "arm-smmu-v3"
    finding.none_of(audit.findings(guest.machine, state))


PROBE = "/sys/bus/virtio/drivers_probe"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A probe of the virtio-iommu whose ``number``th allocation failed, and the ``state``
    then; ``bound``, whether the driver has the device all the same."""

    number: int
    state: State
    bound: bool


def iommu_of(guest: Guest) -> str:
    """The virtio device that is the IOMMU (VIRTIO_ID_IOMMU)."""
    names = guest.run("ls /sys/bus/virtio/devices").out.decode().split()
    (name,) = [n for n in names if read(guest, f"/sys/bus/virtio/devices/{n}/device") == "0x0017"]
    return name


def is_bound(guest: Guest, name: str) -> bool:
    return guest.run(f"test -e /sys/bus/virtio/devices/{name}/driver").number == 0


def attempts(guest: Guest) -> Iterator[Attempt]:
    """One for each allocation of the probe. The device is reset after each, by its transport:
    see virtio-iommu-failed-probe-keeps-queues. Ends with a probe that succeeds."""
    iommu = iommu_of(guest)
    transport = read(guest, f"/sys/bus/virtio/devices/{iommu}", "readlink -f").split("/")[-2]
    driver = "/sys/bus/pci/drivers/virtio-pci"
    guest.run("echo 0 > /sys/bus/virtio/drivers_autoprobe")
    modules.load(guest, "virtio_iommu")
    for failure in tracing.failures(guest, "write", PROBE, iommu):
        yield Attempt(failure.number, guest.state(), is_bound(guest, iommu))
        if is_bound(guest, iommu):
            clients.remove_all(guest)
            guest.run("rmmod virtio_iommu; modprobe virtio_iommu")
            clients.bring_back(guest)
        guest.run(f"echo {transport} > {driver}/unbind; echo {transport} > {driver}/bind")
    assert is_bound(guest, iommu), "with no allocation failing it is not bound"


@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-unregistered-stays-bound")
@pytest.mark.errors("failed with error", "driver_sysfs_add failed")
def test_failed_virtio_iommu_probe_leaks_nothing(guest: Guest) -> None:
    """viommu_probe -> iommu_device_sysfs_add, iommu_device_register: nor the interrupt of its
    queues, which would come to a module that may be gone. One that does not fail has
    registered."""
    nic = clients.pci(guest.state())[0]
    iommu = iommu_of(guest)
    modules.load(guest, "pci-stub")
    failed = 0
    for attempt in attempts(guest):
        state = attempt.state
        wrong = audit.findings(guest.machine, state)
        if attempt.bound:
            devices.override(guest, nic, "pci-stub")
            client = devices.probe(guest, nic).after.devices[nic]
            if client.group is None:
                wrong.append(
                    Finding("registered", iommu, "no", f"{iommu} is bound, not registered")
                )
        else:
            failed += 1
            wrong += audit.leaks(state)
            if guest.run(f"grep -w {iommu} /proc/interrupts").number == 0:
                wrong.append(Finding("interrupt-leak", iommu, text="its interrupt is left"))
        finding.none_of(wrong, f"with allocation {attempt.number} failing")
    assert failed > 10


@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-failed-probe-keeps-queues")
def test_failed_virtio_iommu_probe_can_be_retried(guest: Guest) -> None:
    """err_free_vqs of viommu_probe: what the device was told of the queues, it is told no
    more."""
    iommu = iommu_of(guest)
    for attempt in attempts(guest):
        if attempt.bound:
            continue
        guest.run(f"echo {iommu} > {PROBE}")
        finding.require(is_bound(guest, iommu), "reprobe", iommu, "no")


def read(guest: Guest, path: str, how: str = "cat") -> str:
    return guest.run(f"{how} {path}").out.decode().strip()


@pytest.mark.machines("virtio-iommu")
def test_removing_an_endpoint_detaches_its_domain(bound_guest: Guest) -> None:
    """809d0810e352: the domain of an endpoint that is released is detached. What is seen
    here is that the next one with its ID binds and is counted as the first was."""
    (nic,) = clients.nics(bound_guest.state())
    for _ in range(5):
        devices.remove(bound_guest, nic)
        after = devices.rescan(bound_guest).after
        assert after.devices[nic].driver == "e1000e"
        finding.none_of(audit.findings(bound_guest.machine, after))


@pytest.mark.machines("smmuv3")
@pytest.mark.known_issue("forced-unload-null-release")
@pytest.mark.excused(state="the module was let go by force")
def test_device_can_be_removed_after_forced_unload(bound_guest: Guest) -> None:
    """The IOMMU's operations are gone when iommu_release_device looks for release_device."""
    (nic,) = clients.nics(bound_guest.state())
    modules.unload(bound_guest, "e1000e")
    modules.unload(bound_guest, "iommu_client")
    force(bound_guest)
    step = devices.remove(bound_guest, nic)
    survives(step)
    assert step.status == 0
    assert nic not in step.after.devices
