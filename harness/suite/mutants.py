# SPDX-License-Identifier: GPL-2.0-only
"""Kernels with one bug planted in each, to see whether the scenarios find it."""

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
)
from harness.guest import launch
from harness.host import cache, rundir
from harness.iommu import machine_file
from harness.kernel import build
from harness.kernel.spec import KernelSpec
from harness.suite import confirm, killers, planted, run
from harness.suite.confirm import Confirmation, Trials
from harness.suite.mutant import Mutant
from harness.suite.run import Outcome, Request

Result = Literal["killed", "survived", "not-applicable", "equivalent", "inconclusive"]

# How a mutant shows: by what the first failure says, the first that fits.
_WAYS = {
    "set-up": re.compile(r"the warm-up command .* fails"),
    "hang": re.compile(r"\bGuestHang\b|soft lockup|hung[_ ]task|blocked for more than"),
    "death": re.compile(r"\bGuest(Panic|Reset|Lost)\b"),
    "splat": re.compile(r"the kernel reports what is not expected"),
    "rule": re.compile(""),
}


@dataclass(frozen=True, slots=True)
class Catcher:
    """A scenario that has failed on a mutant: ``way`` is how, ``message`` what it says and
    ``names_the_bug`` whether that points at what was planted. ``confirmed``: None where it
    was not run again, because another had been; ``figures`` are of those runs."""

    scenario: str
    machine: str
    way: str
    message: str
    names_the_bug: bool
    confirmed: bool | None = None
    figures: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """Of one mutant on one kernel: what became of it, the ``way`` in which it shows, ``by``
    which scenarios, the confirmed one first, and what that says. ``reason`` is why it is not
    judged, or not applicable. ``way`` is set-up where no guest starts, and build where the
    kernel does not build."""

    name: str
    kernel: str
    result: Result = "survived"
    way: str = ""
    by: tuple[str, ...] = ()
    message: str = ""
    names_the_bug: bool | None = None
    catchers: tuple[Catcher, ...] = ()
    summary: str = ""
    reason: str = ""

    @property
    def caught(self) -> bool:
        return self.result == "killed"

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"caught": self.caught}


@dataclass(slots=True)
class _Base:
    """The kernel as it is, and the runs that scenarios have had there until now."""

    request: Request
    directory: Path
    trials: dict[tuple[str, str], Trials] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)


def scores(mutants: Sequence[Mutant], request: Request, into: Path) -> Iterator[Score]:
    """Each mutant in turn, on the request's only kernel, which has been built."""
    release = planted.release(request)
    base = _Base(request, into / "base")
    base.directory.mkdir()
    for number, mutant in enumerate(mutants, start=1):
        directory = into / f"{number:03}-{rundir.file_name(mutant.name)}"
        directory.mkdir()
        title = f"mutant {number} of {len(mutants)}, {mutant.name}"
        score = _score(mutant, base, release, directory, title)
        if score.by and score.caught:
            killers.remember(score.name, score.by)
        yield score


def _score(mutant: Mutant, base: _Base, release: str, directory: Path, title: str) -> Score:
    (spec,) = base.request.kernels
    blank = Score(mutant.name, f"{spec.kind}:{spec.where}", summary=mutant.summary)
    if reason := planted.elsewhere(mutant, base.request, release):
        return replace(blank, result="not-applicable", reason=reason)
    if mutant.equivalent:
        return replace(blank, result="equivalent", reason=mutant.equivalent)
    try:
        with planted.planted(mutant, base.request, directory) as request:
            ordered = replace(request, run_first=killers.likely(mutant))
            return _Trial(mutant, base, ordered, directory, title).score(blank)
    except PatchMismatch as error:
        return replace(blank, result="not-applicable", reason=error.message)
    except BuildError as error:
        return replace(blank, result="inconclusive", way="build", reason=str(error))
    except HarnessError as error:
        return replace(blank, result="inconclusive", reason=str(error))


