# SPDX-License-Identifier: GPL-2.0-only
"""What has been built and run, written down as it happens: a search that was killed does
again what it did, from the journal, up to where it was.
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
    """What came of building a revision: the digest of all of the kernel that a guest
    sees, its ``artifact``, or why there is none, the ``failure``."""

    revision: str
    artifact: str
    failure: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One fresh guest of a revision: whether it has ``shown`` what is looked for or stayed
    ``clean``; or did not boot, or could not be judged. ``splats`` say what the kernel
    reported, ``directory`` is where the evidence lies."""

    revision: str
    word: RunResult
    reason: str
    seconds: float
    splats: tuple[str, ...] = ()
    directory: str = ""


class Runner(Protocol):
    """Builds and runs revisions. Raises HarnessError where this host is in trouble: that
    says nothing of the revision."""

    def build(self, revision: str) -> Build: ...
    def run(self, revision: str, number: int) -> Run: ...
    def expect(self, revisions: Callable[[], Sequence[str]]) -> None:
        """These may be wanted next, in case anybody asks."""


class Journal:
    """The builds and runs of one search, in the order in which it asks for them; those
    that the file has already are not done again."""

    def __init__(self, path: Path, judge: Runner) -> None:
        _repair(path)
        self._judge = judge
        self._builds: dict[str, Build] = {}
        self._recorded: dict[str, list[Run]] = {}
        self._taken: dict[str, list[Run]] = {}
        for record in entries(path):
            self._read(record)
        self._file = JsonLines(path)

    def close(self) -> None:
        self._file.close()

    def build(self, revision: str) -> Build:
        """The revision's kernel, or why there is none."""
        if revision not in self._builds:
            built = _timed(lambda: self._judge.build(revision))
            self._file.add({"build": asdict(built)})
            self._builds[revision] = built
        self._taken.setdefault(revision, [])
        return self._builds[revision]

    def run(self, revision: str) -> Run:
        """One more run of a revision that has been built."""
        taken, recorded = self._taken[revision], self._recorded.get(revision, [])
        if len(taken) < len(recorded):
            taken.append(recorded[len(taken)])
            return taken[-1]
        number = len(taken) + 1
        run = _timed(lambda: self._judge.run(revision, number))
        self._file.add({"run": asdict(run)})
        self._recorded.setdefault(revision, []).append(run)
        taken.append(run)
        return run

    def expect(self, revisions: Callable[[], Sequence[str]], after: str) -> None:
        """These may be wanted next, after runs that are not recorded yet: those that are
        not built can be, meanwhile."""
        if not self._recorded.get(after):
            self._judge.expect(lambda: [rev for rev in revisions() if rev not in self._builds])

    def runs(self, revision: str) -> list[Run]:
        """Those that the search has asked for until now: of the revision, and of others
        whose kernel is the same to the last byte."""
        return [
            run for other, runs in self._taken.items() if self.same(revision, other) for run in runs
        ]

    def same(self, revision: str, other: str) -> bool:
        """Whether the kernels of both are the same."""
        if revision == other:
            return True
        artifacts = [
            self._builds[each].artifact for each in (revision, other) if each in self._builds
        ]
        return len(artifacts) == 2 and artifacts[0] == artifacts[1] != ""

    def own_runs(self, revision: str) -> list[Run]:
        return self._taken.get(revision, [])

    def tally(self, revision: str) -> Tally:
        words = [run.word for run in self.runs(revision)]
        return Tally(words.count("shown"), words.count("clean"))

    def total(self, revisions: list[str]) -> Tally:
        """Over those of the revisions that have been built, each kernel counted once."""
        total, seen = Tally(), set()
        for revision in (each for each in revisions if each in self._builds):
            artifact = self._builds[revision].artifact or revision
            if artifact not in seen:
                seen.add(artifact)
                total += self.tally(revision)
        return total

    def _read(self, record: dict[str, Any]) -> None:
        if "build" in record:
            built = Build(**record["build"])
            self._builds[built.revision] = built
            return
        run = Run(**record["run"] | {"splats": tuple(record["run"]["splats"])})
        if run.word == "inconclusive":
            return  # nothing is known from it, so a search that goes on tries again
        self._recorded.setdefault(run.revision, []).append(run)


T = TypeVar("T", Build, Run)


def _timed(work: Callable[[], T]) -> T:
    """What it returns, with the seconds that it took."""
    started = time.monotonic()
    done = work()
    return replace(done, seconds=round(time.monotonic() - started, 3))


def entries(path: Path) -> list[dict[str, Any]]:
    """What a journal's file has, but for a line that is being written."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _repair(path: Path) -> None:
    """A process that was killed may leave half a line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        path.write_bytes(whole)
