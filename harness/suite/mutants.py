# SPDX-License-Identifier: GPL-2.0-only
"""Mutation-test the scenarios: build kernels with one planted bug each, and see which scenarios
kill them."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import (
    BuildError,
    GuestError,
    HarnessError,
    HostError,
    PatchMismatch,
    QemuEnded,
    UsageError,
)
from harness.guest import launch
from harness.host import cache, rundir
from harness.iommu import machine_file
from harness.kernel import build
from harness.kernel.spec import KernelSpec
from harness.suite import confirm, killer_table, planted, run
from harness.suite.confirm import Confirmation, Trials
from harness.suite.mutant import Mutant
from harness.suite.run import RunRequest, ScenarioOutcome
from harness.suite.scenario_result import RAN, ScenarioResult

MutantResult = Literal["killed", "survived", "not-applicable", "equivalent", "inconclusive"]

# The kinds of failures. The first pattern that matches the reason for a failure determines its
# kind.
_KINDS = {
    "set-up": re.compile(r"the warm-up command .* fails"),
    "hang": re.compile(r"\bGuestHang\b|soft lockup|hung[_ ]task|blocked for more than"),
    "death": re.compile(r"\bGuest(Panic|Reset|Lost)\b"),
    "splat": re.compile(r"unexpected splats?:"),
    "rule": re.compile(""),
}


@dataclass(frozen=True, slots=True)
class Killer:
    """A scenario that failed on a mutant: the ``kind`` of failure, its ``message``, and whether
    that names the planted bug. ``confirmed`` is None if it was not run again, because another
    scenario had been confirmed; ``figures`` count the runs that confirmed it."""

    scenario: str
    machine: str
    kind: str
    message: str
    names_the_bug: bool
    confirmed: bool | None = None
    figures: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """The result of one mutant on one kernel. If it is killed: the ``kind`` of failure, the
    scenarios that killed it (``by``, the confirmed one first), and the ``message`` of the first;
    else the ``reason``. The kind is set-up if no guest starts, and build if the kernel does not
    build."""

    name: str
    kernel: str
    result: MutantResult = "survived"
    kind: str = ""
    by: tuple[str, ...] = ()
    message: str = ""
    names_the_bug: bool | None = None
    killers: tuple[Killer, ...] = ()
    summary: str = ""
    reason: str = ""

    @property
    def caught(self) -> bool:
        return self.result == "killed"

    def record(self) -> dict[str, Any]:
        """The score for JSON."""
        return asdict(self) | {"caught": self.caught}


@dataclass(slots=True)
class _Base:
    """The kernel without a mutant, and the runs of each scenario on it so far."""

    request: RunRequest
    directory: Path
    trials: dict[tuple[str, str], Trials] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)


def scores(mutants: Sequence[Mutant], request: RunRequest, into: Path) -> Iterator[Score]:
    """Judge each mutant in turn, on the request's only kernel, which has been built."""
    release = planted.release(request)
    base = _Base(request, into / "base")
    base.directory.mkdir()
    for number, mutant in enumerate(mutants, start=1):
        directory = into / f"{number:03}-{rundir.file_name(mutant.name)}"
        directory.mkdir()
        title = f"mutant {number} of {len(mutants)}, {mutant.name}"
        score = _score(mutant, base, release, directory, title)
        if score.by and score.caught:
            killer_table.remember(score.name, score.by)
        yield score


def _score(mutant: Mutant, base: _Base, release: str, directory: Path, title: str) -> Score:
    (spec,) = base.request.kernels
    blank = Score(mutant.name, f"{spec.kind}:{spec.where}", summary=mutant.summary)
    if reason := planted.inapplicable(mutant, base.request, release):
        return replace(blank, result="not-applicable", reason=reason)
    if mutant.equivalent:
        return replace(blank, result="equivalent", reason=mutant.equivalent)
    try:
        with planted.planted(mutant, base.request, directory) as request:
            ordered = replace(request, run_first=killer_table.likely(mutant))
            return _PlantedMutant(mutant, base, ordered, directory, title).score(blank)
    except PatchMismatch as error:
        return replace(blank, result="not-applicable", reason=error.message)
    except BuildError as error:
        return replace(blank, result="inconclusive", kind="build", reason=str(error))
    except HarnessError as error:
        return replace(blank, result="inconclusive", reason=str(error))


