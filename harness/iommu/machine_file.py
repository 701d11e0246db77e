# SPDX-License-Identifier: GPL-2.0-only
"""Machine descriptions in TOML files::

iommu = "smmuv3"            # or "virtio-iommu"
firmware = "devicetree"     # or "acpi"
memory = 256                # MiB
presets = ["clients"]       # presets of devices, in addition to the devices below
overlays = ["mine.dts"]     # names in dts/, or paths relative to this file

[[device]]
model = "pcie-root-port"
id = "port"

[[device]]
model = "e1000e"
bus = "port"
mac = "52:54:00:12:34:56"   # any property that QEMU has for the model
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import toml
from harness.iommu import drivers, machines
from harness.machine import qemus, topology
from harness.machine.device import EmulatedDevice
from harness.machine.topology import Machine

# The keys of a file, and the types of their values.
_KEYS: dict[str, type] = {
    "iommu": str,
    "firmware": str,
    "memory": int,
    "cpus": int,
    "stage": str,
    "presets": list,
    "overlays": list,
    "broken-firmware": bool,
    "device": list,
}
_FIELDS = ("model", "id", "bus", "address")


def machine(text: str, qemu: str = topology.QEMU) -> Machine:
    """Return the machine for an argument of ``--machine``, which is a name (see
    ``machines.named``) or a .toml file, and an argument of ``--qemu``. Raises UsageError as
    ``machines.named`` and ``read`` do, and the errors of ``qemus.program``."""
    described = read(Path(text)) if text.endswith(".toml") else machines.named(text)
    return replace(described, qemu=qemus.program(qemu))


def read(path: Path) -> Machine:
    """Read the machine that a file describes. Raises UsageError, with the file's name, for an
    unknown key, an invalid value, or a machine that QEMU cannot emulate."""
    record = toml.read(path)
    try:
        described = _machine(path, record)
        topology.check(described)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from None
    return described


def _machine(path: Path, record: dict[str, Any]) -> Machine:
    _check(record)
    iommu = record.get("iommu", "smmuv3")
    if iommu not in drivers.IOMMUS:
        raise UsageError(f"unknown IOMMU {iommu!r}", f"use {' or '.join(drivers.IOMMUS)}")
    firmware = record.get("firmware", "devicetree")
    if firmware not in ("devicetree", "acpi"):
        raise UsageError(f"unknown firmware {firmware!r}", "use devicetree or acpi")
    default = machines.MACHINES[iommu if firmware == "devicetree" else f"{iommu}-acpi"]
    bare = Machine(
        path.stem,
        drivers.IOMMUS[iommu],
        devices=tuple(_device(each) for each in record.get("device", [])),
        overlays=tuple(_overlay(path, name) for name in _names(record, "overlays")),
        firmware=firmware,
        memory=record.get("memory", default.memory),
        cpus=record.get("cpus", default.cpus),
        stage=record.get("stage", ""),
        broken_firmware=record.get("broken-firmware", False),
    )
    return machines.with_presets(bare, tuple(_names(record, "presets")))


def _check(record: dict[str, Any]) -> None:
    for key, value in record.items():
        if key not in _KEYS:
            raise UsageError(f"unknown key {key!r}", f"known keys: {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise UsageError(f"{key} must be of type {_KEYS[key].__name__}, not {value!r}")


def _names(record: dict[str, Any], key: str) -> list[str]:
    names = record.get(key, [])
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f"{key} must be a list of names, not {names!r}")
    return list(names)


def _device(record: object) -> EmulatedDevice:
    if not isinstance(record, dict) or not isinstance(record.get("model"), str):
        raise UsageError(f"a [[device]] requires a model, which must be a string: {record!r}")
    for key, value in record.items():
        name = f"{key} of {record['model']}"
        if key in _FIELDS and not isinstance(value, str):
            raise UsageError(f"{name} must be a string, not {value!r}")
        if type(value) not in (str, int, bool):
            raise UsageError(f"{name} must be a string, an integer or a boolean, not {value!r}")
    fields = {key: record[key] for key in _FIELDS if key in record}
    properties = tuple((key, value) for key, value in record.items() if key not in _FIELDS)
    return EmulatedDevice(**fields, properties=properties)


def _overlay(path: Path, name: str) -> str:
    """The name of an overlay in dts/, or the absolute path of a .dts file whose ``name`` is
    relative to the machine file ``path``."""
    return str((path.parent / name).absolute()) if name.endswith(".dts") else name