@dataclass(slots=True)
class _Trial:
    """One mutant, built and judged."""

    mutant: Mutant
    base: _Base
    request: Request
    directory: Path
    title: str
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def score(self, blank: Score) -> Score:
        """Where what failed first is not confirmed all scenarios are run, and each that
        fails then is tried."""
        tried: dict[tuple[str, str], Catcher] = {}
        outcomes: list[Outcome] = []
        for only_first in dict.fromkeys((self.request.first_failure, False)):
            outcomes = self._run(replace(self.request, first_failure=only_first))
            failed = [each for each in outcomes if each.result == "failed"]
            if not any(each.result in ("passed", "known") for each in outcomes):
                for name in self.request.machines:
                    if found := self._start(name):
                        return _killed(blank, [found])
            for each in failed:
                key = (each.scenario, each.machine)
                if key not in tried:
                    tried[key] = self._tried(each)
                if tried[key].confirmed:
                    others = [self._catcher(other) for other in failed if other is not each]
                    return _killed(blank, [tried[key], *others])
            if not failed:
                break
        return _unkilled(blank, outcomes, [*tried.values()])

    def _run(self, request: Request) -> list[Outcome]:
        return run.run(request, self.directory, number=next(self.numbers), title=self.title)

    def _catcher(self, failure: Outcome) -> Catcher:
        way = next(name for name, pattern in _WAYS.items() if pattern.search(failure.reason))
        named = self.mutant.is_named_by(f"{failure.reason}\n{failure.story}")
        return Catcher(failure.scenario, failure.machine, way, failure.reason, named)

    def _tried(self, failure: Outcome) -> Catcher:
        """The scenario is run again, here and on the base."""

        def again(request: Request, directory: Path, numbers: Iterator[int]) -> bool | None:
            alone = replace(
                request,
                scenarios=(failure.scenario,),
                machines=(failure.machine,),
                run_first=(),
                workers=1,
            )
            title = f"{failure.scenario} again, {self.mutant.name}"
            found = run.run(alone, directory, number=next(numbers), title=title)
            results = {each.result for each in found if each.scenario == failure.scenario}
            return "failed" in results if results & {"failed", "passed", "known"} else None

        made = self._confirmed(
            (failure.scenario, failure.machine),
            lambda: again(self.request, self.directory, self.numbers),
            lambda: again(self.base.request, self.base.directory, self.base.numbers),
        )
        return replace(self._catcher(failure), confirmed=made.confirmed, figures=str(made))

    def _start(self, machine: str) -> Catcher | None:
        """That no guest starts on the machine, if that is so and the base's do."""
        message = _no_start(self.request.kernels[0], machine)
        if not message:
            return None
        made = self._confirmed(
            ("", machine),
            lambda: _fails_to_start(self.request.kernels[0], machine),
            lambda: _fails_to_start(self.base.request.kernels[0], machine),
        )
        named = self.mutant.is_named_by(message)
        catcher = Catcher("", machine, "set-up", message, named, made.confirmed, str(made))
        return catcher if made.confirmed else None

    def _confirmed(
        self, key: tuple[str, str], on_mutant: confirm.Trial, on_base: confirm.Trial
    ) -> Confirmation:
        known = self.base.trials
        made = confirm.confirmed(on_mutant, on_base, known.get(key, Trials()))
        known[key] = made.base
        return made


def _no_start(spec: KernelSpec, machine: str) -> str:
    """Why no guest of the kernel answers; "" where one does. Raises HostError for what is
    this host's trouble."""
    made = machine_file.machine(machine)
    kernel = build.build(spec.with_variants(made.variants))
    try:
        with cache.scratch() as scratch, launch.booted(kernel, made, scratch) as guest:
            guest.run(":")
    except QemuEnded as error:
        raise HostError(str(error)) from error
    except GuestError as error:
        return f"{type(error).__name__}: {error}\n{error.log}"
    return ""


def _fails_to_start(spec: KernelSpec, machine: str) -> bool | None:
    try:
        return bool(_no_start(spec, machine))
    except HostError:
        return None


def _killed(blank: Score, catchers: Sequence[Catcher]) -> Score:
    first = catchers[0]
    return replace(
        blank,
        result="killed",
        way=first.way,
        by=tuple(dict.fromkeys(each.scenario for each in catchers if each.scenario)),
        message=first.message,
        names_the_bug=first.names_the_bug,
        catchers=tuple(catchers),
    )


def _unkilled(blank: Score, outcomes: Sequence[Outcome], tried: Sequence[Catcher]) -> Score:
    """What failed and was not confirmed says nothing, neither for the mutant nor against."""
    lost = [each.reason for each in outcomes if each.result == "inconclusive"]
    if tried:
        figures = "; ".join(f"{each.scenario} {each.figures}" for each in tried)
        lost.insert(0, f"no failure is confirmed: {figures}")
    result: Result = "inconclusive" if lost else "survived"
    return replace(blank, result=result, catchers=tuple(tried), reason="".join(lost[:1]))
