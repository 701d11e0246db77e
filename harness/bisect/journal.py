# SPDX-License-Identifier: GPL-2.0-only
"""The journal of a search: each build and each run, recorded as it ends. A search that was
killed is resumed by replaying its journal.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from harness.bisect.confidence import Tally
from harness.host.rundir import JsonLines

RunResult = Literal["shown", "clean", "no-boot", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Build:
    """The build of a revision.

    ``artifact``: a digest of the kernel's files that a guest reads, "" if the build failed.
    ``failure``: why the build failed, "" if it succeeded.
    """

    revision: str
    artifact: str
    failure: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """The run of a revision in a fresh guest.

    ``result``: "shown" if the guest shows the symptom, "clean" if it does not.
    ``splats``: the names of the kernel's splats.
    ``directory``: has the evidence.
    """

    revision: str
    result: RunResult
    reason: str
    seconds: float
    splats: tuple[str, ...] = ()
    directory: str = ""


class Runner(Protocol):
    """Builds and runs revisions. The methods raise HarnessError for a failure of this host,
    which is not evidence about the revision."""

    def build(self, revision: str) -> Build: ...
    def run(self, revision: str, number: int) -> Run: ...
    def prefetch(self, revisions: Callable[[], Sequence[str]]) -> None:
        """Build the revisions in the background if the host has enough CPUs, because the search
        may request them next."""


class Journal:
    """The builds and runs of one search, in the order in which the search requests them. A build or
    run that is recorded in the file is returned; any other is carried out and recorded."""

    def __init__(self, path: Path, runner: Runner) -> None:
        _drop_partial_line(path)
        self._runner = runner
        self._builds: dict[str, Build] = {}
        self._recorded: dict[str, list[Run]] = {}
        self._requested: dict[str, list[Run]] = {}
        for record in entries(path):
            self._read(record)
        self._file = JsonLines(path)

    def close(self) -> None:
        self._file.close()

    def build(self, revision: str) -> Build:
        """Build the revision, or return its recorded build."""
        if revision not in self._builds:
            build = _timed(lambda: self._runner.build(revision))
            self._file.add({"build": asdict(build)})
            self._builds[revision] = build
        self._requested.setdefault(revision, [])
        return self._builds[revision]

    def run(self, revision: str) -> Run:
        """Run a revision once more, after it has been built, or return the next recorded
        run."""
        requested, recorded = self._requested[revision], self._recorded.get(revision, [])
        if len(requested) < len(recorded):
            requested.append(recorded[len(requested)])
            return requested[-1]
        number = len(requested) + 1
        run = _timed(lambda: self._runner.run(revision, number))
        self._file.add({"run": asdict(run)})
        self._recorded.setdefault(revision, []).append(run)
        requested.append(run)
        return run

    def prefetch(self, revisions: Callable[[], Sequence[str]], during: str) -> None:
        """Build the revisions in the background while ``during`` is run. Does nothing if runs
        of ``during`` are recorded."""
        if not self._recorded.get(during):
            self._runner.prefetch(lambda: [rev for rev in revisions() if rev not in self._builds])

    def runs(self, revision: str) -> list[Run]:
        """The runs requested so far of the revision, and of revisions with an identical
        kernel."""
        return [
            run
            for other, runs in self._requested.items()
            if self.is_identical(revision, other)
            for run in runs
        ]

    def is_identical(self, revision: str, other: str) -> bool:
        """Whether a guest reads identical files of the kernels of both revisions."""
        if revision == other:
            return True
        artifacts = [
            self._builds[each].artifact for each in (revision, other) if each in self._builds
        ]
        return len(artifacts) == 2 and artifacts[0] == artifacts[1] != ""

    def own_runs(self, revision: str) -> list[Run]:
        """The runs requested so far of the revision, without revisions with an identical
        kernel."""
        return self._requested.get(revision, [])

    def tally(self, revision: str) -> Tally:
        """The tally of ``runs``."""
        results = [run.result for run in self.runs(revision)]
        return Tally(results.count("shown"), results.count("clean"))

    def total(self, revisions: list[str]) -> Tally:
        """The tally of the revisions together. Revisions that have not been built are ignored, and
        identical kernels count once."""
        total, counted = Tally(), set()
        for revision in (each for each in revisions if each in self._builds):
            artifact = self._builds[revision].artifact or revision
            if artifact not in counted:
                counted.add(artifact)
                total += self.tally(revision)
        return total

    def _read(self, record: dict[str, Any]) -> None:
        if "build" in record:
            build = Build(**record["build"])
            self._builds[build.revision] = build
            return
        run = Run(**record["run"] | {"splats": tuple(record["run"]["splats"])})
        if run.result == "inconclusive":
            return  # a resumed search tries again
        self._recorded.setdefault(run.revision, []).append(run)


T = TypeVar("T", Build, Run)


def _timed(work: Callable[[], T]) -> T:
    """Do ``work``, and return its result with the seconds that it took."""
    started = time.monotonic()
    done = work()
    return replace(done, seconds=round(time.monotonic() - started, 3))


def entries(path: Path) -> list[dict[str, Any]]:
    """Read the records of a journal, ignoring an incomplete last line."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _drop_partial_line(path: Path) -> None:
    """Truncate the file after its last newline, because a process that was killed may leave an
    incomplete line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
