# SPDX-License-Identifier: GPL-2.0-only
"""The guest's names for the devices in a report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.repro import device_names
from harness.repro.device_names import DeviceNames

PRINTED = """\
pci 0000:00:00.0 0x060000 1b36:0008
pci 0000:00:01.0 0x020000 8086:10d3 e1000e
virtio virtio0 - 0x0003 virtio_console
virtio virtio1 - 0x0017
platform 9050000.smmuv3 - - arm-smmu-v3
platform b000000.client0 - -
platform b001000.client1 - - iommu_client
net eth0 - - -
"""
DEVICES = device_names.parse_listing(PRINTED)


def learned(command: str, context: str = "", must_fit: bool = True) -> DeviceNames:
    found = DeviceNames(context, "arm_smmu_v3")
    found.learn(command, DEVICES, must_fit=must_fit)
    return found


@pytest.mark.parametrize(
    ("command", "translated"),
    [
        ("echo 0000:81:00.0 > drivers/x", "echo 0000:00:01.0 > drivers/x"),
        ("echo 81:00.0 > x", "echo 00:01.0 > x"),
        ("cat /sys/bus/pci/drivers/e1000e/0000:05:00.0/x", None),
        ("echo virtio0 > /sys/bus/virtio/drivers/virtio_iommu/unbind", "echo virtio1 > "),
        ("ls /sys/class/iommu/arm-smmu-v3.0.auto", "ls /sys/class/iommu/9050000.smmuv3"),
        ("echo 3f000000.smmu > x", "echo 9050000.smmuv3 > x"),
        ("ip link set enp1s0 up", "ip link set eth0 up"),
        ("echo 0000:00:01.0 > /sys/bus/pci/drivers/e1000e/unbind", "echo 0000:00:01.0 > "),
        # The guest's client0 is unbound; the report may have bound it to the driver in the path.
        ("echo b000000.client0 > /sys/bus/platform/drivers/iommu_client/unbind", "echo b000000."),
    ],
)
def test_translate_replaces_reported_names_with_names_in_the_guest(
    command: str, translated: str | None
) -> None:
    expected = translated or command.replace("0000:05:00.0", "0000:00:01.0")
    assert learned(command).translate(command).startswith(expected)


def test_learn_reads_the_driver_of_a_device_from_a_kernel_message() -> None:
    found = learned("echo 1 > /sys/bus/pci/devices/0000:81:00.0/x", "mlx5_core 0000:81:00.0: up")
    assert "no mlx5_core device" in found.why_unclear("0000:81:00.0")


def test_a_name_that_fits_several_devices_requires_a_device_option() -> None:
    command = "echo 40000000.gpu > /sys/bus/platform/drivers/gpu/unbind"
    assert "--device 40000000.gpu=NAME" in learned(command).why_unclear(command)
    assert not learned(command, must_fit=False).unclear


def test_a_device_option_overrides_the_guess() -> None:
    found = DeviceNames(
        "", "arm_smmu_v3", device_names.parse_choices(["40000000.gpu=b000000.client0"])
    )
    found.learn("echo 40000000.gpu", DEVICES, must_fit=True)
    assert found.translate("echo 40000000.gpu") == "echo b000000.client0"


@pytest.mark.parametrize("choice", ["x", "=y", "x=", "a=b c", "a=$(b)"])
def test_parse_choices_rejects_a_malformed_device_option(choice: str) -> None:
    with pytest.raises(UsageError, match="not of the form REPORTED=GUEST"):
        device_names.parse_choices([choice])


def test_check_choices_rejects_a_device_that_the_guest_lacks() -> None:
    with pytest.raises(UsageError, match=r"the guest has no 0000:00:09\.0"):
        device_names.check_choices({"x": "0000:00:09.0"}, DEVICES)


@given(st.text(max_size=300))
def test_learn_and_translate_accept_any_text(text: str) -> None:
    found = DeviceNames(text, "arm_smmu_v3")
    found.learn(text, device_names.parse_listing(text), must_fit=True)
    found.learn(text, DEVICES, must_fit=True)
    found.translate(text)


def test_learn_does_not_map_two_reported_devices_to_one() -> None:
    command = "ls /sys/bus/pci/devices/0000:01:00.0; ls /sys/bus/pci/devices/0000:01:00.1"
    found = learned(command)
    assert not found.known
    assert "has only one" in found.why_unclear("ls /sys/bus/pci/devices/0000:01:00.0")
