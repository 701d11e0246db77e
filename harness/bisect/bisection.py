# SPDX-License-Identifier: GPL-2.0-only
"""A search from its request to its result, in a directory from which it can go on after
whatever stopped it.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.bisect import checks, history, journal, symptom
from harness.bisect.checks import Check
from harness.bisect.classify import Parameters
from harness.bisect.gitbisect import Endpoints, Terms
from harness.bisect.history import WITHOUT, History
from harness.bisect.journal import Journal
from harness.bisect.runner import GuestRunner
from harness.bisect.search import Conclusion, Search, Step
from harness.bisect.symptom import Symptom
from harness.errors import HostError, UsageError, did_you_mean
from harness.host import git, paths
from harness.iommu import behaviour, known_issues, machine_file
from harness.kernel import git_source, spec
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec
from harness.klog.splat import Splat
from harness.suite import run

_REQUEST, _LEDGER, _GIVEN = "request.json", "journal.jsonl", "given.log"


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What is searched: the revisions of ``tree``, or the patches of ``series`` on
    ``kernel``, or Debian's kernels, or the options between two ``configs``. ``patches``,
    ``fragments``, ``variants`` are of all its kernels, ``fixups`` as a user writes them."""

    tree: str = ""
    new: str = ""
    old: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    first_parent: bool = False
    series: str = ""
    releases: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    kernel: str = DEFAULT_KERNEL
    patches: tuple[str, ...] = ()
    fragments: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    fixups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Predicate:
    """What is looked for: a ``report`` that reproduces, ``scenarios`` that fail, or run into
    an issue that is ``known``, a kernel that does not ``boot``, or ``commands`` whose status,
    ``splat``, ``output`` or ``figure`` (a pattern, above or below a threshold) tells, or that
    the last one ``hangs``."""

    report: str = ""
    session: str | None = None
    scenarios: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    boot: bool = False
    commands: tuple[str, ...] = ()
    splat: str = ""
    output: str = ""
    figure: str = ""
    side: str = ""
    threshold: float = 0.0
    hangs: bool = False
    machine: str = ""
    qemu: str = ""
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class BisectRequest:
    """A whole request."""

    where: SearchSpace
    what: Predicate
    terms: Terms = field(default_factory=Terms)
    confidence: float = 0.99
    most_runs: int = 500
    either_way: bool = False


@dataclass(frozen=True, slots=True)
class Bisection:
    """A request made concrete."""

    asked: BisectRequest
    history: History
    symptom: Symptom
    directory: Path


def start(asked: BisectRequest, directory: Path) -> Bisection:
    """A new search in the directory. Revisions are pinned and files copied: what becomes
    of branches and files later does not matter. Raises UsageError for a request that
    makes no sense."""
    inputs = directory / "inputs"
    inputs.mkdir()
    where = asked.where
    if where.tree:
        tree = paths.given(where.tree)
        ends = [git_source.commit_of(tree, each) for each in (where.new, *where.old)]
        where = replace(where, tree=str(tree), new=ends[0], old=tuple(ends[1:]))
    keep = _Keeper(inputs)
    tree_of_fixups = Path(where.tree) if where.tree else None
    where = replace(
        where,
        series=keep.one(where.series),
        configs=keep.all(where.configs),
        patches=keep.all(where.patches),
        fragments=keep.all(where.fragments),
        fixups=tuple(_kept(each, tree_of_fixups, keep) for each in where.fixups),
        kernel=_pinned_kernel(where.kernel),
    )
    what = replace(asked.what, report=keep.one(asked.what.report))
    if "/" in what.qemu:
        what = replace(what, qemu=str(Path(what.qemu).absolute()))
    if what.machine.endswith(".toml"):
        # A machine names overlays beside its file.
        what = replace(what, machine=str(Path(what.machine).absolute()))
    pinned = replace(asked, where=where, what=what)
    job = _job(pinned, directory)
    (directory / _REQUEST).write_text(json.dumps(asdict(pinned), indent=1) + "\n")
    return job


def _kept(text: str, tree: Path | None, keep: "_Keeper") -> str:
    each = history.fixup(text, tree)
    return f"{each.since}..{each.until}:{keep.one(str(each.patch))}"


