# SPDX-License-Identifier: GPL-2.0-only
"""Patches that change nothing that a rule is about: whatever fails with one of them is a
false alarm."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import HarnessError, PatchMismatch
from harness.host import rundir
from harness.suite import planted, run
from harness.suite.mutant import Mutant
from harness.suite.run import Outcome, Request

Result = Literal["quiet", "false-alarm", "not-applicable", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A scenario that failed in so many ``times`` of the runs; ``message`` is the first's."""

    scenario: str
    machine: str
    times: int
    message: str


@dataclass(frozen=True, slots=True)
class Quiet:
    """Of one harmless patch on one kernel: what became of its ``runs``; ``reason`` is why
    it is not judged, or not applicable."""

    name: str
    kernel: str
    result: Result = "quiet"
    runs: int = 0
    alarms: tuple[Alarm, ...] = ()
    summary: str = ""
    reason: str = ""

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def judged(patches: Sequence[Mutant], request: Request, runs: int, into: Path) -> Iterator[Quiet]:
    """Each patch in turn, so many runs, on the request's only kernel."""
    release = planted.release(request)
    (spec,) = request.kernels
    for number, patch in enumerate(patches, start=1):
        directory = into / f"{number:03}-{rundir.file_name(patch.name)}"
        directory.mkdir()
        blank = Quiet(patch.name, f"{spec.kind}:{spec.where}", summary=patch.summary)
        if reason := planted.elsewhere(patch, request, release):
            yield replace(blank, result="not-applicable", reason=reason)
        else:
            yield _judged(replace(blank, runs=runs), patch, request, directory)


def _judged(blank: Quiet, patch: Mutant, request: Request, directory: Path) -> Quiet:
    try:
        # Judged by its own source: a sign that a harmless patch takes away is a false alarm.
        own = replace(request, resolved=None)
        with planted.planted(patch, own, directory) as made:
            every = [
                outcome
                for number in range(1, blank.runs + 1)
                for outcome in run.run(made, directory, number=number, title=patch.name)
            ]
    except PatchMismatch as error:
        return replace(blank, result="not-applicable", reason=error.message)
    except HarnessError as error:
        return replace(blank, result="inconclusive", reason=str(error))
    return _told(blank, every)


def _told(blank: Quiet, every: Sequence[Outcome]) -> Quiet:
    failed: dict[tuple[str, str], list[Outcome]] = {}
    for each in every:
        if each.result == "failed":
            failed.setdefault((each.scenario, each.machine), []).append(each)
    alarms = tuple(Alarm(*key, len(found), found[0].reason) for key, found in failed.items())
    lost = [each.reason for each in every if each.result == "inconclusive"]
    result: Result = "false-alarm" if alarms else "inconclusive" if lost else "quiet"
    return replace(blank, result=result, alarms=alarms, reason="".join(lost[:1]))
