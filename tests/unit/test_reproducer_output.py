# SPDX-License-Identifier: GPL-2.0-only
"""Output that a report shows separately from its reproducer."""

from pathlib import Path

import pytest

from harness.report import bug_report, session_selection

BLOCK = "```sh\nmodprobe e1000e\ncat /a\ncat /b\n```\n"
SCRIPT = BLOCK.replace("sh\n", "sh\n#!/bin/sh\n", 1)
STEPS = "1. modprobe e1000e\n2. rmmod e1000e\n3. cat /a\n\n"


def outputs(tmp_path: Path, text: str) -> list[tuple[str, ...]]:
    (tmp_path / "r.txt").write_text(text)
    ((_, session),) = bug_report.read(tmp_path / "r.txt").sessions
    return [command.output for command in session.commands]


@pytest.mark.parametrize("reproducer", [BLOCK, SCRIPT])
@pytest.mark.parametrize(
    ("below", "shown"),
    [
        ("It prints:\n\n```\n1\n2\n```\n", ("1", "2")),
        ("Output:\n\n    1\n    2\n\nAnd so on.\n", ("1", "2")),
        ("Expected:\n```\n0\n```\nActual:\n```\n1\n```\n", ("1",)),
        ("```\n1\n```\n", ("1",)),
        ("It should print:\n```\n0\n```\n", None),
        ("My configuration:\n```\nCONFIG_IOMMU=y\n```\n", None),
        ("It prints\n```\n[    1.0] e1000e: removed\n```\n", None),
        ("It prints\n```\nrmmod: ERROR: Module a is in use\n```\n", None),
    ],
)
def test_the_output_block_below_a_script_belongs_to_its_commands(
    tmp_path: Path, reproducer: str, below: str, shown: tuple[str, ...] | None
) -> None:
    found = outputs(tmp_path, f"I run\n\n{reproducer}\n{below}")
    assert [each for each in found if each] == ([shown] if shown else [])


@pytest.mark.parametrize(
    ("below", "shown"),
    [
        ("Expected: 0\nActual: 1\n", ("1",)),
        ("Actual result = `a b`\n", ("a b",)),
        ("Observed output: /sys/x\n", ("/sys/x",)),
        ("Actual: nothing\n", ()),
        ("Actual: the kernel panics\n", ()),
        ("Expected output:\n```\n0\n```\nActual output:\n```\n1\n```\n", ("1",)),
    ],
)
def test_an_actual_result_becomes_the_output_of_the_last_step(
    tmp_path: Path, below: str, shown: tuple[str, ...]
) -> None:
    assert outputs(tmp_path, STEPS + below) == [(), (), shown]


def test_actual_nothing_claims_that_the_step_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(STEPS + "Actual: nothing\n")
    claims = session_selection.select(bug_report.read(tmp_path / "r.txt"), None).claims
    assert [(each.kind, each.step) for each in claims if each.symptom] == [("silence", 2)]


def test_an_actual_result_is_ignored_if_several_steps_can_print(tmp_path: Path) -> None:
    steps = STEPS.replace("rmmod e1000e", "cat /b")
    assert outputs(tmp_path, f"{steps}Actual output:\n```\n1\n2\n```\n") == [(), (), ()]