@dataclass(slots=True)
class _PlantedMutant:
    """A mutant whose kernel is built."""

    mutant: Mutant
    base: _Base
    request: RunRequest
    directory: Path
    title: str
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def score(self, blank: Score) -> Score:
        """Run scenarios until one fails, and confirm that. If it is not confirmed, run all
        scenarios, and confirm each that fails."""
        tried: dict[tuple[str, str], Killer] = {}
        outcomes: list[ScenarioOutcome] = []
        for request in self._stages():
            is_whole = request.scenarios == self.request.scenarios
            try:
                outcomes = self._run(request)
            except UsageError:
                if is_whole:
                    raise
                continue  # past killers that do not apply to the machines
            failed = [each for each in outcomes if each.result == ScenarioResult.FAILED]
            if is_whole and not any(each.result in RAN for each in outcomes):
                for name in self.request.machines:
                    if found := self._start(name):
                        return _killed(blank, [found])
            for each in failed:
                key = (each.scenario, each.machine)
                if key not in tried:
                    tried[key] = self._confirm(each)
                if tried[key].confirmed:
                    others = [self._killer(other) for other in failed if other is not each]
                    return _killed(blank, [tried[key], *others])
            if is_whole and not failed:
                break
        return _not_killed(blank, outcomes, [*tried.values()])

    def _stages(self) -> Iterator[RunRequest]:
        """Yield the request of each run: the scenarios that have killed the mutant before, because
        they take little time; all scenarios up to the first failure; all scenarios. Without
        ``first_failure``, yield only the last."""
        if self.request.first_failure:
            known = killer_table.known(self.mutant)
            if known and not self.request.scenarios:
                yield replace(self.request, scenarios=known, run_first=())
            yield self.request
        yield replace(self.request, first_failure=False)

    def _run(self, request: RunRequest) -> list[ScenarioOutcome]:
        return run.run(request, self.directory, number=next(self.numbers), title=self.title)

    def _killer(self, failure: ScenarioOutcome) -> Killer:
        kind = next(name for name, pattern in _KINDS.items() if pattern.search(failure.reason))
        named = self.mutant.is_named_by(f"{failure.reason}\n{failure.details}")
        return Killer(failure.scenario, failure.machine, kind, failure.reason, named)

    def _confirm(self, failure: ScenarioOutcome) -> Killer:
        """Run the scenario again, on the mutant and on the base."""

        def fails(
            count: int, request: RunRequest, directory: Path, numbers: Iterator[int]
        ) -> list[bool | None]:
            alone = replace(
                request,
                scenarios=(failure.selector,),
                machines=(failure.machine,),
                run_first=(),
                first_failure=False,
                trials=count,
            )
            title = f"{failure.scenario} again, {self.mutant.name}"
            found = run.run(alone, directory, number=next(numbers), title=title)
            results = [each.result for each in found if each.scenario == failure.scenario]
            return [*map(_is_failed, results), *[None] * (count - len(results))]

        confirmation = self._confirmed(
            (failure.scenario, failure.machine),
            lambda count: fails(count, self.request, self.directory, self.numbers),
            lambda count: fails(count, self.base.request, self.base.directory, self.base.numbers),
        )
        killer = self._killer(failure)
        return replace(killer, confirmed=confirmation.confirmed, figures=str(confirmation))

    def _start(self, machine: str) -> Killer | None:
        """A killer if no guest of the mutant starts on the machine but guests of the base do,
        otherwise None."""
        message = _start_error(self.request.kernels[0], machine)
        if not message:
            return None
        confirmation = self._confirmed(
            ("", machine),
            lambda count: [*_fails_to_start(self.request.kernels[0], machine, count)],
            lambda count: [*_fails_to_start(self.base.request.kernels[0], machine, count)],
        )
        if not confirmation.confirmed:
            return None
        named = self.mutant.is_named_by(message)
        return Killer("", machine, "set-up", message, named, True, str(confirmation))

    def _confirmed(
        self, key: tuple[str, str], on_mutant: confirm.Trial, on_base: confirm.Trial
    ) -> Confirmation:
        known = self.base.trials
        confirmation = confirm.confirmed(on_mutant, on_base, known.get(key, Trials()))
        known[key] = confirmation.base
        return confirmation


def _start_error(spec: KernelSpec, machine_name: str) -> str:
    """Why no guest of the kernel answers, "" if one does. Raises HostError for an error on this
    host."""
    machine = machine_file.machine(machine_name)
    kernel = build.build(spec.with_variants(machine.variants))
    try:
        with cache.scratch() as scratch, launch.booted(kernel, machine, scratch) as guest:
            guest.run(":")
    except QemuEnded as error:
        raise HostError(str(error)) from error
    except GuestError as error:
        return f"{type(error).__name__}: {error}\n{error.log}"
    return ""


def _is_failed(result: ScenarioResult) -> bool | None:
    """Whether the scenario failed; None if it did not run to its end."""
    is_failed = result == ScenarioResult.FAILED
    return is_failed if is_failed or result in RAN else None


def _fails_to_start(spec: KernelSpec, machine_name: str, count: int) -> Iterator[bool | None]:
    for _ in range(count):
        try:
            yield bool(_start_error(spec, machine_name))
        except HostError:
            yield None


def _killed(blank: Score, killers: Sequence[Killer]) -> Score:
    first = killers[0]
    return replace(
        blank,
        result="killed",
        kind=first.kind,
        by=tuple(dict.fromkeys(each.scenario for each in killers if each.scenario)),
        message=first.message,
        names_the_bug=first.names_the_bug,
        killers=tuple(killers),
    )


def _not_killed(
    blank: Score, outcomes: Sequence[ScenarioOutcome], tried: Sequence[Killer]
) -> Score:
    """The mutant survived, unless scenarios were inconclusive or a failure was not confirmed."""
    inconclusive = ScenarioResult.INCONCLUSIVE
    reasons = [each.reason for each in outcomes if each.result == inconclusive]
    if tried:
        figures = "; ".join(f"{each.scenario} {each.figures}" for each in tried)
        reasons.insert(0, f"no failure is confirmed: {figures}")
    result: MutantResult = "inconclusive" if reasons else "survived"
    return replace(blank, result=result, killers=tuple(tried), reason="".join(reasons[:1]))
