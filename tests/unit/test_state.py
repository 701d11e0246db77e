# SPDX-License-Identifier: GPL-2.0-only
"""The state of a guest: parsing, changes and contradictions."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestLost, UsageError
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


def test_parse_reads_modules_groups_and_devices() -> None:
    found = state.parse(BEFORE)
    assert found.refcount("arm-smmu-v3") == 1
    assert found.refcount_if_loaded("nope") is None
    assert not found.is_loaded("nope")
    with pytest.raises(UsageError, match="nope is not loaded"):
        found.refcount("nope")
    assert found.groups[0] == state.Group(0, "DMA", ("b000000.client0",))
    assert found.devices["b001000.client1"].deferred
    assert found.devices["b000000.client0"].group == 0


def test_parse_marks_a_missing_group_type_as_unknown() -> None:
    """A killed task may hold the mutex of a group; the guest prints no further types then."""
    found = state.parse(AFTER.removesuffix("type 0 identity\ntype 3 -"))
    assert [group.type for group in found.groups.values()] == ["?", "?"]
    assert state.parse(AFTER).groups[3].type == ""


def test_parse_ignores_the_type_of_an_unlisted_group() -> None:
    """The group appeared after the guest had listed the groups."""
    assert list(state.parse(f"{BEFORE}\ntype 1 DMA").groups) == [0]


def test_a_bound_device_without_the_iommu_of_its_firmware_node_is_untranslated() -> None:
    found = state.parse(BEFORE)
    assert found.untranslated == ["0000:00:01.0"]


def test_a_consistent_state_has_no_contradictions() -> None:
    assert groups.contradictions(state.parse(BEFORE)) == []
    assert groups.contradictions(state.parse(AFTER)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("group 3 0000:00:01.0", "group 3 -", "group 3 has no devices"),
        ("group 3 0000:00:01.0\n", "", "0000:00:01.0 has group 3, which does not exist"),
        (
            "group 0 b000000.client0",
            "group 0 b000000.client0,b001000.client1",
            "group 0 contains b001000.client1, but the group of b001000.client1 is none",
        ),
        (
            "group 0 b000000.client0",
            "group 0 0000:00:09.0",
            "group 0 contains 0000:00:09.0, but the group of 0000:00:09.0 is none",
        ),
        (
            "iommu smmu3 0000:00:01.0,b000000.client0",
            "iommu smmu3 b000000.client0",
            "0000:00:01.0 links to IOMMU smmu3, which does not link back",
        ),
        (
            "device pci 0000:00:01.0 e1000e 3 smmu3 iommu",
            "device pci 0000:00:01.0 e1000e 3 - iommu",
            "0000:00:01.0 has group 3 but does not link to an IOMMU",
        ),
        (
            "iommu smmu3 0000:00:01.0,b000000.client0",
            "iommu smmu3 0000:00:01.0,b000000.client0,gone",
            "IOMMU smmu3 links to gone, which does not link back",
        ),
        (
            "device platform b001000.client1 - - - iommu",
            "device platform b001000.client1 - - smmu3 iommu",
            "b001000.client1 links to IOMMU smmu3 but has no group",
        ),
    ],
)
def test_contradictions_reports_inconsistent_sysfs_links(old: str, new: str, expected: str) -> None:
    found = groups.contradictions(state.parse(AFTER.replace(old, new).strip()))
    assert expected in [each.text for each in found]


def test_changes_lists_one_line_per_change() -> None:
    assert state.changes(state.parse(BEFORE), state.parse(AFTER)) == [
        "module arm_smmu_v3: refcount 1 -> 2, held by none -> vfio, x",
        "module e1000e: loaded, refcount 0",
        "group 0: type DMA -> identity",
        "group 3: appeared, no type, 0000:00:01.0",
        "device 0000:00:01.0: group none -> 3",
        "device b000000.client0: driver test_module -> none",
        "device b001000.client1: no longer deferred",
    ]


def test_changes_lists_removals_and_deferrals() -> None:
    lines = state.changes(state.parse(AFTER), state.parse(BEFORE))
    assert "module e1000e: unloaded" in lines
    assert "group 3: removed (0000:00:01.0)" in lines
    assert "device b001000.client1: probe deferred" in lines


def test_equal_states_have_no_changes() -> None:
    assert state.changes(state.parse(BEFORE), state.parse(BEFORE)) == []


@pytest.mark.parametrize(
    "line", ["module x", "group x DMA -", "device pci a b c d", "sh: not found", "module a b c d"]
)
def test_parse_of_a_malformed_line_raises_guest_lost(line: str) -> None:
    with pytest.raises(GuestLost):
        state.parse(BEFORE + "\n" + line)


@given(st.text(max_size=300))
def test_parse_of_any_text_raises_only_guest_lost(text: str) -> None:
    with contextlib.suppress(GuestLost):
        state.parse(text)