def _pinned_kernel(text: str) -> str:
    """The kernel by a path that does not depend on where we are, and by a hash."""
    kind, _, where = text.partition(":")
    if kind in ("tree", "prebuilt"):
        return f"{kind}:{paths.given(where)}"
    return git_source.pinned(where) if kind == "git" else text


@dataclass(slots=True)
class _Keeper:
    """Copies files into a directory."""

    into: Path
    count: int = 0

    def one(self, text: str) -> str:
        if not text:
            return ""
        source = Path(text).absolute()
        if not source.exists():
            raise UsageError(f"no such file: {source}", "name one that is there")
        self.count += 1
        target = self.into / f"{self.count}" / source.name
        target.parent.mkdir()
        copy: Callable[[Path, Path], object] = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)
        return str(target)

    def all(self, texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.one(each) for each in texts)


def load(directory: Path) -> Bisection:
    """The search that was begun in the directory. Raises UsageError without one."""
    try:
        record = json.loads((directory / _REQUEST).read_text())
        asked = BisectRequest(
            SearchSpace(**_tuples(record["where"])),
            Predicate(**_tuples(record["what"])),
            Terms(**record["terms"]),
            float(record["confidence"]),
            int(record["most_runs"]),
            bool(record["either_way"]),
        )
    except FileNotFoundError:
        raise UsageError(f"{directory} has no search in it", "name its directory") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        told = f"{directory} has a search that cannot be read: {error}"
        raise UsageError(told, "name another directory") from None
    return _job(asked, directory)


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }


def _job(asked: BisectRequest, directory: Path) -> Bisection:
    looked_for = _condition(asked.what)
    return Bisection(asked, _history(asked, directory), looked_for, directory)


def _history(asked: BisectRequest, directory: Path) -> History:
    where = asked.where
    if where.releases:
        kernels = [_kernel(each, where) for each in where.releases]
        return history.releases(kernels, directory)
    if where.series:
        return history.patches(Path(where.series), _kernel(where.kernel, where), directory)
    if where.configs:
        old, new = (Path(each) for each in where.configs)
        return history.options(old, new, _kernel(where.kernel, where), directory)
    tree = Path(where.tree)
    ends = Endpoints(where.new, where.old, where.paths, where.first_parent)
    fixups = [history.fixup(each, tree) for each in where.fixups]
    base = _kernel(f"git:{tree}@{where.new}", where)
    return history.revisions(tree, ends, base, fixups, directory)


def _kernel(text: str, where: SearchSpace) -> KernelSpec:
    patches = [Path(each) for each in where.patches]
    if not where.tree:
        patches += [history.fixup(each, None).patch for each in where.fixups]
    return spec.parse(text, patches, [Path(each) for each in where.fragments], where.variants)


def _condition(what: Predicate) -> Symptom:
    if what.report:
        file, machine_name = Path(what.report), what.machine or None
        return symptom.report(file, what.session, machine_name, what.qemu, what.limit)
    name = what.machine or "smmuv3"
    machine = replace(machine_file.machine(name), qemu=what.qemu)
    if what.scenarios:
        list(run.chosen(what.scenarios))
        behaviour.claims(what.behaviours)
        request = run.Request(
            (),
            (name,),
            what.scenarios,
            what.behaviours,
            what.qemu,
            workers=1,
            decoded=False,
        )
        _check_known(what.known)
        return symptom.Scenario(request, what.known)
    if what.boot:
        return symptom.Boot(machine)
    label, exact, tells = _telling(what)
    return symptom.Commands(what.commands, machine, label, exact, tells, what.limit)


def _check_known(names: Sequence[str]) -> None:
    for name in names:
        if name not in known_issues.issues():
            hint = did_you_mean(name, known_issues.issues(), "see iommu-harness behaviours")
            raise UsageError(f"no known issue {name!r}", hint)


