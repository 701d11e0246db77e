# SPDX-License-Identifier: GPL-2.0-only
"""Decide the verdict on the claims of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.report.claim import PRIORITY, Claim
from harness.repro.session_run import Judgement

Word = Literal["reproduced", "not-reproduced", "inconclusive"]

EXIT_CODES: dict[Word, int] = {"reproduced": 0, "not-reproduced": 1, "inconclusive": 3}

# Kinds of symptoms after which a guest can show nothing more, except a hang that ends.
_FINAL = ("panic", "splat", "killed", "hang")

_MAX_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict: its ``word``, the ``reason`` in one line, and the text of the deciding claim
    (``symptom``), "" if the report has no symptom."""

    word: Word
    reason: str
    symptom: str = ""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.word]


def decide(judged: Sequence[Judgement]) -> Verdict:
    """Decide the verdict on all claims.

    ``reproduced``: every symptom holds, and each step before the last symptom matches the report.
    ``not-reproduced``: a symptom, or a step before it, can be judged and does not hold.
    ``inconclusive``: neither.
    """
    symptoms = [each for each in judged if each.claim.symptom]
    if not symptoms:
        return Verdict("inconclusive", "the report shows no output or status to compare")
    last = max(_place(each) for each in symptoms)
    deciding = [each for each in judged if each.claim.decides and _place(each) <= last]
    failed = [each for each in deciding if each.held is False]
    if failed:
        # Later claims may fail because of the first.
        return _verdict("not-reproduced", min(failed, key=_order))
    held = [each for each in symptoms if each.held]
    final = [each for each in held if _is_final(each.claim)]
    unknown = [each for each in deciding if each.held is None]
    # A splat that appears does not depend on a step that could not run, and nothing can be
    # observed after the end of the guest.
    if final:
        end = min(_place(each) for each in final)
        unknown = [each for each in unknown if each.claim.symptom and _place(each) < end]
    if unknown:
        return _verdict("inconclusive", min(unknown, key=_order))
    main = min(held, key=lambda each: (PRIORITY[each.claim.kind], -_place(each)))
    return _verdict("reproduced", main)


def _is_final(claim: Claim) -> bool:
    return claim.kind in _FINAL and not (claim.kind == "hang" and claim.number is not None)


def _place(each: Judgement) -> float:
    """The step of the claim. A claim that is not about a step ranks after all steps."""
    return float("inf") if each.claim.step is None else each.claim.step


def _order(each: Judgement) -> tuple[float, int]:
    return _place(each), PRIORITY[each.claim.kind]


_OF_SYMPTOM: dict[Word, str] = {
    "reproduced": "holds",
    "not-reproduced": "does not hold",
    "inconclusive": "cannot be judged",
}
# A claim that is not a symptom decides only if it does not hold or cannot be judged.
_OF_STEP: dict[Word, str] = {
    "not-reproduced": "differs from the report",
    "inconclusive": "cannot be judged",
}


def _verdict(word: Word, deciding: Judgement) -> Verdict:
    claim = deciding.claim
    if not claim.symptom and claim.step is not None:
        outcome = f"step {claim.step + 1} {_OF_STEP[word]}"
    elif claim.step is not None:
        outcome = f"symptom of step {claim.step + 1} {_OF_SYMPTOM[word]}"
    else:
        outcome = f"symptom {_OF_SYMPTOM[word]}"
    reason = " ".join(deciding.reason.split())[:_MAX_CHARACTERS]
    return Verdict(word, f"{outcome}: {claim.text} ({reason})", claim.text)
