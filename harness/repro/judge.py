# SPDX-License-Identifier: GPL-2.0-only
"""Each claim of a report held against what the guest did."""

from collections.abc import Callable, Iterator, Sequence

from harness.guest.guest import Step
from harness.report.claim import Claim, Kind
from harness.report.part import Command
from harness.repro import crash, effects, lacking
from harness.repro.replayed import Case, Held, Judgement, Replayed


def judge(claims: Sequence[Claim], done: Replayed) -> list[Judgement]:
    """All claims, in their order."""
    return list(_with_reasons(claims, [_judged(each, claims, done) for each in claims], done))


def _judged(each: Claim, claims: Sequence[Claim], done: Replayed) -> Judgement:
    if each.kind == "context":
        return Judgement(each, None, "it is about the reporter's machine")
    held, reason = _JUDGES[each.kind](Case(each, claims, done))
    return Judgement(each, held, reason)


def _with_reasons(
    claims: Sequence[Claim], judged: Sequence[Judgement], done: Replayed
) -> Iterator[Judgement]:
    """The claims of a step for which the guest lacks something cannot be judged, and none
    that does not hold after it."""
    pairs = enumerate(zip(done.commands, done.steps, strict=False))
    lacks = {
        number: what
        for number, (command, step) in pairs
        if (what := _lacks(command, step, _about(claims, number), done))
    }
    first = min(lacks, default=len(done.commands))
    for each in judged:
        place = len(done.commands) if each.claim.step is None else each.claim.step
        if each.held is None or not lacks:
            yield each
        elif place in lacks:
            yield Judgement(each.claim, None, lacks[place])
        elif each.held is False and place > first:
            yield Judgement(each.claim, None, f"step {first + 1}: {lacks[first]}")
        else:
            yield each


def _lacks(command: Command, step: Step, own: Sequence[Claim], done: Replayed) -> str:
    reported = "\n".join(line for each in done.commands for line in each.output)
    return lacking.of(command, step, own, reported=reported, names=done.names, kernel=done.kernel)


def _about(claims: Sequence[Claim], step: int) -> list[Claim]:
    return [each for each in claims if each.step == step]


def _contradiction(_: Case) -> Held:
    return None, "no kernel does both"


_JUDGES: dict[Kind, Callable[[Case], Held]] = {
    "panic": crash.panic,
    "splat": crash.splat,
    "killed": crash.killed,
    "hang": crash.hang,
    "contradiction": _contradiction,
    "fact": effects.claimed_fact,
    "status": effects.status,
    "refcount": effects.refcount,
    "output": effects.output,
    "message": effects.message,
    "device": effects.device,
    "silence": effects.silence,
}
