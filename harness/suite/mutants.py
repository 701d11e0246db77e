# SPDX-License-Identifier: GPL-2.0-only
"""Kernels with one bug planted in each, to see whether the scenarios find it."""

import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HarnessError, HostError, PatchMismatch, UsageError
from harness.guest import snapshot
from harness.host import cache, history, paths, rundir
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.machine import composed
from harness.scenario.version import Versions
from harness.suite import run
from harness.suite.run import Outcome, Request


@dataclass(frozen=True, slots=True)
class Mutant:
    """A patch that plants a bug; ``summary`` is what it says of itself."""

    name: str
    patch: Path

    @property
    def summary(self) -> str:
        return " ".join(self._head.partition("\n\n")[0].split())

    @property
    def since(self) -> Versions:
        """The kernels in which it is a bug: a line "Since: 6.15" says so, where the patch
        applies to others too."""
        match = re.search(r"^Since: ([\d.]+)$", self._head, re.MULTILINE)
        return Versions((match[1] if match else "0.0",))

    def machines(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the machines on which it is a bug: a line "Machines: virtio-iommu*" says
        so, where the code is common to others."""
        match = re.search(r"^Machines: (\S+)$", self._head, re.MULTILINE)
        pattern = match[1] if match else "*"
        return tuple(name for name in names if fnmatch.fnmatchcase(name, pattern))

    @property
    def _head(self) -> str:
        return self.patch.read_text(errors="replace").partition("\n---\n")[0]


@dataclass(frozen=True, slots=True)
class Score:
    """Of one mutant on one kernel: whether it was ``caught``, ``by`` which scenarios, and
    what the first of them says. ``problem`` is why it could not be judged: its patch is
    for another kernel (``foreign``), or does not build."""

    name: str
    kernel: str
    caught: bool
    by: tuple[str, ...] = ()
    message: str = ""
    summary: str = ""
    problem: str = ""
    foreign: bool = False

    @property
    def judged(self) -> bool:
        return not self.problem


def read(directory: Path | None) -> list[Mutant]:
    """The mutants of a directory, or ours. Raises UsageError for one without any."""
    where = directory or paths.data("tests/mutants")
    patches = sorted([*where.glob("*.patch"), *where.glob("*.diff")])
    if not patches:
        raise UsageError(f"{where} has no mutants", "name a directory with .patch files")
    twice = {each.stem for each in patches if each.with_suffix(".diff") in patches} & {
        each.stem for each in patches if each.suffix == ".patch"
    }
    if twice:
        raise UsageError(f"{where} has two mutants called {min(twice)!r}", "rename one")
    return [Mutant(each.name.removesuffix(each.suffix), each) for each in patches]


def healthy(request: Request, into: Path) -> None:
    """Raises HostError when scenarios fail on the kernel as it is: then a failure with a
    mutant says nothing."""
    into.mkdir()
    failed = [
        each.scenario
        for each in run.run(request, into, title=f"scenarios on {request.kernels[0]}")
        if each.result in ("failed", "inconclusive")
    ]
    if failed:
        raise HostError(
            f"{len(failed)} scenarios fail on {request.kernels[0]} as it is, {failed[0]} first",
            f"mend that before planting bugs; the log is in {into}",
        )


def scores(mutants: Sequence[Mutant], request: Request, into: Path) -> Iterator[Score]:
    """Each mutant in turn, on the request's only kernel, which has been built. What a
    mutant's kernel and guests take in the cache is given back."""
    (base,) = request.kernels
    machine = composed.machine(request.machines[0])
    release = build.build(base.with_variants(machine.variants)).release
    for number, mutant in enumerate(mutants, start=1):
        directory = into / f"{number:03}-{rundir.word(mutant.name)}"
        directory.mkdir()
        spec = replace(base, patches=(*base.patches, mutant.patch))
        title = f"mutant {number} of {len(mutants)}, {mutant.name}"
        machines = mutant.machines(request.machines)
        likely = _likely(mutant)
        mutated = replace(request, kernels=(spec,), machines=machines, likely=likely)
        score = _score(mutant, mutated, release, directory, title)
        _remember(score)
        yield score


def _likely(mutant: Mutant) -> tuple[str, ...]:
    """The scenarios that have caught this mutant on this host, those that are about what it
    changes, and those that have caught most others."""
    table = history.read(_CATCHERS)
    caught = {each: names for each, names in table.items() if isinstance(names, list)}
    times = Counter(scenario for names in caught.values() for scenario in names)
    often = [scenario for scenario, _ in times.most_common()]
    related = _related(mutant.patch.read_text(errors="replace"))
    return tuple(dict.fromkeys([*caught.get(mutant.name, []), *related, *often]))


# Names of functions and the like, in C and in prose.
_NAME = re.compile(r"\b_*[a-z]\w*_\w+")
_PATCHED = re.compile(r"^\+\+\+ b/(\S+)", re.MULTILINE)


def _related(patch: str) -> list[str]:
    """The scenarios that name what is in the patch, or whose subject is a directory of what
    it patches: in front those that share with it what few of them have."""
    words = {*_NAME.findall(patch)}.union(*(path.split("/") for path in _PATCHED.findall(patch)))
    shared = {name: about & words for name, about in _words().items() if about & words}
    times = Counter(word for common in shared.values() for word in common)
    return sorted(shared, key=lambda name: min(times[word] for word in shared[name]))


@functools.cache
def _words() -> dict[str, frozenset[str]]:
    """By the scenario, its subject and what its docstring names."""
    return {
        f"{file.name}::{test.name}": frozenset(
            [file.stem.removeprefix("test_"), *_NAME.findall(test.docstring)]
        )
        for file in sorted(run.directory().glob("test_*.py"))
        for test in run.tests_of(file)
    }


def _remember(score: Score) -> None:
    if score.caught:
        history.add(_CATCHERS, score.name, score.by)


# By the mutant's name, the scenarios that have caught it.
_CATCHERS = "catchers"


def _score(mutant: Mutant, request: Request, release: str, directory: Path, title: str) -> Score:
    (spec,) = request.kernels
    blank = Score(mutant.name, f"{spec.kind}:{spec.where}", caught=False, summary=mutant.summary)
    if not mutant.since.include(release):
        told = f"it is a bug since {mutant.since.marks[0]}"
        return replace(blank, problem=told, foreign=True)
    if not request.machines:
        return replace(blank, problem="it is a bug of other machines", foreign=True)
    built: list[Kernel] = []
    try:
        variants = [composed.machine(name).variants for name in request.machines]
        built.extend(build.build(spec.with_variants(each)) for each in variants)
        outcomes = run.run(request, directory, title=title)
    except PatchMismatch as error:
        return replace(blank, problem=error.message, foreign=True)
    except HarnessError as error:
        return replace(blank, problem=str(error))
    finally:
        for kernel in {each.key: each for each in built}.values():
            snapshot.forget(kernel)
            cache.release(kernel.directory)
    return _judged(blank, outcomes)


def _judged(blank: Score, outcomes: Sequence[Outcome]) -> Score:
    failed = [each for each in outcomes if each.result == "failed"]
    if failed:
        by = tuple(each.scenario for each in failed)
        return replace(blank, caught=True, by=by, message=failed[0].reason)
    inconclusive = [each for each in outcomes if each.result == "inconclusive"]
    return replace(blank, problem=inconclusive[0].reason if inconclusive else "")
