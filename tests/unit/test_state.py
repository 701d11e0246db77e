# SPDX-License-Identifier: GPL-2.0-only
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestLost
from harness.guest import state
from harness.iommu import groups

BEFORE = """\
deferred b001000.client1
module arm_smmu_v3 live 1 -
group 0 b000000.client0
iommu smmu3 b000000.client0
device platform b000000.client0 test_module 0 smmu3 iommu
device platform b001000.client1 - - - iommu
device pci 0000:00:01.0 e1000e - - iommu
type 0 DMA"""

AFTER = """\
module arm_smmu_v3 live 2 vfio,x
module e1000e live 0 -
group 0 b000000.client0
group 3 0000:00:01.0
iommu smmu3 0000:00:01.0,b000000.client0
device platform b000000.client0 - 0 smmu3 iommu
device platform b001000.client1 - - - iommu
device pci 0000:00:01.0 e1000e 3 smmu3 iommu
type 0 identity
type 3 -"""


def test_a_snapshot_is_read() -> None:
    found = state.parse(BEFORE)
    assert found.refcount("arm-smmu-v3") == 1
    assert found.refcount("nope") is None
    assert found.groups[0] == state.Group(0, "DMA", ("b000000.client0",))
    assert found.devices["b001000.client1"].deferred
    assert found.devices["b000000.client0"].group == 0


def test_a_type_that_does_not_come_is_not_known() -> None:
    """A task that died holds the group's lock: nothing comes after."""
    found = state.parse(AFTER.removesuffix("type 0 identity\ntype 3 -"))
    assert [group.type for group in found.groups.values()] == ["?", "?"]
    assert state.parse(AFTER).groups[3].type == ""


def test_a_group_may_come_while_the_kernel_is_looked_at() -> None:
    assert list(state.parse(f"{BEFORE}\ntype 1 DMA").groups) == [0]


def test_bound_without_the_iommu_that_firmware_names() -> None:
    found = state.parse(BEFORE)
    assert found.untranslated == ["0000:00:01.0"]


def test_what_agrees_with_itself_has_no_contradictions() -> None:
    assert groups.contradictions(state.parse(BEFORE)) == []
    assert groups.contradictions(state.parse(AFTER)) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("group 3 0000:00:01.0", "group 3 -", "group 3 has no devices left"),
        ("group 3 0000:00:01.0\n", "", "0000:00:01.0 has group 3, which does not exist"),
        (
            "group 0 b000000.client0",
            "group 0 b000000.client0,b001000.client1",
            "group 0 has b001000.client1, whose own group is none",
        ),
        (
            "group 0 b000000.client0",
            "group 0 0000:00:09.0",
            "group 0 has 0000:00:09.0, whose own group is none",
        ),
        (
            "iommu smmu3 0000:00:01.0,b000000.client0",
            "iommu smmu3 b000000.client0",
            "0000:00:01.0 links to IOMMU smmu3, which does not link back",
        ),
        (
            "device pci 0000:00:01.0 e1000e 3 smmu3 iommu",
            "device pci 0000:00:01.0 e1000e 3 - iommu",
            "0000:00:01.0 has group 3 and links to no IOMMU",
        ),
        (
            "iommu smmu3 0000:00:01.0,b000000.client0",
            "iommu smmu3 0000:00:01.0,b000000.client0,gone",
            "IOMMU smmu3 links to gone, which does not link back",
        ),
        (
            "device platform b001000.client1 - - - iommu",
            "device platform b001000.client1 - - smmu3 iommu",
            "b001000.client1 links to IOMMU smmu3 and has no group",
        ),
    ],
)
def test_each_contradiction_is_told(old: str, new: str, told: str) -> None:
    found = groups.contradictions(state.parse(AFTER.replace(old, new).strip()))
    assert told in [each.text for each in found]


def test_changes_are_a_readable_line_each() -> None:
    assert state.changes(state.parse(BEFORE), state.parse(AFTER)) == [
        "module arm_smmu_v3: refcount 1 -> 2, held by empty -> vfio, x",
        "module e1000e: loaded, refcount 0",
        "group 0: type DMA -> identity",
        "group 3: appeared, no type, 0000:00:01.0",
        "device 0000:00:01.0: group none -> 3",
        "device b000000.client0: driver test_module -> none",
        "device b001000.client1: no longer deferred",
    ]


def test_changes_backwards() -> None:
    lines = state.changes(state.parse(AFTER), state.parse(BEFORE))
    assert "module e1000e: unloaded" in lines
    assert "group 3: gone (0000:00:01.0)" in lines
    assert "device b001000.client1: probe deferred" in lines


def test_nothing_changed() -> None:
    assert state.changes(state.parse(BEFORE), state.parse(BEFORE)) == []


@pytest.mark.parametrize(
    "line", ["module x", "group x DMA -", "device pci a b c d", "sh: not found", "module a b c d"]
)
def test_anything_else_means_the_guest_is_lost(line: str) -> None:
    with pytest.raises(GuestLost):
        state.parse(BEFORE + "\n" + line)


@given(st.text(max_size=300))
def test_hostile_text_is_a_state_or_an_error(text: str) -> None:
    with contextlib.suppress(GuestLost):
        state.parse(text)
