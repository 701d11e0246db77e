# SPDX-License-Identifier: GPL-2.0-only
"""The verdict over a report's claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.report.claim import WEIGHT
from harness.repro.replayed import Judgement

Word = Literal["reproduced", "not-reproduced", "inconclusive"]

EXIT_CODES: dict[Word, int] = {"reproduced": 0, "not-reproduced": 1, "inconclusive": 3}

# Symptoms after which a guest has nothing more to show.
_FINAL = ("panic", "splat", "killed", "hang")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word``, the ``reason`` in one line, and the ``symptom`` that decides, "" for none."""

    word: Word
    reason: str
    symptom: str = ""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.word]


def judge(judged: Sequence[Judgement]) -> Verdict:
    """From all claims. ``reproduced``: every symptom holds, at least one was there to hold,
    and no step before it went otherwise. ``not-reproduced``: a symptom, or a step before it,
    can be judged and does not hold. ``inconclusive``: none of this."""
    symptoms = [each for each in judged if each.claim.symptom]
    if not symptoms:
        return Verdict(
            "inconclusive", "the report shows no output or status that could be compared"
        )
    last = max(_place(each) for each in symptoms)
    deciding = [each for each in judged if each.claim.judges and _place(each) <= last]
    failed = [each for each in deciding if each.held is False]
    if failed:
        # What comes later may differ because of it.
        first = min(failed, key=lambda each: (_place(each), WEIGHT[each.claim.kind]))
        return _verdict("not-reproduced", first, "does not hold")
    held = [each for each in symptoms if each.held]
    over = [each for each in held if each.claim.kind in _FINAL]
    unknown = [each for each in deciding if each.held is None]
    # A splat that shows up all the same needs no step that could not be made, and what
    # comes after the guest's end cannot be seen.
    open_questions = [
        each for each in unknown if not over or (each.claim.symptom and _place(each) < _end(over))
    ]
    if open_questions:
        first = min(open_questions, key=lambda each: (_place(each), WEIGHT[each.claim.kind]))
        return _verdict("inconclusive", first, "cannot be judged")
    main = min(held, key=lambda each: (WEIGHT[each.claim.kind], -_place(each)))
    return _verdict("reproduced", main, "holds")


def _place(each: Judgement) -> float:
    """Where in the session: what stands beside it comes last."""
    return float("inf") if each.claim.step is None else each.claim.step


def _end(over: Sequence[Judgement]) -> float:
    """The step at which the guest shows what it ends with."""
    return min(_place(each) for each in over)


def _verdict(word: Word, each: Judgement, how: str) -> Verdict:
    step = "" if each.claim.step is None else f"step {each.claim.step + 1}, "
    what = "the symptom" if each.claim.symptom else "the way to it"
    reason = " ".join(each.reason.split())[:300]
    return Verdict(word, f"{what}: {step}{each.claim.text}: {how} ({reason})", each.claim.text)
