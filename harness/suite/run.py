# SPDX-License-Identifier: GPL-2.0-only
"""Run scenarios (tests/scenarios, or the user's) with pytest, and collect their outcomes."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import program, progress
from harness.host.progress import Phase
from harness.kernel.spec import KernelSpec
from harness.suite import scenarios
from harness.suite.scenario_result import ScenarioResult

# pytest's exit statuses: tests failed; it was stopped, as xdist does at the first failure; it
# collected no tests.
_TESTS_FAILED, _STOPPED, _NO_TESTS = 1, 2, 5


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run.

    ``kernels`` differ only in their source: they have the same patches, fragments and variants.
    ``scenarios`` are names or paths (``scenarios.select``; none: all). ``behaviours`` are the
    user's overrides, ``qemus`` as in --qemu, ``known_issues`` files of further known issues.
    ``first_failure`` ends the run at the first failure. ``run_first`` are scenarios to run before
    the others, named as in outcomes, with parameters or without. ``decoded``: show splats with
    their places in the source, and rerun failed tests, which is not worth the time for a kernel
    that is not kept.
    ``keep_failed`` keeps the guests of failed scenarios. Each scenario is run ``trials`` times.
    ``resolved`` is the file with the built kernels (suite.resolved)."""

    kernels: tuple[KernelSpec, ...]
    machines: tuple[str, ...]
    scenarios: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    qemus: tuple[str, ...] = ()
    workers: int = 0
    first_failure: bool = False
    run_first: tuple[str, ...] = ()
    decoded: bool = True
    keep_failed: bool = False
    resolved: Path | None = None
    known_issues: tuple[Path, ...] = ()
    trials: int = 1


@dataclass(frozen=True, slots=True)
class ScenarioOutcome:
    """The result of one scenario on one kernel and machine, with a one-line ``reason``. ``details``
    is pytest's report of a failure. ``retried`` is the host error that ended the scenario's first
    run. ``issue`` is the id of the known issue that the scenario ran into. ``kept`` are the
    directories of the saved guests."""

    scenario: str
    kernel: str
    machine: str
    result: ScenarioResult
    reason: str
    seconds: float
    details: str
    round: int = 1
    retried: str = ""
    issue: str = ""
    kept: tuple[str, ...] = ()
    file: str = ""

    @property
    def subject(self) -> str:
        """What its file is about."""
        return self.scenario.partition("::")[0].removeprefix("test_").removesuffix(".py")

    @property
    def selector(self) -> str:
        """What selects it in a request, wherever its file is."""
        return f"{Path(self.file).parent}/{self.scenario}" if self.file else self.scenario


def run(
    request: RunRequest, into: Path, *, number: int = 1, title: str = "scenarios"
) -> list[ScenarioOutcome]:
    """Run the scenarios once, as round ``number``, and return their outcomes. The kernels have
    been built. pytest's output is logged to the directory ``into``. Raises UsageError if the
    request selects no scenario, HostError if pytest itself fails."""
    events = _events(into, number)
    log = into / f"pytest-{number}.log"
    argv = _arguments(request, events)
    with log.open("wb") as output, progress.phase("scenarios", title) as phase:
        phase.expect(0)  # unknown until pytest has collected them
        status = _status(argv, output, _Follower(events, phase).update)
    found = list(_outcomes(events, number))
    if status == _NO_TESTS or (not found and status == 0):
        raise UsageError(
            f"{' '.join(request.scenarios)} does not apply to {', '.join(request.machines)}",
            "see iommu-harness run --list",
        )
    unfavourable = {ScenarioResult.FAILED, ScenarioResult.INCONCLUSIVE}
    is_unfavourable = any(each.result in unfavourable for each in found)
    explained = (_TESTS_FAILED, _STOPPED) if request.first_failure else (_TESTS_FAILED,)
    if status != 0 and not (is_unfavourable and status in explained):
        raise HostError(f"pytest ended with status {status}", f"see {log}")
    return found


