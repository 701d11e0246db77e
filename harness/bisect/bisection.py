# SPDX-License-Identifier: GPL-2.0-only
"""A bisection, from its request to its result. All its files are in one directory, from which
it can be resumed after an interruption.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.bisect import gitbisect, journal, predicate, space
from harness.bisect.classify import Parameters
from harness.bisect.gitbisect import Terms
from harness.bisect.guest_runner import GuestRunner
from harness.bisect.history import WITHOUT, History
from harness.bisect.inputs import Inputs
from harness.bisect.journal import Journal
from harness.bisect.predicate import Predicate
from harness.bisect.search import Conclusion, Search, Step
from harness.bisect.space import SearchSpace
from harness.bisect.symptom import Symptom
from harness.errors import HostError, UsageError
from harness.host import git
from harness.kernel import git_source
from harness.klog.splat import Splat

_REQUEST, _JOURNAL, _REPLAYED = "request.json", "journal.jsonl", "replayed.log"


@dataclass(frozen=True, slots=True)
class BisectRequest:
    """A request to bisect: the search space, the symptom and the confidence to reach.

    ``max_runs``: the maximum number of runs of each revision.
    ``either_way``: whether the symptom may also disappear with the change.
    """

    space: SearchSpace
    predicate: Predicate
    terms: Terms = field(default_factory=Terms)
    confidence: float = 0.99
    max_runs: int = 500
    either_way: bool = False


@dataclass(frozen=True, slots=True)
class Bisection:
    """A request with its history and symptom. All its files are in ``directory``."""

    request: BisectRequest
    history: History
    symptom: Symptom
    directory: Path


def start(request: BisectRequest, directory: Path) -> Bisection:
    """Set up a new bisection in the directory, and return it.

    Resolves revisions to hashes and copies files, so that later changes to branches and files
    have no effect. Raises UsageError if the request is invalid.
    """
    inputs = Inputs(directory / "inputs")
    inputs.directory.mkdir()
    resolved = replace(
        request,
        space=space.resolved(request.space, inputs),
        predicate=predicate.resolved(request.predicate, inputs),
    )
    bisection = _bisection(resolved, directory)
    (directory / _REQUEST).write_text(json.dumps(asdict(resolved), indent=1) + "\n")
    return bisection


def load(directory: Path) -> Bisection:
    """Load the bisection that was started in the directory. Raises UsageError if there is no
    bisection in the directory, or if it cannot be read."""
    try:
        record = json.loads((directory / _REQUEST).read_text())
        request = BisectRequest(
            SearchSpace(**_with_tuples(record["space"])),
            Predicate(**_with_tuples(record["predicate"])),
            Terms(**record["terms"]),
            float(record["confidence"]),
            int(record["max_runs"]),
            bool(record["either_way"]),
        )
    except FileNotFoundError:
        raise UsageError(
            f"there is no bisection in {directory}", "use the run directory that bisect printed"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot read {directory / _REQUEST}: {error.strerror}",
            "use the run directory that bisect printed",
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        message = f"cannot read the bisection in {directory}: {reason}"
        raise UsageError(message, "start a new bisection") from None
    return _bisection(request, directory)


def _with_tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }


def _bisection(request: BisectRequest, directory: Path) -> Bisection:
    symptom = predicate.symptom_of(request.predicate)
    return Bisection(request, space.history_of(request.space, directory), symptom, directory)


def search(
    bisection: Bisection, on_step: Callable[[Step], None], replayed: Path | None = None
) -> Conclusion:
    """Run the search to the end and return its conclusion.

    A search that was interrupted continues from its journal. The verdicts in ``replayed``, a bisect
    log, override recorded runs, now and whenever the search is resumed. Raises UsageError if the
    log is invalid, HostError if another process is searching in the directory, and the errors of
    ``Search.find``.
    """
    with _locked(bisection.directory):
        (bisection.directory / "result.json").unlink(missing_ok=True)
        if replayed:
            _keep_replayed(bisection, replayed)
        runner = GuestRunner(bisection.history, bisection.symptom, bisection.directory / "runs")
        book = Journal(bisection.directory / _JOURNAL, runner)
        request = bisection.request
        parameters = Parameters(
            bisection.history.endpoints,
            request.terms,
            request.confidence,
            bisection.symptom.exact,
            request.either_way,
            request.max_runs,
        )
        overrides = _overrides(bisection.directory / _REPLAYED, request.terms)
        try:
            searching = Search(bisection.history.repository, parameters, book, on_step, overrides)
            found = searching.find(lambda first_bad: _without(bisection.history, first_bad))
            return replace(found, splats=_splats(found, book, runner))
        finally:
            book.close()
            runner.close()


def _splats(found: Conclusion, book: Journal, runner: GuestRunner) -> tuple[Splat, ...]:
    """The splats from the first run with the symptom: a run of the first bad commit, or of a parent
    if the symptom disappears with that commit."""
    affected = (found.first_bad,) if found.appears else found.parents
    shown = [run for each in affected for run in book.own_runs(each) if run.result == "shown"]
    return runner.splats(shown[0]) if shown else ()


def _without(history: History, first_bad: str) -> str:
    return f"{WITHOUT}{first_bad}" if history.without(first_bad) else ""


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    holder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(
            f"another bisection is running in {directory}", "wait until it has finished"
        ) from None
    else:
        yield
    finally:
        os.close(holder)


def _keep_replayed(bisection: Bisection, log: Path) -> None:
    """Copy the log into the directory. Raises UsageError if the log cannot be read, is not a bisect
    log, or contains an unknown revision."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {log}: {error.strerror}") from None
    verdicts = _verdicts(text, bisection.request.terms)
    if not verdicts:
        raise UsageError(
            f"{log} is not a bisect log: it has no verdicts",
            "use the output of iommu-harness bisect log",
        )
    for revision in verdicts:
        git_source.commit_of(bisection.history.repository, revision)
    part = bisection.directory / f"{_REPLAYED}.part"
    part.write_text(text)
    part.rename(bisection.directory / _REPLAYED)


def _overrides(path: Path, terms: Terms) -> dict[str, str]:
    return _verdicts(path.read_text(), terms) if path.exists() else {}


_VERDICT = re.compile(r"^git bisect (\S+) '?([0-9a-f]{40,64})'?$", re.MULTILINE)


def _verdicts(text: str, terms: Terms) -> dict[str, str]:
    words = {terms.old: "old", terms.new: "new", "skip": "skip"}
    return {rev: words[word] for word, rev in _VERDICT.findall(text) if word in words}


def log(directory: Path) -> str:
    """The output of ``git bisect log`` so far. Raises UsageError if the bisection has no log."""
    load(directory)
    repository = gitbisect.repository_in(directory)
    if repository is None:
        raise UsageError(
            f"the bisection in {directory} has no log yet",
            f"continue it with iommu-harness bisect resume {directory}",
        )
    return git.run(repository, "bisect", "log")


def progress(bisection: Bisection) -> dict[str, Any]:
    """The JSON object of ``bisect status``: the numbers of builds and runs so far, the last
    run, and the result, which is None until the search has finished."""
    entries = journal.entries(bisection.directory / _JOURNAL)
    runs = [each["run"] for each in entries if "run" in each]
    result = bisection.directory / "result.json"
    return {
        "builds": sum("build" in each for each in entries),
        "runs": len(runs),
        "last": runs[-1] if runs else None,
        "result": json.loads(result.read_text()) if result.exists() else None,
    }
