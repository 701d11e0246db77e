# SPDX-License-Identifier: GPL-2.0-only
"""What pins an IOMMU driver's module: devices with a group, not their drivers.

One try_module_get(ops->owner) for each device that gets a group
(iommu_init_device, drivers/iommu/iommu.c in 6.12), put back when the device goes.
A device gets one when its driver binds, and since bcb81ac6ae3c already when the
IOMMU registers or the device is added.
"""

from dataclasses import replace

from harness.guest.guest import Guest
from harness.guest.state import State, changes
from harness.kernel.artifact import Kernel
from harness.pytest_plugin import GuestFactory
from harness.repro import replay, show
from harness.scenario import verdict
from harness.scenario.transcript import Command
from tests.behaviour import (
    CLIENTS_WAIT,
    GROUPS_AT_REGISTRATION,
    TYPE_TAKES_MUTEX,
    UNREGISTERING_REMOVES_GROUPS,
)

BRIDGE = "0000:00:00.0"
NIC = "0000:00:01.0"
CLIENTS = ("b000000.client0", "b001000.client1")
VIRTIO_NIC = "0000:00:02.0"
IN_USE = b"Resource temporarily unavailable"


def test_the_clients_exist_and_wait_for_their_iommu(smmuv3: Guest) -> None:
    devices = smmuv3.state().devices
    clients = [devices["b000000.client0"], devices["b001000.client1"]]
    assert all(client.firmware_iommu and client.group is None for client in clients)
    assert devices[NIC].firmware_iommu


def test_binding_a_client_pins_and_unbinding_does_not_unpin(smmuv3: Guest, kernel: Kernel) -> None:
    early = GROUPS_AT_REGISTRATION.of(kernel)
    smmuv3.run("modprobe arm-smmu-v3")
    bound = smmuv3.step("modprobe iommu_client")
    counts = (bound.before.refcount("arm_smmu_v3"), bound.after.refcount("arm_smmu_v3"))
    # Both clients; early also the NIC and the host bridge, 0000:00:00.0.
    pinned = 4 if early else 2
    assert counts == (4 if early else 0, pinned)
    grouped = {group.devices for group in bound.after.groups.values()}
    clients = {("b000000.client0",), ("b001000.client1",)}
    assert grouped == (clients | {(NIC,), (BRIDGE,)} if early else clients)
    unbound = smmuv3.step("modprobe -r iommu_client")
    assert unbound.after.refcount("arm_smmu_v3") == pinned
    refused = smmuv3.step("modprobe -r arm-smmu-v3")
    assert (refused.status, refused.after.refcount("arm_smmu_v3")) == (1, pinned)
    assert "Resource temporarily unavailable" in refused.err


def test_the_devices_going_away_unpins(smmuv3: Guest) -> None:
    for device in (NIC, BRIDGE):
        smmuv3.run(f"echo 1 > /sys/bus/pci/devices/{device}/remove")
    smmuv3.run("modprobe arm-smmu-v3; modprobe iommu_client; modprobe iommu_client_device")
    assert smmuv3.state().refcount("arm_smmu_v3") == 2
    gone = smmuv3.step("modprobe -r iommu_client_device")
    assert gone.after.refcount("arm_smmu_v3") == 0
    assert gone.after.groups == {}
    assert not any("client" in name for name in gone.after.devices)
    assert smmuv3.run("modprobe -r arm-smmu-v3").number == 0


def test_the_devices_come_back_and_pin_again(smmuv3: Guest) -> None:
    smmuv3.run("modprobe arm-smmu-v3; modprobe iommu_client; modprobe iommu_client_device")
    before = smmuv3.state()
    smmuv3.run("modprobe -r iommu_client_device")
    smmuv3.run("modprobe iommu_client_device")
    after = smmuv3.state()
    assert after.refcount("arm_smmu_v3") == before.refcount("arm_smmu_v3")
    assert all(after.devices[name].group is not None for name in CLIENTS)
    assert {name: device.driver for name, device in after.devices.items()} == {
        name: device.driver for name, device in before.devices.items()
    }


def test_a_stand_in_has_the_name_of_the_report(smmuv3: Guest) -> None:
    step = smmuv3.step("modprobe arm-smmu-v3; modprobe test_module")
    assert "test_module" in step.after.modules
    assert step.after.devices["b000000.client0"].driver == "test_module"


def test_pci_removal_unpins_and_rescan_with_a_driver_pins(smmuv3: Guest, kernel: Kernel) -> None:
    smmuv3.run("modprobe arm-smmu-v3; modprobe e1000e")
    state = smmuv3.state()
    others = 3 if GROUPS_AT_REGISTRATION.of(kernel) else 0  # the bridge and the clients
    assert state.refcount("arm_smmu_v3") == others + 1
    assert state.devices[NIC].group is not None
    removed = smmuv3.step(f"echo 1 > /sys/bus/pci/devices/{NIC}/remove")
    assert removed.after.refcount("arm_smmu_v3") == others
    back = smmuv3.step("echo 1 > /sys/bus/pci/rescan")
    assert back.after.refcount("arm_smmu_v3") == others + 1
    assert f"device {NIC}: appeared" in changes(back.before, back.after)