def _telling(what: Predicate) -> tuple[str, bool, Check]:
    """Of commands: what is looked for, whether nothing else looks the same, and how it is
    told."""
    if what.splat:
        return f"the kernel reports {what.splat}", True, checks.reports(_pattern(what.splat))
    if what.output:
        return f"the output has {what.output}", True, checks.prints(_pattern(what.output))
    if what.figure:
        pattern = _pattern(what.figure)
        if pattern.groups != 1:
            raise UsageError(f"{what.figure!r} has no group for the figure", "as in 'took (\\d+)'")
        label = f"the figure is {what.side} {what.threshold:g}"
        return label, True, checks.figure(pattern, what.side, what.threshold)
    if what.hangs:
        return f"{what.commands[-1]!r} does not end", False, checks.hangs
    return f"{what.commands[-1]!r} fails", False, checks.fails


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"{text!r} is no regular expression: {error}", "escape what is meant"
        ) from None


def search(job: Bisection, tell: Callable[[Step], None], given: Path | None = None) -> Conclusion:
    """Searches, or goes on where the directory's journal ends; from now on with the
    verdicts of the ``given`` log, whatever was recorded. Raises HostError where another
    process is at it."""
    with _alone(job.directory):
        (job.directory / "result.json").unlink(missing_ok=True)
        if given:
            _give(job, given)
        judge = GuestRunner(job.history, job.symptom, job.directory / "runs")
        book = Journal(job.directory / _LEDGER, judge)
        asked = job.asked
        question = Parameters(
            job.history.ends,
            asked.terms,
            asked.confidence,
            job.symptom.exact,
            asked.either_way,
            asked.most_runs,
        )
        verdicts = _given(job.directory / _GIVEN, asked.terms)
        try:
            searching = Search(job.history.repository, question, book, tell, verdicts)
            finding = searching.find(lambda culprit: _without(job.history, culprit))
            return replace(finding, splats=_splats(finding, book, judge))
        finally:
            book.close()
            judge.close()


def _splats(finding: Conclusion, book: Journal, judge: GuestRunner) -> tuple[Splat, ...]:
    """Those of the first run that shows what is looked for, of the culprit where it comes
    with it, else of a parent."""
    showing = (finding.culprit,) if finding.appears else finding.parents
    shown = [run for each in showing for run in book.own_runs(each) if run.word == "shown"]
    return judge.splats(shown[0]) if shown else ()


def _without(found: History, culprit: str) -> str:
    return f"{WITHOUT}{culprit}" if found.without(culprit) else ""


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    holder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(f"another search is going on in {directory}", "wait for it") from None
    else:
        yield
    finally:
        os.close(holder)


def _give(job: Bisection, log: Path) -> None:
    """Raises UsageError for what is no ``git bisect log``."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {log}: {error.strerror}", "name a log") from None
    if not _verdicts(text, job.asked.terms):
        raise UsageError(f"{log} has no verdict in it", "name what bisect log prints")
    for revision in _verdicts(text, job.asked.terms):
        git_source.commit_of(job.history.repository, revision)
    part = job.directory / f"{_GIVEN}.part"
    part.write_text(text)
    part.rename(job.directory / _GIVEN)


def _given(path: Path, terms: Terms) -> dict[str, str]:
    return _verdicts(path.read_text(), terms) if path.exists() else {}


_VERDICT = re.compile(r"^git bisect (\S+) '?([0-9a-f]{40,64})'?$", re.MULTILINE)


def _verdicts(text: str, terms: Terms) -> dict[str, str]:
    words = {terms.old: "old", terms.new: "new", "skip": "skip"}
    return {rev: words[word] for word, rev in _VERDICT.findall(text) if word in words}


def log(directory: Path) -> str:
    """What git has noted until now. Raises UsageError for a directory without a search."""
    load(directory)
    if not (directory / "git/BISECT_LOG").exists():
        raise UsageError(f"the search in {directory} has not judged anything yet", "resume it")
    return git.run(directory / "git", "bisect", "log")


def progress(job: Bisection) -> dict[str, Any]:
    """How far a search has got: what was built and run, and its result once there is one."""
    entries = journal.entries(job.directory / _LEDGER)
    builds = [each["build"] for each in entries if "build" in each]
    runs = [each["run"] for each in entries if "run" in each]
    result = job.directory / "result.json"
    return {
        "builds": len(builds),
        "runs": len(runs),
        "last": runs[-1] if runs else None,
        "result": json.loads(result.read_text()) if result.exists() else None,
    }
