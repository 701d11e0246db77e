# SPDX-License-Identifier: GPL-2.0-only
"""Run the scenarios with harmless patches, which change nothing that a rule depends on. A scenario
that fails with a harmless patch is a false alarm."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import HarnessError, PatchMismatch
from harness.host import rundir
from harness.suite import planted, run
from harness.suite.mutant import Mutant
from harness.suite.run import RunRequest, ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult

HarmlessResult = Literal["quiet", "false-alarm", "not-applicable", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A scenario that failed with a harmless patch. ``times`` is the number of its failures, and
    ``message`` is the reason for the first failure."""

    scenario: str
    machine: str
    times: int
    message: str


@dataclass(frozen=True, slots=True)
class HarmlessScore:
    """The result of one harmless patch on one kernel after ``runs`` runs. ``reason`` is why the
    result is inconclusive or not applicable."""

    name: str
    kernel: str
    result: HarmlessResult = "quiet"
    runs: int = 0
    alarms: tuple[Alarm, ...] = ()
    summary: str = ""
    reason: str = ""

    def record(self) -> dict[str, Any]:
        """Convert the score to its JSON record."""
        return asdict(self)


def scores(
    patches: Sequence[Mutant], request: RunRequest, runs: int, into: Path
) -> Iterator[HarmlessScore]:
    """Run the scenarios ``runs`` times with each patch, on the request's only kernel, and yield
    the score of each patch."""
    release = planted.release(request)
    (spec,) = request.kernels
    for number, patch in enumerate(patches, start=1):
        directory = into / f"{number:03}-{rundir.file_name(patch.name)}"
        directory.mkdir()
        blank = HarmlessScore(patch.name, f"{spec.kind}:{spec.where}", summary=patch.summary)
        if reason := planted.inapplicable(patch, request, release):
            yield replace(blank, result="not-applicable", reason=reason)
        else:
            yield _score(replace(blank, runs=runs), patch, request, directory)


def _score(
    blank: HarmlessScore, patch: Mutant, request: RunRequest, directory: Path
) -> HarmlessScore:
    try:
        # Determine the profile from the patched source: if a harmless patch hides a sign, that is
        # a false alarm too.
        own = replace(request, resolved=None)
        with planted.planted(patch, own, directory) as with_patch:
            outcomes = [
                outcome
                for number in range(1, blank.runs + 1)
                for outcome in run.run(with_patch, directory, number=number, title=patch.name)
            ]
    except PatchMismatch as error:
        return replace(blank, result="not-applicable", reason=error.message)
    except HarnessError as error:
        return replace(blank, result="inconclusive", reason=str(error))
    return _with_alarms(blank, outcomes)


def _with_alarms(blank: HarmlessScore, outcomes: Sequence[ScenarioOutcome]) -> HarmlessScore:
    failed: dict[tuple[str, str], list[ScenarioOutcome]] = {}
    for each in outcomes:
        if each.result == ScenarioResult.FAILED:
            failed.setdefault((each.scenario, each.machine), []).append(each)
    alarms = tuple(Alarm(*key, len(found), found[0].reason) for key, found in failed.items())
    inconclusive = ScenarioResult.INCONCLUSIVE
    reasons = [each.reason for each in outcomes if each.result == inconclusive]
    result: HarmlessResult = "false-alarm" if alarms else "inconclusive" if reasons else "quiet"
    return replace(blank, result=result, alarms=alarms, reason="".join(reasons[:1]))
