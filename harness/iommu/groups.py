# SPDX-License-Identifier: GPL-2.0-only
"""Set the type of IOMMU groups in a guest, and check that sysfs describes groups consistently."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.guest import devices
from harness.guest.guest import Guest, Step
from harness.guest.state import State

# What iommu_group_show_type prints for a group without a default domain.
NO_DEFAULT_DOMAIN = "unknown"

GroupType = Literal["DMA", "DMA-FQ", "identity", "auto"]


def set_group_type(guest: Guest, group: int, kind: GroupType, *, check: bool = True) -> Step:
    """Replace the group's default domain by one of a different type (iommu_group_store_type)."""
    path = f"/sys/kernel/iommu_groups/{group}/type"
    return devices.write(guest, path, kind, check=check)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A contradiction in sysfs.

    ``rule`` is the rule that is broken. ``name`` is a device, or the number of a group. ``text``
    describes the contradiction."""

    rule: str
    name: str
    text: str


def contradictions(state: State) -> list[Contradiction]:
    """The contradictions in sysfs. Each link that iommu_device_link, iommu_group_add_device and
    their counterparts maintain must have its reverse link, each group must have a device, and a
    device must have a group if and only if it links to an IOMMU."""
    return [
        *_group_contradictions(state),
        *_iommu_contradictions(state),
        *(
            Contradiction(
                "grouped-without-iommu",
                name,
                f"{name} has group {device.group} but does not link to an IOMMU",
            )
            for name, device in state.devices.items()
            if device.group is not None and not device.iommu
        ),
    ]


def _group_contradictions(state: State) -> Iterator[Contradiction]:
    for number, group in state.groups.items():
        if not group.devices:
            yield Contradiction("empty-group", str(number), f"group {number} has no devices")
        for name in group.devices:
            device = state.devices.get(name)
            own = device.group if device else None
            if own != number:
                text = f"group {number} contains {name}, but the group of {name} is {_number(own)}"
                yield Contradiction("member-elsewhere", name, text)
    for name, device in state.devices.items():
        if device.group is not None and device.group not in state.groups:
            text = f"{name} has group {device.group}, which does not exist"
            yield Contradiction("missing-group", name, text)
        elif device.group is not None and name not in state.groups[device.group].devices:
            text = f"{name} has group {device.group}, but that group does not contain it"
            yield Contradiction("no-member", name, text)


def _iommu_contradictions(state: State) -> Iterator[Contradiction]:
    for iommu, names in state.iommus.items():
        for name in names:
            device = state.devices.get(name)
            if device is None or device.iommu != iommu:
                text = f"IOMMU {iommu} links to {name}, which does not link back"
                yield Contradiction("no-link-to-iommu", name, text)
    for name, device in state.devices.items():
        if device.iommu and name not in state.iommus.get(device.iommu, ()):
            text = f"{name} links to IOMMU {device.iommu}, which does not link back"
            yield Contradiction("no-link-from-iommu", name, text)
        if device.iommu and device.group is None:
            text = f"{name} links to IOMMU {device.iommu} but has no group"
            yield Contradiction("iommu-without-group", name, text)


def _number(group: int | None) -> str:
    return "none" if group is None else str(group)
