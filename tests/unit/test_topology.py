# SPDX-License-Identifier: GPL-2.0-only
"""Valid and invalid machines, and the files in which users define machines."""

import contextlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.iommu import drivers, machine_file, machines
from harness.machine import device, qemu, topology
from harness.machine.device import EmulatedDevice as Device

SMMUV3 = machines.named("smmuv3")


def test_every_machine_accepts_every_preset_except_overlays_with_acpi() -> None:
    for name, machine in machines.MACHINES.items():
        for preset, devices in machines.PRESETS.items():
            if devices.overlays and machine.firmware == "acpi":
                with pytest.raises(UsageError, match="require a device tree"):
                    machines.named(f"{name}+{preset}")
            else:
                found = machines.named(f"{name}+{preset}")
                assert found.devices == devices.devices
                assert found.overlays == devices.overlays


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"devices": (Device("virtio-iommu-pci"),)}, "is a second IOMMU"),
        ({"stage": "3"}, "stage must be one of 1, 2, nested"),
        ({"memory": 1}, "memory must be 64 to 65536 MiB, not 1"),
        ({"cpus": 0}, "cpus must be 1 to 8, not 0"),
        ({"devices": (Device("e1000", "a"), Device("e1000", "a"))}, "two devices have the id 'a'"),
        ({"devices": (Device("e1000", bus="absent"),)}, "the bus 'absent' must be a bridge"),
        ({"devices": (Device("e1000", "a"), Device("e1000", bus="a"))}, "must be a bridge"),
        (
            {"devices": (Device("e1000", bus="p"), Device("pcie-root-port", "p"))},
            "must be a bridge listed before it",
        ),
        ({"devices": (Device("e1000", "0"),)}, "the id '0' must be a letter"),
        ({"devices": (Device("e1000", address="0.0"),)}, "0.0 on the root bus is already used"),
        ({"devices": (Device("e1000", address="32.0"),)}, "must be SLOT.FUNCTION"),
        ({"devices": (Device("e1000", address="5.8"),)}, "must be SLOT.FUNCTION"),
        (
            {"devices": (Device("e1000", address="5"), Device("e1000", address="5.0"))},
            "5.0 on the root bus is already used",
        ),
    ],
)
def test_check_rejects_an_invalid_machine_with_the_reason(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        topology.check(replace(SMMUV3, **changes))  # type: ignore[arg-type]


def test_check_rejects_stage_without_an_smmuv3() -> None:
    with pytest.raises(UsageError, match="stage requires an SMMUv3"):
        topology.check(replace(machines.named("virtio-iommu"), stage="1"))


@pytest.mark.parametrize("name", ["", "smmu", "smmuv3+", "smmuv3+nope", "+nic", "smmuv3 +nic"])
def test_machine_rejects_an_unknown_machine_or_preset(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown (machine|preset)"):
        machine_file.machine(name)


def test_definitions_lists_a_device_after_its_backend() -> None:
    nic, disk = Device("e1000e"), Device("nvme", "store", address="4.0")
    made = list(device.definitions([nic, disk]))
    assert [each.option for each in made] == ["netdev", "device", "blockdev", "device"]
    assert made[1].fields["netdev"] == made[0].fields["id"]
    assert made[3].fields["drive"] == made[2].fields["node-name"]
    assert (made[3].fields["id"], made[3].fields["addr"]) == (device.identity("store"), "4.0")
    assert made[0].fields["restrict"] is True


def test_the_command_line_puts_functions_behind_their_root_port() -> None:
    argv = qemu.board(machines.named("smmuv3+root-port"))
    made = [json.loads(word) for word in argv if word.startswith("{")]
    port, _, first, _, second = made
    assert port["driver"] == "pcie-root-port"
    assert first["bus"] == second["bus"] == port["id"]
    assert first["multifunction"] is True


FILE = """
iommu = "virtio-iommu"
memory = 300
presets = ["multifunction"]

[[device]]
model = "pcie-root-port"
id = "port"

[[device]]
model = "e1000e"
bus = "port"
mac = "52:54:00:12:34:56"
"""


def read(tmp_path: Path, text: str) -> topology.Machine:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return machine_file.machine(str(path))


def test_a_machine_file_defines_iommu_memory_and_devices(tmp_path: Path) -> None:
    machine = read(tmp_path, FILE)
    assert (machine.name, machine.iommu, machine.memory) == ("mine", drivers.VIRTIO_IOMMU, 300)
    port, nic, *functions = machine.devices
    assert port == Device("pcie-root-port", "port")
    assert nic == Device("e1000e", bus="port", properties=(("mac", "52:54:00:12:34:56"),))
    assert tuple(functions) == machines.PRESETS["multifunction"].devices


def test_the_path_of_an_overlay_is_relative_to_the_machine_file(tmp_path: Path) -> None:
    machine = read(tmp_path, 'overlays = ["platform-clients", "own.dts"]')
    assert machine.overlays == ("platform-clients", str(tmp_path / "own.dts"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("iommu = ", "is not valid TOML"),
        ('iommu = "intel"', "unknown IOMMU 'intel'"),
        ('iommu = ["smmuv3", "virtio-iommu"]', "iommu must be of type str"),
        ('firmware = "bios"', "unknown firmware"),
        ("memory = true", "memory must be of type int"),
        ("devcie = 1", "unknown key 'devcie'"),
        ('presets = ["nope"]', "unknown preset"),
        ("presets = [1]", "presets must be a list of names"),
        ("[[device]]\nid = 'a'", "requires a model"),
        ("[[device]]\nmodel = 'e1000'\nbus = 1", "bus of e1000 must be a string"),
        (
            "[[device]]\nmodel = 'e1000'\nx = [1]",
            "x of e1000 must be a string, an integer or",
        ),
        ("[[device]]\nmodel = 'virtio-iommu-pci'", "is a second IOMMU"),
        ('firmware = "acpi"\npresets = ["clients"]', "require a device tree"),
    ],
)
def test_an_error_in_a_machine_file_contains_the_file_name(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=f"mine.toml.*{reason}"):
        read(tmp_path, text)


def test_machine_rejects_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        machine_file.machine(str(tmp_path / "none.toml"))


KEYS = st.sampled_from(["iommu", "memory", "stage", "presets", "overlays", "device", "cpus", "x"])
LEAVES = st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.sampled_from(["smmuv3"]))
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=3))


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_reading_any_toml_file_raises_only_usage_errors(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, object]
) -> None:
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # JSON and TOML escape a few characters differently
    path = tmp_path_factory.mktemp("any") / "any.toml"
    path.write_text(text)
    with contextlib.suppress(UsageError):
        topology.check(machine_file.read(path))
