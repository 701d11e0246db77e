# SPDX-License-Identifier: GPL-2.0-only
"""Demangling the names of Rust functions."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.klog.rust import demangled


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("_RNvCs1a_4feed5drain", "feed::drain"),
        ("_RNvNtNtCs1a_4feed5queue4ring4push.cold", "feed::queue::ring::push"),
        ("_RNvMCs1a_4feedNtB2_4Feed5drain", "<feed::Feed>::drain"),
        ("_RNvXs0_Cs1a_4feedNtB5_4FeedNtCs2b_6kernel3Eat3eat", "<feed::Feed as kernel::Eat>::eat"),
        ("_RNvYjNtCs2b_6kernel3Eat3eat", "<usize as kernel::Eat>::eat"),
        ("_RINvCs1a_4feed5drainhNtB2_4FeedE", "feed::drain::<u8, feed::Feed>"),
        ("_RINvCs1a_4feed5drainL_Ahj10_Kj10_E", "feed::drain::<[u8; 16], 16>"),
        (
            "_RINvCs1a_4feed5drainRL0_SQThbEPOuE",
            "feed::drain::<&[&mut (u8, bool)], *const *mut ()>",
        ),
        ("_RNCNvCs1a_4feed5drain0", "feed::drain::{closure#0}"),
        ("_RNCNvCs1a_4feed5drains_0", "feed::drain::{closure#1}"),
    ],
)
def test_demangled_returns_the_path_of_a_mangled_name(name: str, path: str) -> None:
    assert demangled(name) == path


@pytest.mark.parametrize(
    "name",
    [
        *("viommu_probe", "_RB_", "_R", "_RNv", "_RNvC9a", "_RINvC1a1bFEuE", "_RCs_", "_RNvCs1a"),
        *("_R" + "N" * 380, "_R" + "M" * 380, "_RIC1a" + "S" * 390, "_RNvXC1aB_B_1b"),
        "_RIC1a" + "TB5_B5_" * 50 + "E",
    ],
)
def test_demangled_returns_any_other_name_unchanged(name: str) -> None:
    assert demangled(name) == name


@example("C0")
@settings(deadline=None)
@given(st.text(alphabet="_RNvCMXYIBTASKELs0123456789aj", max_size=200))
def test_demangled_accepts_any_text(text: str) -> None:
    assert demangled("_R" + text)
