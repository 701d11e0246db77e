# SPDX-License-Identifier: GPL-2.0-only
"""The verdict over a replayed session."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.guest.guest import Step
from harness.scenario import expectation
from harness.scenario.expectation import Difference
from harness.scenario.transcript import Command

Word = Literal["reproduced", "not-reproduced", "unjudged"]

EXIT_CODES: dict[Word, int] = {"reproduced": 0, "not-reproduced": 1, "unjudged": 3}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One command of a report and what came of it in a guest; ``difference`` is
    None when both agree."""

    command: Command
    step: Step
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word``, and the ``reason`` in one line."""

    word: Word
    reason: str

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.word]


def outcome(command: Command, step: Step) -> Outcome:
    """The step held against what the report says of it."""
    return Outcome(command, step, expectation.compare(command, step))


def judge(commands: Sequence[Command], outcomes: Sequence[Outcome]) -> Verdict:
    """Over all steps of a session that was replayed to its end."""
    differing = [(number, each) for number, each in enumerate(outcomes, start=1) if each.difference]
    if differing:
        # What comes later may differ because of it, and what came before does not.
        number, first = differing[0]
        missing = expectation.missing(first.command, first.step)
        if missing:
            return Verdict("unjudged", f"step {number}: the guest has no {missing}")
        numbers = ", ".join(str(number) for number, _ in differing)
        word = "step" if len(differing) == 1 else "steps"
        return Verdict("not-reproduced", f"{word} {numbers} of {len(outcomes)} did not do as told")
    if not expectation.expects_anything(commands):
        return Verdict("unjudged", "the report shows no output or status that could be compared")
    return Verdict("reproduced", f"all {len(outcomes)} steps did what the report says")
