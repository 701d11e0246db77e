# SPDX-License-Identifier: GPL-2.0-only
"""Hangs of limited duration: how prose states it, how it is judged, and the verdict."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.report.claim import Claim
from harness.repro import verdict
from harness.repro.session_run import Judgement
from tests.unit.claims import symptom_numbers
from tests.unit.judging import command, judged, step

SESSION = "# modprobe a\n# rmmod b\n# cat /sys/x\n2\n"


@pytest.mark.parametrize(
    ("prose", "seconds"),
    [
        ("rmmod hangs for two minutes.", 120),
        ("rmmod hangs for about 30s, then all is well.", 30),
        ("The rmmod is stuck there for half an hour.", 1800),
        ("rmmod blocks for a minute.", 60),
        ("rmmod hangs for a second time.", None),
        ("rmmod takes two minutes to write.", None),
        ("Without a client rmmod hangs for two minutes.", None),
    ],
)
def test_prose_claims_the_duration_of_a_hang(
    tmp_path: Path, prose: str, seconds: int | None
) -> None:
    found = symptom_numbers(tmp_path, f"{SESSION}\n{prose}\n")
    hangs = [(step, number) for kind, step, number in found if kind == "hang"]
    assert hangs == ([(1, seconds)] if seconds else [])


def test_only_a_hang_without_a_duration_contradicts_the_next_prompt(tmp_path: Path) -> None:
    kinds = {
        prose: [kind for kind, _, _ in symptom_numbers(tmp_path, f"{SESSION}\n{prose}\n")]
        for prose in ("rmmod hangs.", "rmmod hangs for two minutes.")
    }
    assert kinds == {
        "rmmod hangs.": ["output", "contradiction"],
        "rmmod hangs for two minutes.": ["output", "hang"],
    }


@pytest.mark.parametrize(
    ("claimed", "seconds", "held"),
    [
        (120, 118.0, True),
        (120, 61.0, True),
        (120, 2.0, False),
        (5, 5.0, None),
        (5, 0.5, False),
        (None, 118.0, False),
    ],
)
def test_a_hang_is_judged_by_its_duration(
    claimed: int | None, seconds: float, held: bool | None
) -> None:
    claim = Claim("hang", "it hangs", "line 1", 0, number=claimed)
    (found,) = judged([command()], [replace(step(), seconds=seconds)], claims=[claim])
    assert found.held is held


@pytest.mark.parametrize(("number", "word"), [(120, "inconclusive"), (None, "reproduced")])
def test_only_steps_after_a_hang_of_limited_duration_affect_the_verdict(
    number: int | None, word: str
) -> None:
    hang = Claim("hang", "it hangs", "line 1", 0, number=number)
    output = Claim("output", "it prints 2", "line 2", 1, lines=("2",))
    found = [Judgement(hang, True, ""), Judgement(output, None, "the guest has no lspci")]
    assert verdict.decide(found).word == word
