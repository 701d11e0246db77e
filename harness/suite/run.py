# SPDX-License-Identifier: GPL-2.0-only
"""Runs the scenarios (tests/scenarios) with pytest, in processes of its own, and collects
what became of each.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeGuard

from harness.errors import HostError, ProgramFailed, UsageError, did_you_mean
from harness.host import paths, program, progress
from harness.kernel.spec import KernelSpec

# pytest's exit statuses: tests have failed; it was stopped, as at the first failure when
# xdist runs it; nothing was collected.
_TESTS_FAILED, _STOPPED, _NOTHING = 1, 2, 5

# "[gw0] [ 12%] PASSED test_pinning.py::...", and "2 workers [150 items]".
_ENDED = re.compile(r"(?:\[gw\d+\] )?.*\b(?:PASSED|FAILED|SKIPPED|XFAIL|XPASS|ERROR)\b")
_COUNT = re.compile(r"\[(\d+) items?\]|collected (\d+) items?")


@dataclass(frozen=True, slots=True)
class Request:
    """What to run: ``scenarios`` are names of files or pytest's ids within them (none:
    all); ``behaviours`` what a user says of the kernels; ``first_failure`` ends there, and
    ``run_first`` are scenarios, as outcomes name them, with parameters or without, that are run
    before all others. ``decoded``: splats get their places in the source, and failures are
    looked into, which for a kernel that is not kept is not worth its time. ``keep_failed`` keeps
    the guests of failed scenarios. ``resolved`` has the kernels as they have been built
    (suite.resolved)."""

    kernels: tuple[KernelSpec, ...]
    machines: tuple[str, ...]
    scenarios: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    qemu: str = ""
    workers: int = 0
    first_failure: bool = False
    run_first: tuple[str, ...] = ()
    decoded: bool = True
    keep_failed: bool = False
    resolved: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one scenario on one kernel and machine: ``result`` is passed, failed, known (a
    known issue), not-applicable, skipped, or inconclusive where this host is to blame;
    ``reason`` says why, in a line, and ``story`` all that pytest has to say of a failure;
    ``retried`` is what this host did to it when it was run the first time, and ``issue`` the
    known issue that it has run into; ``kept`` are the directories of its guests that were
    kept."""

    scenario: str
    kernel: str
    machine: str
    result: str
    reason: str
    seconds: float
    story: str
    round: int = 1
    retried: str = ""
    issue: str = ""
    kept: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What its file is about."""
        return self.scenario.partition("::")[0].removeprefix("test_").removesuffix(".py")


def directory() -> Path:
    """Where the scenarios are."""
    return paths.data("tests/scenarios")


def run(
    request: Request, into: Path, *, number: int = 1, title: str = "scenarios"
) -> list[Outcome]:
    """What became of each scenario; the kernels have been built. All that pytest says goes
    into the directory as it comes. Raises UsageError for scenarios that do not exist and
    HostError when pytest itself fails."""
    events = _events(into, number)
    log = into / f"pytest-{number}.log"
    argv = _arguments(request, events)
    with log.open("wb") as written, progress.phase("scenarios", title) as phase:
        phase.expect(0)  # any number of them: pytest tells

        def on_line(line: str) -> None:
            counted = _COUNT.search(line)
            if counted:
                phase.expect(int(counted[1] or counted[2]))
            elif _ENDED.match(line):
                phase.step()

        status = _status(argv, written, on_line)
    found = list(_outcomes(events, number))
    if status == _NOTHING or (not found and status == 0):
        raise UsageError(
            f"{' '.join(request.scenarios)} is about none of {', '.join(request.machines)}",
            "see iommu-harness run --list",
        )
    bad = any(each.result in ("failed", "inconclusive") for each in found)
    told = (_TESTS_FAILED, _STOPPED) if request.first_failure else (_TESTS_FAILED,)
    if status != 0 and not (bad and status in told):
        raise HostError(f"pytest ended with status {status}", f"its words are in {log}")
    return found


def _status(argv: Sequence[str], log: BinaryIO, on_line: Callable[[str], None]) -> int:
    try:
        program.run(argv, env=_environment(), log=log, on_line=on_line)
    except ProgramFailed as failure:
        return failure.status
    return 0


def _environment() -> dict[str, str]:
    """Ours, without what would change what pytest does."""
    return {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}


# A worker that is told to stop goes through what it has been handed: two at a time.
_FIRST_FAILURE = ["--maxfail=1", "--dist=load", "--maxschedchunk=1"]


def _arguments(request: Request, events: Path) -> list[str]:
    root = directory()
    # -P: Python does not look for modules in the directory that we happen to be in.
    argv = [sys.executable, "-P", "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    # Where it is installed it imports the whole library to sum up, in each process.
    argv += ["-p", "no:hypothesispytest"]
    # Nothing of the directory that we happen to be in, and none of this project's own tests.
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
    argv += [f"--iommu-qemu={request.qemu}"] if request.qemu else []
    argv += [f"--iommu-resolved={request.resolved}"] if request.resolved else []
    return [*argv, *map(str, chosen(request.scenarios))]


def chosen(scenarios: Sequence[str]) -> Iterator[Path | str]:
    """What pytest is told for the names that a user gives, or that an outcome has. Raises
    UsageError for a subject that does not exist."""
    root = directory()
    if not scenarios:
        yield root
    for text in scenarios:
        # With which parameters is not pytest's to know before it has looked.
        name, colons, rest = text.partition("[")[0].partition("::")
        file = root / (name if name.endswith(".py") else f"test_{name}.py")
        if not file.is_file():
            subjects = sorted(each.stem.removeprefix("test_") for each in root.glob("test_*.py"))
            raise UsageError(f"no scenarios about {name!r}", f"there are {', '.join(subjects)}")
        tests = [each.name for each in tests_of(file)]
        if rest and rest not in tests:
            hint = did_you_mean(rest, tests, f"see iommu-harness run --list {name}")
            raise UsageError(f"no scenario {rest!r} about {name}", hint)
        yield f"{file}{colons}{rest}"


@dataclass(frozen=True, slots=True)
class Test:
    """A scenario's ``name`` and its ``docstring``; ``summary`` is what that says in the
    first place."""

    name: str
    docstring: str

    @property
    def summary(self) -> str:
        return " ".join(self.docstring.partition("\n\n")[0].split())


def tests_of(file: Path) -> list[Test]:
    """The scenarios of a file."""
    functions = (each for each in ast.parse(file.read_text()).body if _is_test(each))
    return [Test(each.name, ast.get_docstring(each) or "") for each in functions]


def rule(scenario: str) -> str:
    """The first paragraph of the docstring of a scenario, named as outcomes name it; "" if
    there is no such scenario."""
    name, _, test = scenario.partition("[")[0].partition("::")
    file = directory() / name
    tests = tests_of(file) if file.is_file() else []
    return next((each.summary for each in tests if each.name == test), "")


def _is_test(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def outcomes(into: Path, numbers: Iterable[int]) -> list[Outcome]:
    """What became of the scenarios of the rounds of these numbers, as far as they have come."""
    return [each for number in numbers for each in _outcomes(_events(into, number), number)]


def _events(into: Path, number: int) -> Path:
    return into / f"scenarios-{number}.jsonl"


def _outcomes(events: Path, number: int) -> Iterator[Outcome]:
    text = events.read_text() if events.exists() else ""
    # Of a run that was ended the last line may be half of one.
    for line in text[: text.rfind("\n") + 1].splitlines():
        row = json.loads(line)
        yield Outcome(**row | {"kept": tuple(row.get("kept", ()))}, round=number)