class _Follower:
    """Reads the events of a running pytest, and advances the progress by them."""

    def __init__(self, events: Path, phase: Phase) -> None:
        self._events = events
        self._phase = phase
        self._offset = 0

    def update(self, _line: str) -> None:
        """Read the new events. Called for each line of pytest's output, which has a line for
        each test."""
        events, self._offset = _read(self._events, self._offset)
        for event in events:
            self._phase.expect(event["collected"])
            self._phase.step()


def _status(argv: Sequence[str], log: BinaryIO, on_line: Callable[[str], None]) -> int:
    try:
        program.run(argv, env=_environment(), log=log, on_line=on_line)
    except ProgramFailed as failure:
        return failure.status
    return 0


def _environment() -> dict[str, str]:
    """Our environment, without variables that configure pytest."""
    return {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}


# A worker that is stopped still runs the tests that it has been sent: two at a time.
_FIRST_FAILURE = ["--maxfail=1", "--dist=load", "--maxschedchunk=1"]


def _arguments(request: RunRequest, events: Path) -> list[str]:
    root = scenarios.directory()
    # -P: Python does not import modules from the current directory.
    argv = [sys.executable, "-P", "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    # If hypothesis is installed, its plugin imports the whole library in each process.
    argv += ["-p", "no:hypothesispytest"]
    # Use no configuration of the current directory, and none of this project's own tests.
    argv += ["-c", os.devnull, f"--rootdir={root}", f"--confcutdir={root}"]
    workers = request.workers or "auto"
    argv += [f"--iommu-events={events}", f"--numprocesses={workers}"]
    argv += _FIRST_FAILURE if request.first_failure else ["--dist=worksteal"]
    argv += [] if request.decoded else ["--iommu-plain-failures"]
    argv += ["--iommu-keep-failed"] if request.keep_failed else []
    argv += [f"--iommu-run-first={name}" for name in request.run_first]
    for spec in request.kernels:
        argv.append(f"--iommu-kernel={spec.kind}:{spec.where}")
    first = request.kernels[0]
    argv += [f"--iommu-patch={path.absolute()}" for path in first.patches]
    argv += [f"--iommu-fragment={path.absolute()}" for path in first.fragments]
    argv += [f"--iommu-variant={name}" for name in first.variants]
    argv += [f"--iommu-machine={name}" for name in request.machines]
    argv += [f"--iommu-behaviour={name}" for name in request.behaviours]
    argv += [f"--iommu-known-issues={path.absolute()}" for path in request.known_issues]
    argv += [f"--iommu-qemu={choice}" for choice in request.qemus]
    argv += [f"--iommu-scenario={name}" for name in scenarios.parametrized(request.scenarios)]
    argv += [f"--iommu-trials={request.trials}"]
    argv += [f"--iommu-resolved={request.resolved}"] if request.resolved else []
    return [*argv, *scenarios.select(request.scenarios)]


def outcomes(into: Path, numbers: Iterable[int]) -> list[ScenarioOutcome]:
    """The outcomes recorded so far in the rounds with these ``numbers``."""
    return [each for number in numbers for each in _outcomes(_events(into, number), number)]


def _events(into: Path, number: int) -> Path:
    return into / f"scenarios-{number}.jsonl"


def _outcomes(events: Path, number: int) -> Iterator[ScenarioOutcome]:
    for event in _read(events)[0]:
        del event["collected"]
        typed = {"result": ScenarioResult(event["result"]), "kept": tuple(event.get("kept", ()))}
        yield ScenarioOutcome(**event | typed, round=number)


def _read(file: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The events of a run from an offset in its file on, and the offset of the next event."""
    if not file.exists():
        return [], offset
    with file.open("rb") as events:
        events.seek(offset)
        data = events.read()
    # The last line is incomplete if the run was killed, or still writes it.
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], offset + len(whole)
