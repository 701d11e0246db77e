# SPDX-License-Identifier: GPL-2.0-only
"""The search: git chooses the revisions, runs in fresh guests judge them, and the answer
carries the confidence that was asked for.

The ends come first, and how often each shows what is looked for. A step is decided by
as few runs as it is worth; then the revision found and its parents are run until both
are as sure as asked. What turns out to be on the other side than a step had it sends
the search back to there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.bisect import gitbisect, odds
from harness.bisect.gitbisect import Ends, GitBisect, Position, Terms
from harness.bisect.ledger import Ledger, Run
from harness.bisect.odds import Rates, Tally
from harness.errors import HostError, UsageError

Side = Literal["old", "new"]

# An end is what its user says it is, unless its runs speak against that; and the
# culprit's parent is held to more.
_END_DOUBT = 0.05

# Runs of a revision that could not be judged, after which it is given up.
_LOST = 2

# How an old end that shows it too is told from a new one that shows it more often.
_CLEARLY = 10.0


@dataclass(frozen=True, slots=True)
class Question:
    """``exact``: what is looked for cannot come from anything else, as a whole report
    cannot; else a kernel splat that the ends do not show makes a revision unfit to be
    judged. ``either_way``: look for the change in whichever direction the ends differ.
    At most ``most_runs`` of one revision."""

    ends: Ends
    terms: Terms
    confidence: float = 0.99
    exact: bool = True
    either_way: bool = False
    most_runs: int = 100


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
class Finding:
    """``culprit`` with ``confidence`` that it is the one; or none, and the ``candidates``
    are all that could not be judged. ``reverted`` says what the new end does without it,
    in words; ``verified`` that nothing of that speaks against it. ``appears``: with the
    culprit comes what is looked for; else it goes."""

    culprit: str
    parents: tuple[str, ...]
    confidence: float
    candidates: tuple[str, ...]
    appears: bool
    reverted: str
    verified: bool
    steps: tuple[Step, ...]
    log: str


@dataclass(slots=True)
class Search:
    """One search in the ``repository``; ``tell`` hears of each step. ``verdicts`` are old,
    new or skip by revision: those of a log that is replayed, and then its own."""

    repository: Path
    question: Question
    ledger: Ledger
    tell: Callable[[Step], None] = lambda _step: None
    verdicts: dict[str, str] = field(default_factory=dict)
    _given: frozenset[str] = field(init=False)
    _before: dict[str, Tally] = field(default_factory=dict)
    _appears: bool = True
    _steps: list[Step] = field(default_factory=list)
    _log: str = ""

    def __post_init__(self) -> None:
        self._given = frozenset(self.verdicts)

    def find(self, without: Callable[[str], str] = lambda _culprit: "") -> Finding:
        """``without`` names the new end without a culprit, as the ledger's judge builds
        it; "" where there is no such thing. Raises UsageError for ends that do not differ
        or differ the wrong way round, HostError for ends that cannot be judged."""
        self._measure()
        while True:
            position = self._narrowed()
            if not position.found:
                return self._finding("", (), 0.0, position.candidates)
            parents = self._parents(position.found)
            mistaken = self._mistaken(position.found, parents)
            if not mistaken:
                break
            self._overturn(mistaken)
        sure = self._sure(position.found, parents)
        return self._finding(position.found, parents, sure, (), without(position.found))

    def _finding(
        self,
        culprit: str,
        parents: tuple[str, ...],
        sure: float,
        candidates: tuple[str, ...],
        without: str = "",
    ) -> Finding:
        side, reverted = self._reverted(without) if without else ("", "")
        return Finding(
            culprit=culprit,
            parents=parents,
            confidence=sure,
            candidates=candidates,
            appears=self._appears,
            reverted=reverted,
            verified=bool(culprit) and side != "new",
            steps=tuple(self._steps),
            log=self._log,
        )

    # The ends.

    def _measure(self) -> None:
        ends = self.question.ends
        for end in (ends.new, *ends.old):
            built = self.ledger.build(end)
            if built.failure:
                raise HostError(f"the {self._end_name(end)} does not build: {built.failure}")
        if self.question.either_way:
            self._appears = self._direction()
        for end in self._showing_ends():
            self._measure_showing(end, self._lacking_ends()[0])
        for end in self._lacking_ends():
            self._measure_lacking(end)

    def _direction(self) -> bool:
        """Whether it is the new end that shows it; the ends are run in turn until one leads."""
        ends = self.question.ends
        lead = 0
        for _ in range(self._patience):
            lead += self._run_end(ends.new).word == "shown"
            lead -= self._run_end(ends.old[0]).word == "shown"
            if abs(lead) > 1:
                break
        return lead >= 0

    @property
    def _patience(self) -> int:
        """Runs of an end that may all be clean before it is given up."""
        return min(30, self.question.most_runs)

    def _measure_showing(self, end: str, other: str) -> None:
        while not odds.is_measured(self.ledger.tally(end)):
            tally = self.ledger.tally(end)
            if not tally.shown and tally.runs >= self._patience:
                raise self._no_show(end, other)
            if tally.runs >= self.question.most_runs:
                break
            self._run_end(end)
        self._end_step(end)

    def _no_show(self, end: str, other: str) -> UsageError:
        tally = self.ledger.tally(end)
        told = f"the {self._end_name(end)} shows it in {tally} runs"
        if not self.ledger.build(other).failure:
            for _ in range(3):
                if self._run_end(other).word == "shown":
                    return UsageError(
                        f"{told}, and the {self._end_name(other)} does",
                        "exchange the two, or call them --old and --new",
                    )
        return UsageError(told, "see what repro or run says of that kernel")

    def _measure_lacking(self, end: str) -> None:
        """As often as the other end at least: that it shows it seldom has to be seen."""
        (other, *_) = self._showing_ends()
        while True:
            tally = self.ledger.tally(end)
            if tally.runs >= self.question.most_runs:
                break
            often = tally.runs >= self.ledger.tally(other).runs
            if often and not tally.shown and self._showing_given(end) <= _END_DOUBT:
                break
            if tally.shown and odds.are_distinct(self.ledger.tally(other), tally, _CLEARLY):
                break
            if odds.is_measured(tally) and not odds.is_less(tally, self.ledger.tally(other)):
                break
            self._run_end(end)
            if tally.shown and often:
                self._run_end(other)
        if tally.shown:
            self._check_distinct(end, tally)
        self._end_step(end)

    def _check_distinct(self, end: str, tally: Tally) -> None:
        """Raises UsageError where both ends may well show it equally often."""
        shows = self.ledger.total(self._showing_ends())
        if odds.are_distinct(shows, tally, _CLEARLY):
            return
        others = ", ".join(self._end_name(each) for each in self._showing_ends())
        raise UsageError(
            f"both ends show it: the {others} in {shows} runs,"
            f" the {self._end_name(end)} in {tally}",
            "name an end that does not",
        )

    def _run_end(self, end: str) -> Run:
        run = self.ledger.run(end)
        if run.word in ("no-boot", "unjudged"):
            told = "does not boot" if run.word == "no-boot" else "cannot be judged"
            raise HostError(f"the {self._end_name(end)} {told}: {run.reason}")
        return run

    def _end_name(self, end: str) -> str:
        term = self._term("new" if end == self.question.ends.new else "old")
        return f"{term} end, {end[:12]} ({gitbisect.subject(self.repository, end)})"

    def _end_step(self, end: str) -> None:
        side = "new" if end == self.question.ends.new else "old"
        self._record(end, side, self.ledger.runs(end)[-1].reason, 0, "end")

    def _showing_ends(self) -> list[str]:
        ends = self.question.ends
        return [ends.new] if self._appears else list(ends.old)

    def _lacking_ends(self) -> list[str]:
        ends = self.question.ends
        return list(ends.old) if self._appears else [ends.new]

    # The steps.

    def _narrowed(self) -> Position:
        """git's search, with what is known already."""
        known = dict(self.verdicts)
        bisect = GitBisect(self.repository, self.question.ends, self.question.terms)
        for revision, verdict in known.items():
            bisect.mark(verdict, revision)
        while bisect.position.next:
            revision, left = bisect.position.next, bisect.left
            self.ledger.build(revision)
            self.ledger.expect(bisect.ahead, revision)
            verdict, reason = self._judged(revision, left)
            self.verdicts[revision] = verdict
            self._record(revision, verdict, reason, left, "step")
            bisect.mark(verdict, revision)
        self._log = bisect.log
        return bisect.position

    def _judged(self, revision: str, left: int) -> tuple[str, str]:
        """old, new or skip, and why."""
        return self._settled(revision, lambda sure: odds.enough_for_a_step(sure, left))

    def _tally(self, revision: str) -> Tally:
        """The runs that count: of a revision that is checked those of the check, because
        it was chosen for what the others have shown."""
        return self.ledger.tally(revision) - self._before.get(revision, Tally())

    def _settled(self, revision: str, enough: Callable[[float], bool]) -> tuple[str, str]:
        """The revision is run until it is clear enough on which side it is."""
        failure = self.ledger.build(revision).failure
        if failure:
            return "skip", f"does not build: {failure}"
        while True:
            unfit = [why for run in self.ledger.runs(revision) if (why := self._unfit(run))]
            lost = sum(run.word == "unjudged" for run in self.ledger.runs(revision))
            if len(unfit) > lost or lost >= _LOST:
                return "skip", unfit[-1]
            tally = self._tally(revision)
            showing = self._showing_given(revision)
            if tally.runs and enough(showing):
                side = self._side(shows=showing > 0.5)
                runs = self.ledger.runs(revision)
                told = [run.reason for run in runs if (run.word == "shown") == (showing > 0.5)]
                return side, told[-1] if told else ""
            if tally.runs >= self.question.most_runs:
                return "skip", f"is undecided after {tally.runs} runs: {tally.shown} show it"
            end = self._unclear_end(tally)
            if end:
                self._run_end(end)
            else:
                self.ledger.run(revision)

    def _unclear_end(self, tally: Tally) -> str:
        """The end whose rate is known from fewer runs than are at odds with it: a revision
        that shows it at another rate than the ends, once they have been run as often, is
        no riddle any more. "" for none."""
        if not tally.shown:
            return ""
        ends = (self.question.ends.new, *self.question.ends.old)
        end = min(ends, key=lambda each: self.ledger.tally(each).runs)
        return end if self.ledger.tally(end).runs < tally.runs else ""

    def _unfit(self, run: Run) -> str:
        """Why the run says nothing about what is looked for; "" where it does."""
        if run.word == "no-boot":
            return f"does not boot: {run.reason}"
        if run.word == "unjudged":
            return f"cannot be judged: {run.reason}"
        if run.word == "shown" and self.question.exact:
            return ""
        strange = [each for each in run.splats if each not in self._usual()]
        return f"reports another splat: {strange[0]}" if strange else ""

    def _usual(self) -> set[str]:
        """The splats of the ends."""
        ends = (self.question.ends.new, *self.question.ends.old)
        return {each for end in ends for run in self.ledger.own_runs(end) for each in run.splats}

    # The last word.

    def _parents(self, culprit: str) -> tuple[str, ...]:
        found = gitbisect.parents(self.repository, culprit)
        return tuple(found[:1] if self.question.ends.first_parent else found)

    def _mistaken(self, culprit: str, parents: tuple[str, ...]) -> str:
        """The revision that is on the other side than the answer has it; "" for none."""
        doubt = (1 - self.question.confidence) / (1 + len(parents)) / self._rests
        for revision, side in ((culprit, "new"), *((each, "old") for each in parents)):
            if revision in self._given:
                continue
            if not self.ledger.build(revision).failure:
                self._before.setdefault(revision, self.ledger.tally(revision))
            settled, reason = self._settled(revision, lambda p: min(p, 1 - p) <= doubt)
            self._record(revision, settled, reason, 0, "check")
            if settled not in (side, "skip"):
                return revision
        return ""

    def _overturn(self, revision: str) -> None:
        """The revision is put right, and what contradicts it is forgotten."""
        ends = self.question.ends
        if revision == ends.new or revision in ends.old:
            tally = self.ledger.tally(revision)
            raise UsageError(
                f"the {self._end_name(revision)} shows it in {tally} runs after all", "name another"
            )
        if revision not in self.verdicts and ends.paths:
            raise UsageError(
                f"{revision[:12]} is {self._term('new')} already: the change is not in"
                f" {', '.join(ends.paths)}",
                "search without --path",
            )
        side: Side = "new" if self.verdicts.get(revision, "old") == "old" else "old"
        self.verdicts = {
            other: verdict
            for other, verdict in self.verdicts.items()
            if not self._contradicts(other, verdict, revision, side)
        }
        self.verdicts[revision] = side

    def _contradicts(self, other: str, verdict: str, revision: str, side: Side) -> bool:
        if other == revision:
            return True
        if side == "new":
            return verdict == "old" and gitbisect.contains(self.repository, other, revision)
        return verdict == "new" and gitbisect.contains(self.repository, revision, other)

    def _sure(self, culprit: str, parents: tuple[str, ...]) -> float:
        """How probable it is that the culprit has the change and its parents have not; of
        one that cannot be run nothing is known, and a user's own verdict is taken."""
        sure = 1.0 if culprit in self._given else self._new_given(culprit)
        for parent in parents:
            sure *= 1.0 if parent in self._given else 1 - self._new_given(parent)
        return max(0.0, 1 - self._rests * (1 - sure))

    @property
    def _rests(self) -> int:
        """How often the search may come to rest, each time with a chance to be wrong."""
        return math.ceil(math.log2(gitbisect.count(self.repository, self.question.ends) + 1))

    def _new_given(self, revision: str) -> float:
        showing = self._showing_given(revision)
        return showing if self._appears else 1 - showing

    def _reverted(self, name: str) -> tuple[str, str]:
        """On which side the new end is without the culprit, and that in words."""
        doubt = (1 - self.question.confidence) / 2
        side, reason = self._settled(name, lambda p: min(p, 1 - p) <= doubt)
        self._record(name, side, reason, 0, "revert")
        if side == "skip":
            return side, reason
        told = f"{self._term(side)}, {self.ledger.tally(name)} runs show it"
        if side == "old":
            return side, f"is {told}"
        return side, f"is still {told}: it is not the only cause"

    # Odds.

    def _showing_given(self, revision: str) -> float:
        """How probable it is that the revision can show it, by its runs and what those of
        others say of the rates."""
        shows, lacks = self._side(shows=True), self._side(shows=False)
        showing = [rev for rev, verdict in self.verdicts.items() if verdict == shows]
        lacking = [rev for rev, verdict in self.verdicts.items() if verdict == lacks]
        return Rates(
            self._known(revision, [*self._showing_ends(), *showing]),
            self._known(revision, [*self._lacking_ends(), *lacking]),
        ).showing_given(self._tally(revision))

    def _known(self, revision: str, others: list[str]) -> Tally:
        """The others' runs; one's own are no evidence of the rate that they are held to."""
        return self.ledger.total([each for each in others if not self.ledger.same(each, revision)])

    def _side(self, *, shows: bool) -> Side:
        return "new" if shows == self._appears else "old"

    def _term(self, side: str) -> str:
        terms = {"old": self.question.terms.old, "new": self.question.terms.new}
        return terms.get(side, side)

    def _record(self, revision: str, verdict: str, reason: str, left: int, why: str) -> None:
        step = Step(
            revision,
            verdict,
            reason,
            self.ledger.tally(revision),
            left,
            self.ledger.build(revision).seconds,
            sum(run.seconds for run in self.ledger.own_runs(revision)),
            why,
        )
        self._steps.append(step)
        self.tell(step)
