# SPDX-License-Identifier: GPL-2.0-only
"""The classification of a revision as old, new or skip, from its own runs and from the rates at
which other revisions show the symptom.
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

# The number of inconclusive runs after which a revision is skipped.
_MAX_INCONCLUSIVE = 2


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of a search.

    ``exact``: whether no other bug shows the same symptom, as for a whole report. A revision
    with a splat that no endpoint reports is skipped, unless it shows an exact symptom.
    ``either_way``: whether the symptom may also disappear with the change.
    ``max_runs``: the maximum number of runs of each revision.
    """

    endpoints: Endpoints
    terms: Terms
    confidence: float = 0.99
    exact: bool = True
    either_way: bool = False
    max_runs: int = 500


@dataclass(slots=True)
class Classifier:
    """Classifies revisions by running them.

    ``verdicts``: the verdicts so far (old, new or skip), by revision.
    ``before_check``: for each revision in the final check, its tally before that check.
    ``appears``: whether the symptom appears with the change; otherwise it disappears.
    """

    repository: Path
    parameters: Parameters
    journal: Journal
    verdicts: dict[str, str] = field(default_factory=dict)
    before_check: dict[str, Tally] = field(default_factory=dict)
    appears: bool = True

    def affected_endpoints(self) -> list[str]:
        """The endpoints that show the symptom."""
        endpoints = self.parameters.endpoints
        return [endpoints.new] if self.appears else list(endpoints.old)

    def unaffected_endpoints(self) -> list[str]:
        """The endpoints that do not show the symptom."""
        endpoints = self.parameters.endpoints
        return list(endpoints.old) if self.appears else [endpoints.new]

    def endpoint_name(self, endpoint: str) -> str:
        """The name of an endpoint in messages: its term, hash and subject."""
        term = self.term("new" if endpoint == self.parameters.endpoints.new else "old")
        subject = gitbisect.subject(self.repository, endpoint)
        return f"{term} endpoint {endpoint[:12]} ({subject})"

    def term(self, verdict: str) -> str:
        """The user's term for a verdict."""
        terms = {"old": self.parameters.terms.old, "new": self.parameters.terms.new}
        return terms.get(verdict, verdict)

    def p_affected(self, revision: str, threshold: Threshold) -> float:
        """The probability that the revision is affected."""
        rates = self._rates(revision, threshold)
        return rates.posterior(self.tally(revision), threshold.ratio)

    def lowest_rate(self, revision: str, threshold: Threshold) -> float:
        """The lowest rate of the symptom that the threshold allows for the revision if it is
        affected."""
        return self._rates(revision, threshold).lowest(threshold.ratio)

    def _rates(self, revision: str, threshold: Threshold) -> Rates:
        """The runs of affected and of unaffected revisions, which estimate their rates. If a
        neighbour in ``threshold`` has a lower rate than all affected revisions together, its
        runs are used for the affected rate."""
        affected = self._with_verdict(self.side(affected=True))
        unaffected = self._with_verdict(self.side(affected=False))
        others = self._total(revision, [*self.affected_endpoints(), *affected])
        near = [tally for each in threshold.neighbours if (tally := self.tally(each)).shown]
        return Rates(
            min([others, *near], key=lambda tally: tally.rate),
            self._total(revision, [*self.unaffected_endpoints(), *unaffected]),
        )

    def _with_verdict(self, side: Side) -> list[str]:
        return [revision for revision, verdict in self.verdicts.items() if verdict == side]

    def _total(self, revision: str, others: list[str]) -> Tally:
        """The tally of ``others``, without the revision itself and identical kernels: their
        runs are not evidence for the rate that the revision is compared with."""
        return self.journal.total(
            [each for each in others if not self.journal.is_identical(each, revision)]
        )

    def side(self, *, affected: bool) -> Side:
        """Which side of the change the affected (or unaffected) revisions are on: "old" or
        "new"."""
        return "new" if affected == self.appears else "old"

    def p_new(self, revision: str, threshold: Threshold) -> float:
        """The probability that the revision has the change."""
        affected = self.p_affected(revision, threshold)
        return affected if self.appears else 1 - affected

    def run_endpoint(self, endpoint: str) -> Run:
        """Run an endpoint once more, and return the run. Raises HostError if the kernel does not
        boot or the run is inconclusive."""
        run = self.journal.run(endpoint)
        if run.result in ("no-boot", "inconclusive"):
            name = self.endpoint_name(endpoint)
            problem = (
                f"the {name} does not boot"
                if run.result == "no-boot"
                else f"the run of the {name} is inconclusive"
            )
            raise HostError(f"{problem}: {run.reason}")
        return run

    def tally(self, revision: str) -> Tally:
        """The tally of the revision. In the final check, only the runs of the check count, because
        the revision was selected by the results of its earlier runs."""
        return self.journal.tally(revision) - self.before_check.get(revision, Tally())

    def classify(self, revision: str, threshold: Threshold) -> tuple[str, str]:
        """Run the revision until its runs meet the threshold or reach ``max_runs``. Returns the
        verdict (old, new or skip) and its reason."""
        failure = self.journal.build(revision).failure
        if failure:
            return "skip", f"does not build: {failure}"
        while True:
            runs = self.journal.runs(revision)
            unusable = [reason for run in runs if (reason := self._unusable(run))]
            inconclusive = sum(run.result == "inconclusive" for run in runs)
            if len(unusable) > inconclusive or inconclusive >= _MAX_INCONCLUSIVE:
                return "skip", unusable[-1]
            tally = self.tally(revision)
            affected = self.p_affected(revision, threshold)
            if tally.runs and threshold.is_met(affected, tally):
                return self._verdict(runs, affected=affected > 0.5)
            if tally.runs >= self.parameters.max_runs:
                return "skip", f"undecided: symptom in {tally} runs"
            endpoint = self._less_measured_endpoint(tally)
            if endpoint:
                self.run_endpoint(endpoint)
            else:
                self.journal.run(revision)

    def _verdict(self, runs: list[Run], *, affected: bool) -> tuple[str, str]:
        """The verdict, and the reason for the last run that agrees with it."""
        reasons = [run.reason for run in runs if (run.result == "shown") == affected]
        return self.side(affected=affected), reasons[-1] if reasons else ""

    def _less_measured_endpoint(self, tally: Tally) -> str:
        """An endpoint with fewer runs than the tally, or "" if there is no such endpoint, or if
        the tally has no run with the symptom. A rate that differs from the rates of both
        endpoints is resolved by running each endpoint as often as the revision."""
        if not tally.shown:
            return ""
        endpoints = (self.parameters.endpoints.new, *self.parameters.endpoints.old)
        endpoint = min(endpoints, key=lambda each: self.journal.tally(each).runs)
        return endpoint if self.journal.tally(endpoint).runs < tally.runs else ""

    def _unusable(self, run: Run) -> str:
        """The reason why the run is not evidence about the symptom, "" if it is evidence."""
        if run.result == "no-boot":
            return f"does not boot: {run.reason}"
        if run.result == "inconclusive":
            return f"inconclusive: {run.reason}"
        if run.result == "shown" and self.parameters.exact:
            return ""
        other = [each for each in run.splats if each not in self._splats_of_endpoints()]
        return f"reports a different splat: {other[0]}" if other else ""

    def _splats_of_endpoints(self) -> set[str]:
        endpoints = (self.parameters.endpoints.new, *self.parameters.endpoints.old)
        return {
            splat
            for each in endpoints
            for run in self.journal.own_runs(each)
            for splat in run.splats
        }
