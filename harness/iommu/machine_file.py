# SPDX-License-Identifier: GPL-2.0-only
"""Machines that users compose, in TOML::

iommu = "smmuv3"            # or "virtio-iommu"
firmware = "devicetree"     # or "acpi"
memory = 256                # MiB
presets = ["clients"]       # devices by preset, beside those below
overlays = ["mine.dts"]     # of dts/, or paths from this file on

[[device]]
model = "pcie-root-port"
id = "port"

[[device]]
model = "e1000e"
bus = "port"
mac = "52:54:00:12:34:56"   # any property that QEMU has for the model
"""

import tomllib
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.iommu import drivers, machines
from harness.machine import topology
from harness.machine.device import EmulatedDevice
from harness.machine.topology import Machine

# What a file may say, and the type it must have.
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
_PLACES = ("model", "id", "bus", "address")


def machine(text: str) -> Machine:
    """What a user writes after ``--machine``: a name (``machines.named``), or a file.
    Raises UsageError as they do."""
    return read(Path(text)) if text.endswith(".toml") else machines.named(text)


def read(path: Path) -> Machine:
    """The machine that the file describes. Raises UsageError, with the file's name, for
    one that says what is not known or cannot be."""
    try:
        given = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    try:
        described = _machine(path, given)
        topology.check(described)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from None
    return described


def _machine(path: Path, given: dict[str, Any]) -> Machine:
    _check(given)
    iommu = given.get("iommu", "smmuv3")
    if iommu not in drivers.IOMMUS:
        raise UsageError(f"no such IOMMU: {iommu!r}", f"use {' or '.join(drivers.IOMMUS)}")
    firmware = given.get("firmware", "devicetree")
    if firmware not in ("devicetree", "acpi"):
        raise UsageError(f"no such firmware: {firmware!r}", "use devicetree or acpi")
    default = machines.MACHINES[iommu if firmware == "devicetree" else f"{iommu}-acpi"]
    bare = Machine(
        path.stem,
        drivers.IOMMUS[iommu],
        devices=tuple(_device(each) for each in given.get("device", [])),
        overlays=tuple(_overlay(path, name) for name in _words(given, "overlays")),
        firmware=firmware,
        memory=given.get("memory", default.memory),
        cpus=given.get("cpus", default.cpus),
        stage=given.get("stage", ""),
        broken_firmware=given.get("broken-firmware", False),
    )
    return machines.with_presets(bare, tuple(_words(given, "presets")))


def _check(given: dict[str, Any]) -> None:
    for key, value in given.items():
        if key not in _KEYS:
            raise UsageError(f"no such key: {key!r}", f"there are {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise UsageError(f"{key} = {value!r} is no {_KEYS[key].__name__}")


def _words(given: dict[str, Any], key: str) -> list[str]:
    words = given.get(key, [])
    if not all(isinstance(word, str) for word in words):
        raise UsageError(f"{key} = {words!r} is no list of names")
    return list(words)


def _device(given: object) -> EmulatedDevice:
    if not isinstance(given, dict) or not isinstance(given.get("model"), str):
        raise UsageError(f"a [[device]] without a model: {given!r}")
    for key, value in given.items():
        if key in _PLACES and not isinstance(value, str):
            raise UsageError(f"{key} = {value!r} of {given['model']} is no text")
        if type(value) not in (str, int, bool):
            raise UsageError(f"{key} = {value!r} is no property of a device")
    places = {key: given[key] for key in _PLACES if key in given}
    properties = tuple((key, value) for key, value in given.items() if key not in _PLACES)
    return EmulatedDevice(**places, properties=properties)


def _overlay(path: Path, name: str) -> str:
    """A name of dts/, or a file beside this one."""
    return str((path.parent / name).absolute()) if name.endswith(".dts") else name