def test_the_smmu_has_no_unbind(smmuv3: Guest) -> None:
    """.suppress_bind_attrs in drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c."""
    smmuv3.run("modprobe arm-smmu-v3")
    reply = smmuv3.run("ls /sys/bus/platform/drivers/arm-smmu-v3")
    assert b"9050000.smmuv3" in reply.out
    assert b"bind" not in reply.out


def test_virtio_iommu_unloads_only_without_its_client(virtio_iommu: Guest) -> None:
    virtio_iommu.run(f"echo 1 > /sys/bus/pci/devices/{BRIDGE}/remove")
    virtio_iommu.run("modprobe virtio-iommu; modprobe e1000e")
    state = virtio_iommu.state()
    assert state.devices[VIRTIO_NIC].group is not None
    assert state.refcount("virtio_iommu") == 1
    refused = virtio_iommu.run("rmmod virtio_iommu")
    assert refused.number == 1
    assert IN_USE in refused.err
    virtio_iommu.run(f"echo 1 > /sys/bus/pci/devices/{VIRTIO_NIC}/remove")
    done = virtio_iommu.step("rmmod virtio_iommu")
    assert (done.status, done.after.refcount("virtio_iommu")) == (0, None)
    assert any("device removed" in entry.text for entry in done.kmsg)


def test_a_nic_waits_for_its_iommu_and_binds_when_it_comes(
    virtio_iommu: Guest, kernel: Kernel
) -> None:
    """of_iommu_configure defers until the IOMMU's driver registers or time is up."""
    waiting = virtio_iommu.step("modprobe e1000e")
    nic = waiting.after.devices[VIRTIO_NIC]
    if not CLIENTS_WAIT.of(kernel):
        assert (nic.driver, nic.deferred, nic.group) == ("e1000e", False, None)
        assert VIRTIO_NIC in waiting.after.untranslated
        return
    assert (nic.driver, nic.deferred, nic.group) == ("", True, None)
    virtio_iommu.run("modprobe virtio-iommu")
    # The driver core retries deferred probes in a work item.
    virtio_iommu.run(
        f"while [ ! -e /sys/bus/pci/devices/{VIRTIO_NIC}/driver ]; do sleep 0.01; done"
    )
    nic = virtio_iommu.state().devices[VIRTIO_NIC]
    assert (nic.driver, nic.deferred) == ("e1000e", False)
    assert nic.group is not None


def test_a_client_that_waits_in_vain_binds_past_its_iommu_and_that_is_told(
    guest_factory: GuestFactory,
) -> None:
    """driver_deferred_probe_check_state gives up after deferred_probe_timeout."""
    guest = guest_factory("smmuv3", arguments="deferred_probe_timeout=1")
    guest.run("modprobe iommu_client")
    bound = "/sys/bus/platform/drivers/iommu_client/b00?000.client?"
    guest.run(f"until ls -d {bound}; do sleep 0.05; done")
    step = guest.step("true")
    assert step.after.untranslated == ["b000000.client0", "b001000.client1"]
    outcome = verdict.outcome(Command("true", (), None, 1), replace(step, before=State()))
    assert replay.step_record(outcome)["untranslated"] == step.after.untranslated
    shown = [line for _, line in show.step(outcome, "arm_smmu_v3")]
    assert any("! b000000.client0 is bound, firmware names an IOMMU" in line for line in shown)


def test_an_oops_kills_the_shell_and_not_the_guest(virtio_iommu: Guest, kernel: Kernel) -> None:
    """viommu_remove drops the sysfs device before iommu_device_unregister, which
    then follows it: a bug of 6.1, 6.12 and 7.2 that nobody has reported. In 5.10
    unregistering follows nothing, and leaves the group behind."""
    virtio_iommu.run("modprobe virtio-iommu; modprobe e1000e")
    step = virtio_iommu.step(
        "cd /sys/bus/virtio/drivers/virtio_iommu; for d in virtio[0-9]*; do echo $d > unbind; done"
    )
    if not UNREGISTERING_REMOVES_GROUPS.of(kernel):
        assert (step.killed, step.status) == (False, 0)
        assert step.after.groups == step.before.groups
        return
    assert (step.killed, step.status) == (True, 139)
    assert any("Unable to handle kernel" in entry.text for entry in step.kmsg)
    if TYPE_TAKES_MUTEX.of(kernel):
        # The task died with it held.
        assert "?" in [group.type for group in step.after.groups.values()]
    assert virtio_iommu.run("echo alive").out == b"alive\n"
