# SPDX-License-Identifier: GPL-2.0-only
"""Sessions that a message only describes in prose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import lines, prose_session
from harness.report.commands import Command


def steps(text: str) -> list[Command]:
    return [each for found in prose_session.find(lines.parse(text)) for each in found.commands]


def test_commands_in_backquotes_are_a_session() -> None:
    found = steps(
        "After `modprobe arm-smmu-v3` I run `modprobe e1000e`, which works without complaint.\n"
        "Then `cat /sys/module/arm_smmu_v3/refcnt` still prints 1, and\n"
        "`rmmod arm_smmu_v3` fails with status 1."
    )
    assert [each.text for each in found] == [
        "modprobe arm-smmu-v3",
        "modprobe e1000e",
        "cat /sys/module/arm_smmu_v3/refcnt",
        "rmmod arm_smmu_v3",
    ]
    assert [each.output for each in found] == [(), (), ("1",), ()]
    assert [each.line for each in found] == [1, 1, 2, 3]
    assert found[-1].note == "fails with status 1."


@pytest.mark.parametrize(
    "text",
    [
        # The order of the text is not that of the reporter.
        "`rmmod a_b` fails after `modprobe a-b`.",
        "After `modprobe a-b`, `rmmod a_b` fails, even though I ran `modprobe -r c-d`.",
        "I ran `modprobe a-b`. `rmmod a_b` fails. I ran `modprobe c-d` before.",
        # The commands are not run.
        "You could try `modprobe a-b` and then `rmmod a_b`.",
        "If `modprobe a-b` works, `rmmod a_b` fails.",
        "Please run `modprobe a-b` and `rmmod a_b`.",
        "I run `modprobe a-b`. Without the patch, `rmmod a_b` fails.",
        "I do not run `modprobe a-b`, but `rmmod a_b`.",
        # One command alone, names of programs, and lists.
        "`rmmod a_b` fails.",
        "`modprobe` and `rmmod` disagree.",
        "| `modprobe a-b` |\n| `rmmod a_b` |",
        "> I run `modprobe a-b` and `rmmod a_b`.",
    ],
)
def test_unclear_order_is_no_session(text: str) -> None:
    assert steps(text) == []


@given(st.text() | st.from_regex(r"(I run `modprobe \w+`[,.;:] ?(after|then|if)? ?){1,4}"))
def test_find_accepts_any_text(text: str) -> None:
    parsed = lines.parse(text)
    assert all(1 <= each.line <= len(parsed) for each in steps(text))
