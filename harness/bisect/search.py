# SPDX-License-Identifier: GPL-2.0-only
"""The search: git chooses the revisions, runs in fresh guests judge them, and the answer
carries the confidence that was asked for.

The ends come first, and how often each shows what is looked for. A step is decided by
as few runs as it is worth; then the revision found and its parents are run until both
are as sure as asked. What turns out to be on the other side than a step had it sends
the search back to there.
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

# An end is what its user says it is, unless its runs speak against that; and the
# culprit's parent is held to more.
_END_DOUBT = 0.05

# How an old end that shows it too is told from a new one that shows it more often.
_CLEARLY = 10.0


@dataclass(frozen=True, slots=True)
class Step:
    """One revision judged: ``verdict`` is old, new or skip; ``left`` how many revisions
    might have been the one before it; ``builds`` and ``runs`` are seconds."""

    revision: str
    verdict: str
    reason: str
    tally: Tally
    left: int
    builds: float
    runs: float
    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """The last word on a revision that does not show the symptom: the ``requested`` bound on
    the probability that it would, at the ``rate`` or above, and the ``error`` that its runs
    leave."""

    revision: str
    tally: Tally
    requested: float
    error: float
    rate: float


@dataclass(frozen=True, slots=True)
class Conclusion:
    """``culprit`` with ``confidence`` that it is the one; or none, and the ``candidates``
    are all that could not be judged. ``reverted`` says what the new end does without it,
    in words; ``verified`` whether that confirms it, None where there is no such kernel or it
    cannot be judged. ``appears``: with the culprit comes what is looked for; else it goes.
    ``splats`` are what the kernel reports where it is shown, next to the culprit, with places
    in the source. ``held`` is how sure the side is that does not show it."""

    culprit: str
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
    """One search in the ``repository``; ``tell`` hears of each step. ``given``
    are verdicts, old, new or skip by revision, that are taken as they are."""

    repository: Path
    question: Parameters
    journal: Journal
    tell: Callable[[Step], None] = lambda _step: None
    given: dict[str, str] = field(default_factory=dict)
    _sides: Classifier = field(init=False)
    _steps: list[Step] = field(default_factory=list)
    _log: str = ""

    def __post_init__(self) -> None:
        self._sides = Classifier(self.repository, self.question, self.journal, dict(self.given))

    def find(self, without: Callable[[str], str] = lambda _culprit: "") -> Conclusion:
        """``without`` names the new end without a culprit, as the journal's judge builds
        it; "" where there is no such thing. Raises UsageError for ends that do not differ
        or differ the wrong way round, HostError for ends that cannot be judged."""
        self._measure()
        while True:
            position = self._narrowed()
            parents = self._outside((position.found,) if position.found else position.candidates)
            mistaken = self._mistaken(position.found, parents)
            if not mistaken:
                break
            self._overturn(mistaken)
        if not position.found:
            return self._finding("", parents, 0.0, position.candidates)
        sure = self._sure(position.found, parents)
        return self._finding(position.found, parents, sure, (), without(position.found))

    def _finding(
        self,
        culprit: str,
        parents: tuple[str, ...],
        sure: float,
        candidates: tuple[str, ...],
        without: str = "",
    ) -> Conclusion:
        side, reverted = self._reverted(without) if without else ("", "")
        return Conclusion(
            culprit=culprit,
            parents=parents,
            confidence=sure,
            candidates=candidates,
            appears=self._sides.appears,
            reverted=reverted,
            verified={"old": True, "new": False}.get(side),
            steps=tuple(self._steps),
            log=self._log,
            held=tuple(self._held(culprit, parents)),
        )

    # The ends.

    def _measure(self) -> None:
        ends = self.question.ends
        for end in (ends.new, *ends.old):
            built = self.journal.build(end)
            if built.failure:
                raise HostError(f"the {self._sides.end_name(end)} does not build: {built.failure}")
        if self.question.either_way:
            self._sides.appears = self._direction()
        for end in self._sides.showing_ends():
            self._measure_showing(end, self._sides.lacking_ends()[0])
        for end in self._sides.lacking_ends():
            self._measure_lacking(end)

    def _direction(self) -> bool:
        """Whether it is the new end that shows it; the ends are run in turn until one leads."""
        ends = self.question.ends
        lead = 0
        for _ in range(self._patience):
            lead += self._sides.run_end(ends.new).word == "shown"
            lead -= self._sides.run_end(ends.old[0]).word == "shown"
            if abs(lead) > 1:
                break
        return lead >= 0

    @property
    def _patience(self) -> int:
        """Runs of an end that may all be clean before it is given up."""
        return min(30, self.question.most_runs)

    def _measure_showing(self, end: str, other: str) -> None:
        while not confidence.is_measured(self.journal.tally(end)):
            tally = self.journal.tally(end)
            if not tally.shown and tally.runs >= self._patience:
                raise self._no_show(end, other)
            if tally.runs >= self.question.most_runs:
                break
            self._sides.run_end(end)
        self._end_step(end)

    def _no_show(self, end: str, other: str) -> UsageError:
        tally = self.journal.tally(end)
        text = f"the {self._sides.end_name(end)} shows it in {tally} runs"
        for _ in range(3):
            if self._sides.run_end(other).word == "shown":
                return UsageError(
                    f"{text}, and the {self._sides.end_name(other)} does",
                    "exchange the two, or call them --old and --new",
                )
        last = self.journal.runs(end)[-1].reason
        return UsageError(f"{text} ({last})", "see what repro or run says of that kernel")

    def _measure_lacking(self, end: str) -> None:
        """As often as the other end at least: that it shows it seldom has to be seen."""
        (other, *_) = self._sides.showing_ends()
        while True:
            tally = self.journal.tally(end)
            if tally.runs >= self.question.most_runs:
                break
            often = tally.runs >= self.journal.tally(other).runs
            doubt = self._sides.showing_given(end, Threshold(_END_DOUBT))
            if often and not tally.shown and doubt <= _END_DOUBT:
                break
            if tally.shown and confidence.are_distinct(self.journal.tally(other), tally, _CLEARLY):
                break
            if confidence.is_measured(tally) and not confidence.is_less(
                tally, self.journal.tally(other)
            ):
                break
            self._sides.run_end(end)
            if tally.shown and often:
                self._sides.run_end(other)
        if tally.shown:
            self._check_distinct(end, tally)
        self._end_step(end)

    def _check_distinct(self, end: str, tally: Tally) -> None:
        """Raises UsageError where both ends may well show it equally often."""
        shows = self.journal.total(self._sides.showing_ends())
        if confidence.are_distinct(shows, tally, _CLEARLY):
            return
        others = ", ".join(self._sides.end_name(each) for each in self._sides.showing_ends())
        raise UsageError(
            f"both ends show it: the {others} in {shows} runs,"
            f" the {self._sides.end_name(end)} in {tally}",
            "name an end that does not",
        )

    def _end_step(self, end: str) -> None:
        side = "new" if end == self.question.ends.new else "old"
        self._record(end, side, self.journal.runs(end)[-1].reason, 0, "end")

    # The steps.

    def _narrowed(self) -> Position:
        """git's search, with what is known already."""
        known = dict(self._sides.verdicts)
        bisect = GitBisect(self.repository, self.question.ends, self.question.terms)
        for revision, verdict in known.items():
            bisect.mark(verdict, revision)
        while bisect.position.next:
            revision, left = bisect.position.next, bisect.left
            self.journal.build(revision)
            self.journal.expect(bisect.ahead, revision)
            verdict, reason = self._judged(revision, left)
            self._sides.verdicts[revision] = verdict
            self._record(revision, verdict, reason, left, "step")
            bisect.mark(verdict, revision)
        self._log = bisect.log
        return bisect.position

    def _judged(self, revision: str, left: int) -> tuple[str, str]:
        """old, new or skip, and why."""
        return self._sides.settled(revision, confidence.of_a_step(left))

    # The last word.

    def _outside(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The parents of those of which one is the culprit: they have to be old."""
        every = (each for candidate in candidates for each in self._parents(candidate))
        return tuple(dict.fromkeys(each for each in every if each not in candidates))

    def _parents(self, culprit: str) -> tuple[str, ...]:
        found = gitbisect.parents(self.repository, culprit)
        return tuple(found[:1] if self.question.ends.first_parent else found)

    def _mistaken(self, culprit: str, parents: tuple[str, ...]) -> str:
        """The revision that is on the other side than the answer has it; "" for none."""
        for revision, side, bar in self._last_bars(culprit, parents):
            if revision in self.given:
                continue
            if not self.journal.build(revision).failure:
                self._sides.before.setdefault(revision, self.journal.tally(revision))
            settled, reason = self._sides.settled(revision, bar)
            self._record(revision, settled, reason, 0, "check")
            if settled not in (side, "skip"):
                return revision
        return ""

    def _last_bars(
        self, culprit: str, parents: tuple[str, ...]
    ) -> Iterator[tuple[str, Side, Threshold]]:
        """Each revision of the answer, the side where it has to be, and what that takes:
        first those that show it, whose rates the others are held to."""
        doubt = (1 - self.question.confidence) / (1 + len(parents)) / self._rests
        new, old = ((culprit,) if culprit else ()), parents
        showing, lacking = (new, old) if self._sides.appears else (old, new)
        for each in showing:
            bar = Threshold(doubt, confidence.WIDER, measured=confidence.LAST_SHOWN)
            yield each, self._sides.side(shows=True), bar
        for each in lacking:
            yield (
                each,
                self._sides.side(shows=False),
                Threshold(doubt, confidence.WIDER, near=showing),
            )

    def _held(self, culprit: str, parents: tuple[str, ...]) -> Iterator[Held]:
        for revision, side, bar in self._last_bars(culprit, parents):
            tally = self._sides.tally(revision)
            if side == self._sides.side(shows=True) or not tally.runs or revision in self.given:
                continue
            error = self._sides.showing_given(revision, bar)
            rate = self._sides.least_rate(revision, bar)
            yield Held(revision, tally, bar.doubt, error, rate)

    def _overturn(self, revision: str) -> None:
        """The revision is put right, and what contradicts it is forgotten."""
        ends = self.question.ends
        if revision == ends.new or revision in ends.old:
            tally = self.journal.tally(revision)
            raise UsageError(
                f"the {self._sides.end_name(revision)} shows it in {tally} runs after all",
                "name another",
            )
        if revision not in self._sides.verdicts and ends.paths:
            raise UsageError(
                f"{revision[:12]} is {self._sides.term('new')} already: the change is not in"
                f" {', '.join(ends.paths)}",
                "search without --path",
            )
        side: Side = "new" if self._sides.verdicts.get(revision, "old") == "old" else "old"
        self._sides.verdicts = {
            other: verdict
            for other, verdict in self._sides.verdicts.items()
            if not self._contradicts(other, verdict, revision, side)
        }
        self._sides.verdicts[revision] = side

    def _contradicts(self, other: str, verdict: str, revision: str, side: Side) -> bool:
        if other == revision:
            return True
        if side == "new":
            return verdict == "old" and gitbisect.contains(self.repository, other, revision)
        return verdict == "new" and gitbisect.contains(self.repository, revision, other)

    def _sure(self, culprit: str, parents: tuple[str, ...]) -> float:
        """How probable it is that the culprit has the change and its parents have not; of
        one that cannot be run nothing is known, and a user's own verdict is taken."""
        sure = 1.0
        for revision, side, bar in self._last_bars(culprit, parents):
            new = self._sides.new_given(revision, bar)
            right = new if side == "new" else 1 - new
            sure *= 1.0 if revision in self.given else right
        return max(0.0, 1 - self._rests * (1 - sure))

    @property
    def _rests(self) -> int:
        """How often the search may come to rest, each time with a chance to be wrong."""
        return math.ceil(math.log2(gitbisect.count(self.repository, self.question.ends) + 1))

    def _reverted(self, name: str) -> tuple[str, str]:
        """On which side the new end is without the culprit, and that in words."""
        bar = Threshold((1 - self.question.confidence) / 2, confidence.WIDER)
        side, reason = self._sides.settled(name, bar)
        self._record(name, side, reason, 0, "revert")
        if side == "skip":
            return side, reason
        told = f"{self._sides.term(side)}, {self.journal.tally(name)} runs show it"
        if side == "old":
            return side, f"is {told}"
        return side, f"is still {told}: it is not the only cause"

    def _record(self, revision: str, verdict: str, reason: str, left: int, why: str) -> None:
        step = Step(
            revision,
            verdict,
            reason,
            self.journal.tally(revision),
            left,
            self.journal.build(revision).seconds,
            sum(run.seconds for run in self.journal.own_runs(revision)),
            why,
        )
        self._steps.append(step)
        self.tell(step)
