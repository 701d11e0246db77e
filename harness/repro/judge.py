# SPDX-License-Identifier: GPL-2.0-only
"""Judge claims of a report by what the guest did."""

from collections.abc import Callable, Iterator, Sequence

from harness.report.claim import Claim, Kind
from harness.repro import judge_crashes, judge_steps, missing
from harness.repro.session_run import Judgement, Ruling, SessionRun


def judge_claims(claims: Sequence[Claim], run: SessionRun) -> list[Judgement]:
    """Judge the claims. Returns the judgements in the same order."""
    return list(_excuse_missing([_judge(each, run) for each in claims], run))


def _judge(claim: Claim, run: SessionRun) -> Judgement:
    return Judgement(claim, *_JUDGES[claim.kind](claim, run))


def _excuse_missing(judged: Sequence[Judgement], run: SessionRun) -> Iterator[Judgement]:
    """Yield the judgements in the same order. Those that depend on something that the guest lacks
    are inconclusive: all about a step that requires it, and those about later steps whose claim
    does not hold."""
    reasons = {
        number: reason
        for number in range(min(len(run.commands), len(run.steps)))
        if (reason := missing.for_step(number, run))
    }
    first = min(reasons, default=len(run.commands))
    for each in judged:
        step = len(run.commands) if each.claim.step is None else each.claim.step
        if each.held is None or not reasons:
            yield each
        elif step in reasons:
            yield Judgement(each.claim, None, reasons[step])
        elif each.held is False and step > first:
            yield Judgement(each.claim, None, f"step {first + 1}: {reasons[first]}")
        else:
            yield each


def _context(_claim: Claim, _run: SessionRun) -> Ruling:
    return None, "the guest is a different machine"


def _contradiction(_claim: Claim, _run: SessionRun) -> Ruling:
    return None, "no kernel can match both"


_JUDGES: dict[Kind, Callable[[Claim, SessionRun], Ruling]] = {
    "context": _context,
    "panic": judge_crashes.panic,
    "splat": judge_crashes.splat,
    "killed": judge_crashes.killed,
    "hang": judge_crashes.hang,
    "contradiction": _contradiction,
    "error": judge_steps.error,
    "status": judge_steps.status,
    "refcount": judge_steps.refcount,
    "output": judge_steps.output,
    "message": judge_steps.message,
    "device": judge_steps.device,
    "silence": judge_steps.silence,
}
