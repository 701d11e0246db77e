# SPDX-License-Identifier: GPL-2.0-only
"""On which side of the change a revision is: from its runs, and from what those of others
say of how often each side shows what is looked for.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.bisect import gitbisect
from harness.bisect.confidence import Rates, Tally, Threshold
from harness.bisect.gitbisect import Endpoints, Terms
from harness.bisect.journal import Journal, Run
from harness.errors import HostError

Side = Literal["old", "new"]

# Runs of a revision that could not be judged, after which it is given up.
_LOST = 2


@dataclass(frozen=True, slots=True)
class Parameters:
    """``exact``: what is looked for cannot come from anything else, as a whole report
    cannot; else a kernel splat that the ends do not show makes a revision unfit to be
    judged. ``either_way``: look for the change in whichever direction the ends differ.
    At most ``most_runs`` of one revision."""

    ends: Endpoints
    terms: Terms
    confidence: float = 0.99
    exact: bool = True
    either_way: bool = False
    most_runs: int = 500


@dataclass(slots=True)
class Classifier:
    """What is known so far: the ``verdicts``, old, new or skip by revision; whether what is
    looked for ``appears`` with the change or goes; and for revisions that are checked what
    their runs ``before`` the check were."""

    repository: Path
    question: Parameters
    journal: Journal
    verdicts: dict[str, str] = field(default_factory=dict)
    before: dict[str, Tally] = field(default_factory=dict)
    appears: bool = True

    def showing_ends(self) -> list[str]:
        """The ends that show what is looked for."""
        ends = self.question.ends
        return [ends.new] if self.appears else list(ends.old)

    def lacking_ends(self) -> list[str]:
        """The ends that do not."""
        ends = self.question.ends
        return list(ends.old) if self.appears else [ends.new]

    def end_name(self, end: str) -> str:
        """The end for people."""
        term = self.term("new" if end == self.question.ends.new else "old")
        return f"{term} end, {end[:12]} ({gitbisect.subject(self.repository, end)})"

    def term(self, side: str) -> str:
        """The user's word for a side."""
        terms = {"old": self.question.terms.old, "new": self.question.terms.new}
        return terms.get(side, side)

    def showing_given(self, revision: str, bar: Threshold) -> float:
        """How probable it is that the revision can show it, by its runs and what those of
        others say of the rates."""
        return self._rates(revision, bar).showing_given(self.tally(revision), bar.rarer)

    def least_rate(self, revision: str, bar: Threshold) -> float:
        """The rate that the revision is held to."""
        return self._rates(revision, bar).least(bar.rarer)

    def _rates(self, revision: str, bar: Threshold) -> Rates:
        """Those of all others, or of one near it that shows it more seldom than they do."""
        shows, lacks = self.side(shows=True), self.side(shows=False)
        showing = [rev for rev, verdict in self.verdicts.items() if verdict == shows]
        lacking = [rev for rev, verdict in self.verdicts.items() if verdict == lacks]
        others = self._known(revision, [*self.showing_ends(), *showing])
        near = [seen for each in bar.near if (seen := self.tally(each)).shown]
        return Rates(
            min([others, *near], key=lambda seen: seen.rate),
            self._known(revision, [*self.lacking_ends(), *lacking]),
        )

    def _known(self, revision: str, others: list[str]) -> Tally:
        """The others' runs; one's own are no evidence of the rate that they are held to."""
        return self.journal.total(
            [each for each in others if not self.journal.same(each, revision)]
        )

    def side(self, *, shows: bool) -> Side:
        """The side whose revisions show it, or do not."""
        return "new" if shows == self.appears else "old"

    def new_given(self, revision: str, bar: Threshold) -> float:
        """How probable it is that the revision has the change."""
        showing = self.showing_given(revision, bar)
        return showing if self.appears else 1 - showing

    def run_end(self, end: str) -> Run:
        """One more run of an end. Raises HostError for one that says nothing."""
        run = self.journal.run(end)
        if run.word in ("no-boot", "inconclusive"):
            told = "does not boot" if run.word == "no-boot" else "cannot be judged"
            raise HostError(f"the {self.end_name(end)} {told}: {run.reason}")
        return run

    def tally(self, revision: str) -> Tally:
        """The runs that count: of a revision that is checked those of the check, because
        it was chosen for what the others have shown."""
        return self.journal.tally(revision) - self.before.get(revision, Tally())

    def settled(self, revision: str, bar: Threshold) -> tuple[str, str]:
        """The revision is run until it is clear on which side it is: old, new or skip, and
        why."""
        failure = self.journal.build(revision).failure
        if failure:
            return "skip", f"does not build: {failure}"
        while True:
            unfit = [why for run in self.journal.runs(revision) if (why := self._unfit(run))]
            lost = sum(run.word == "inconclusive" for run in self.journal.runs(revision))
            if len(unfit) > lost or lost >= _LOST:
                return "skip", unfit[-1]
            tally = self.tally(revision)
            showing = self.showing_given(revision, bar)
            if tally.runs and bar.is_met(showing, tally):
                side = self.side(shows=showing > 0.5)
                runs = self.journal.runs(revision)
                told = [run.reason for run in runs if (run.word == "shown") == (showing > 0.5)]
                return side, told[-1] if told else ""
            if tally.runs >= self.question.most_runs:
                return "skip", f"is undecided after {tally.runs} runs: {tally.shown} show it"
            end = self._unclear_end(tally)
            if end:
                self.run_end(end)
            else:
                self.journal.run(revision)

    def _unclear_end(self, tally: Tally) -> str:
        """The end whose rate is known from fewer runs than are at confidence with it: a revision
        that shows it at another rate than the ends, once they have been run as often, is
        no riddle any more. "" for none."""
        if not tally.shown:
            return ""
        ends = (self.question.ends.new, *self.question.ends.old)
        end = min(ends, key=lambda each: self.journal.tally(each).runs)
        return end if self.journal.tally(end).runs < tally.runs else ""

    def _unfit(self, run: Run) -> str:
        """Why the run says nothing about what is looked for; "" where it does."""
        if run.word == "no-boot":
            return f"does not boot: {run.reason}"
        if run.word == "inconclusive":
            return f"cannot be judged: {run.reason}"
        if run.word == "shown" and self.question.exact:
            return ""
        strange = [each for each in run.splats if each not in self._usual()]
        return f"reports another splat: {strange[0]}" if strange else ""

    def _usual(self) -> set[str]:
        """The splats of the ends."""
        ends = (self.question.ends.new, *self.question.ends.old)
        return {each for end in ends for run in self.journal.own_runs(end) for each in run.splats}
