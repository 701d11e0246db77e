# SPDX-License-Identifier: GPL-2.0-only
"""The search: git chooses the revisions, runs in fresh guests classify them, and a final check
ensures the requested confidence.

The search first measures how often each endpoint shows the symptom. Each step then takes as few
runs as it needs. In the final check, the revision found and its parents are run again until they
meet the requested confidence. If the check contradicts a step, the search continues from there.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.bisect import confidence, gitbisect
from harness.bisect.classify import Classifier, Parameters, Side
from harness.bisect.confidence import Tally, Threshold
from harness.bisect.gitbisect import GitBisect, Position
from harness.bisect.journal import Journal
from harness.errors import HostError, UsageError
from harness.klog.splat import Splat

# The error allowed for an endpoint. It may be large: an endpoint has the user's verdict unless
# its runs contradict it, and the parents of the first bad commit are checked with a smaller
# error.
_ENDPOINT_ERROR = 0.05

# The Bayes factor above which the rates of two endpoints that both show the symptom differ.
_DISTINCT = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """The classification of one revision.

    ``verdict``: old, new or skip.
    ``left``: the number of candidates before the step.
    ``builds``, ``runs``: the seconds that its build and its runs took.
    ``kind``: endpoint, step, check or revert.
    """

    revision: str
    verdict: str
    reason: str
    tally: Tally
    left: int
    builds: float
    runs: float
    kind: str


@dataclass(frozen=True, slots=True)
class Held:
    """The final check of an unaffected revision.

    ``requested``: the upper bound on ``error`` that the confidence requires.
    ``error``: the probability, after its runs, that the revision is affected with a rate of at
    least ``rate``.
    """

    revision: str
    tally: Tally
    requested: float
    error: float
    rate: float


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The result of a search.

    ``first_bad``: the first bad commit, "" if the ``candidates`` could not be tested.
    ``appears``: whether the symptom appears with that commit; otherwise it disappears.
    ``reverted``: describes the new endpoint without that commit.
    ``verified``: whether that endpoint confirms the result, None if the endpoint does not exist or
    is skipped.
    ``splats``: the symbolised splats of the first bad commit, or of its parent if the symptom
    disappears.
    ``held``: the final check of the unaffected revisions.
    """

    first_bad: str
    parents: tuple[str, ...]
    confidence: float
    candidates: tuple[str, ...]
    appears: bool
    reverted: str
    verified: bool | None
    steps: tuple[Step, ...]
    log: str
    splats: tuple[Splat, ...] = ()
    held: tuple[Held, ...] = ()


@dataclass(slots=True)
class Search:
    """A search in ``repository`` for the first bad commit.

    ``on_step``: called with each step.
    ``overrides``: the user's verdicts (old, new or skip) by revision. These revisions are not
    tested.
    """

    repository: Path
    parameters: Parameters
    journal: Journal
    on_step: Callable[[Step], None] = lambda _step: None
    overrides: dict[str, str] = field(default_factory=dict)
    _classifier: Classifier = field(init=False)
    _steps: list[Step] = field(default_factory=list)
    _log: str = ""

    def __post_init__(self) -> None:
        self._classifier = Classifier(
            self.repository, self.parameters, self.journal, dict(self.overrides)
        )

    def find(self, without: Callable[[str], str] = lambda _first_bad: "") -> Conclusion:
        """Search for the first bad commit, and return the conclusion.

        ``without`` returns the name that the journal has for the new endpoint without a commit, ""
        if there is no such kernel. Raises UsageError if the endpoints do not differ or are swapped,
        HostError if they cannot be tested.
        """
        self._measure()
        while True:
            position = self._bisect()
            parents = self._outside((position.found,) if position.found else position.candidates)
            contradicted = self._check(position.found, parents)
            if not contradicted:
                break
            self._overturn(contradicted)
        if not position.found:
            return self._conclusion("", parents, 0.0, position.candidates)
        reached = self._confidence(position.found, parents)
        return self._conclusion(position.found, parents, reached, (), without(position.found))

    def _conclusion(
        self,
        first_bad: str,
        parents: tuple[str, ...],
        reached: float,
        candidates: tuple[str, ...],
        without: str = "",
    ) -> Conclusion:
        verdict, reverted = self._reverted(without) if without else ("", "")
        return Conclusion(
            first_bad=first_bad,
            parents=parents,
            confidence=reached,
            candidates=candidates,
            appears=self._classifier.appears,
            reverted=reverted,
            verified={"old": True, "new": False}.get(verdict),
            steps=tuple(self._steps),
            log=self._log,
            held=tuple(self._held(first_bad, parents)),
        )

    # The endpoints.

    def _measure(self) -> None:
        endpoints = self.parameters.endpoints
        for each in (endpoints.new, *endpoints.old):
            build = self.journal.build(each)
            if build.failure:
                name = self._classifier.endpoint_name(each)
                raise HostError(f"the {name} does not build: {build.failure}")
        if self.parameters.either_way:
            self._classifier.appears = self._direction()
        for each in self._classifier.affected_endpoints():
            self._measure_affected(each, self._classifier.unaffected_endpoints()[0])
        for each in self._classifier.unaffected_endpoints():
            self._measure_unaffected(each)

    def _direction(self) -> bool:
        """Whether the symptom appears with the change. Runs the endpoints alternately until one
        of them has shown the symptom in two more runs than the other, or gives up."""
        endpoints = self.parameters.endpoints
        lead = 0
        for _ in range(self._max_clean):
            lead += self._classifier.run_endpoint(endpoints.new).result == "shown"
            lead -= self._classifier.run_endpoint(endpoints.old[0]).result == "shown"
            if abs(lead) > 1:
                break
        return lead >= 0

    @property
    def _max_clean(self) -> int:
        """The number of clean runs of an endpoint after which the search gives up."""
        return min(30, self.parameters.max_runs)

    def _measure_affected(self, endpoint: str, other: str) -> None:
        while not confidence.is_measured(self.journal.tally(endpoint)):
            tally = self.journal.tally(endpoint)
            if not tally.shown and tally.runs >= self._max_clean:
                raise self._not_shown(endpoint, other)
            if tally.runs >= self.parameters.max_runs:
                break
            self._classifier.run_endpoint(endpoint)
        self._endpoint_step(endpoint)

    def _not_shown(self, endpoint: str, other: str) -> UsageError:
        tally = self.journal.tally(endpoint)
        name = self._classifier.endpoint_name(endpoint)
        text = f"the {name} shows the symptom in {tally} runs"
        for _ in range(3):
            if self._classifier.run_endpoint(other).result == "shown":
                return UsageError(
                    f"{text}, but the {self._classifier.endpoint_name(other)} shows it",
                    "swap the endpoints, or use --old and --new",
                )
        last = self.journal.runs(endpoint)[-1].reason
        return UsageError(f"{text} ({last})", "test this kernel with repro or run")

    def _measure_unaffected(self, endpoint: str) -> None:
        """Run the endpoint at least as often as the affected endpoint, because fewer runs would
        miss a symptom that it shows rarely."""
        (other, *_) = self._classifier.affected_endpoints()
        while True:
            tally = self.journal.tally(endpoint)
            if tally.runs >= self.parameters.max_runs:
                break
            as_often = tally.runs >= self.journal.tally(other).runs
            error = self._classifier.p_affected(endpoint, Threshold(_ENDPOINT_ERROR))
            if as_often and not tally.shown and error <= _ENDPOINT_ERROR:
                break
            if tally.shown and self._is_distinct(self.journal.tally(other), tally):
                break
            is_lower = confidence.has_lower_rate(tally, self.journal.tally(other))
            if confidence.is_measured(tally) and not is_lower:
                break
            self._classifier.run_endpoint(endpoint)
            if tally.shown and as_often:
                self._classifier.run_endpoint(other)
        if tally.shown:
            self._check_distinct(endpoint, tally)
        self._endpoint_step(endpoint)

    @staticmethod
    def _is_distinct(affected: Tally, unaffected: Tally) -> bool:
        return confidence.has_distinctly_higher_rate(affected, unaffected, _DISTINCT)

    def _check_distinct(self, endpoint: str, tally: Tally) -> None:
        """Raise UsageError if both endpoints may show the symptom at the same rate."""
        affected = self._classifier.affected_endpoints()
        total = self.journal.total(affected)
        if self._is_distinct(total, tally):
            return
        others = ", ".join(self._classifier.endpoint_name(each) for each in affected)
        raise UsageError(
            f"the symptom is about as frequent at both endpoints: {total} runs at the {others},"
            f" {tally} at the {self._classifier.endpoint_name(endpoint)}",
            "choose an endpoint without the symptom",
        )

    def _endpoint_step(self, endpoint: str) -> None:
        verdict = "new" if endpoint == self.parameters.endpoints.new else "old"
        self._record(endpoint, verdict, self.journal.runs(endpoint)[-1].reason, 0, "endpoint")

    # The steps.

    def _bisect(self) -> Position:
        """Run git's bisection to its end, starting with all verdicts so far, and return its last
        position."""
        known = dict(self._classifier.verdicts)
        bisect = GitBisect(self.repository, self.parameters.endpoints, self.parameters.terms)
        for revision, verdict in known.items():
            bisect.mark(verdict, revision)
        while bisect.position.next:
            revision, left = bisect.position.next, bisect.left
            self.journal.build(revision)
            self.journal.prefetch(bisect.predictions, revision)
            threshold = confidence.step_threshold(left)
            verdict, reason = self._classifier.classify(revision, threshold)
            self._classifier.verdicts[revision] = verdict
            self._record(revision, verdict, reason, left, "step")
            bisect.mark(verdict, revision)
        self._log = bisect.log
        return bisect.position

    # The final check.

    def _outside(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The candidates' parents that are not candidates themselves; all of them must be old."""
        every = (each for candidate in candidates for each in self._parents(candidate))
        return tuple(dict.fromkeys(each for each in every if each not in candidates))

    def _parents(self, revision: str) -> tuple[str, ...]:
        found = gitbisect.parents(self.repository, revision)
        return tuple(found[:1] if self.parameters.endpoints.first_parent else found)

    def _check(self, first_bad: str, parents: tuple[str, ...]) -> str:
        """Classify the first bad commit and its parents again. Returns the first revision that
        contradicts the bisection, or "" if no revision does."""
        for revision, side, threshold in self._final(first_bad, parents):
            if revision in self.overrides:
                continue
            if not self.journal.build(revision).failure:
                tally = self.journal.tally(revision)
                self._classifier.before_check.setdefault(revision, tally)
            verdict, reason = self._classifier.classify(revision, threshold)
            self._record(revision, verdict, reason, 0, "check")
            if verdict not in (side, "skip"):
                return revision
        return ""

    def _final(
        self, first_bad: str, parents: tuple[str, ...]
    ) -> Iterator[tuple[str, Side, Threshold]]:
        """Yield the revisions of the final check, each with its expected side and its threshold.
        Affected revisions are first, because the thresholds of unaffected ones use their
        rates."""
        error = (1 - self.parameters.confidence) / (1 + len(parents)) / self._max_checks
        new, old = ((first_bad,) if first_bad else ()), parents
        affected, unaffected = (new, old) if self._classifier.appears else (old, new)
        ratio = confidence.MAX_RATE_RATIO
        for each in affected:
            threshold = Threshold(error, ratio, min_shown=confidence.CHECK_MIN_SHOWN)
            yield each, self._classifier.side(affected=True), threshold
        for each in unaffected:
            threshold = Threshold(error, ratio, neighbours=affected)
            yield each, self._classifier.side(affected=False), threshold

    def _held(self, first_bad: str, parents: tuple[str, ...]) -> Iterator[Held]:
        affected = self._classifier.side(affected=True)
        for revision, side, threshold in self._final(first_bad, parents):
            tally = self._classifier.tally(revision)
            if side == affected or not tally.runs or revision in self.overrides:
                continue
            error = self._classifier.p_affected(revision, threshold)
            rate = self._classifier.lowest_rate(revision, threshold)
            yield Held(revision, tally, threshold.max_error, error, rate)

    def _overturn(self, revision: str) -> None:
        """Reverse the verdict on the revision, and drop the verdicts that contradict the new
        verdict. Raises UsageError if the revision is an endpoint or was excluded by --path."""
        endpoints = self.parameters.endpoints
        if revision == endpoints.new or revision in endpoints.old:
            name, tally = self._classifier.endpoint_name(revision), self.journal.tally(revision)
            found = self._classifier.term("old" if revision == endpoints.new else "new")
            raise UsageError(
                f"the {name} is {found} in the final check: symptom in {tally} runs",
                "choose a different endpoint",
            )
        if revision not in self._classifier.verdicts and endpoints.paths:
            raise UsageError(
                f"the final check finds {revision[:12]} already {self._classifier.term('new')}: the"
                f" change is not in {', '.join(endpoints.paths)}",
                "omit --path, or add the path of the change",
            )
        side: Side = "new" if self._classifier.verdicts.get(revision, "old") == "old" else "old"
        self._classifier.verdicts = {
            other: verdict
            for other, verdict in self._classifier.verdicts.items()
            if not self._contradicts(other, verdict, revision, side)
        }
        self._classifier.verdicts[revision] = side

    def _contradicts(self, other: str, verdict: str, revision: str, side: Side) -> bool:
        if other == revision:
            return True
        if side == "new":
            return verdict == "old" and gitbisect.contains(self.repository, other, revision)
        return verdict == "new" and gitbisect.contains(self.repository, revision, other)

    def _confidence(self, first_bad: str, parents: tuple[str, ...]) -> float:
        """A lower bound for the probability that the first bad commit has the change and its
        parents do not, corrected for the maximum number of final checks. A parent that cannot be
        run counts as 0.5, a verdict from the user as 1."""
        right = 1.0
        for revision, side, threshold in self._final(first_bad, parents):
            new = self._classifier.p_new(revision, threshold)
            right *= 1.0 if revision in self.overrides else (new if side == "new" else 1 - new)
        return max(0.0, 1 - self._max_checks * (1 - right))

    @property
    def _max_checks(self) -> int:
        """The maximum number of final checks of a search. Each of them may be wrong."""
        candidates = gitbisect.count(self.repository, self.parameters.endpoints)
        return math.ceil(math.log2(candidates + 1))

    def _reverted(self, name: str) -> tuple[str, str]:
        """Classify the new endpoint without the first bad commit. Returns the verdict and its
        description."""
        error = (1 - self.parameters.confidence) / 2
        threshold = Threshold(error, confidence.MAX_RATE_RATIO)
        verdict, reason = self._classifier.classify(name, threshold)
        self._record(name, verdict, reason, 0, "revert")
        if verdict == "skip":
            return verdict, reason
        found = f"{self._classifier.term(verdict)}, symptom in {self.journal.tally(name)} runs"
        if verdict == "old":
            return verdict, f"is {found}"
        return verdict, f"is still {found}: it is not the only cause"

    def _record(self, revision: str, verdict: str, reason: str, left: int, kind: str) -> None:
        step = Step(
            revision,
            verdict,
            reason,
            self.journal.tally(revision),
            left,
            self.journal.build(revision).seconds,
            sum(run.seconds for run in self.journal.own_runs(revision)),
            kind,
        )
        self._steps.append(step)
        self.on_step(step)
