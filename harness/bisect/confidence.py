# SPDX-License-Identifier: GPL-2.0-only
"""The confidence of a verdict about a flaky symptom.

A revision is *affected* if it can show the symptom. Affected revisions show the symptom in
some of their runs, unaffected revisions almost never. Both rates are estimated from the runs
of revisions with a known verdict, by Bayes' rule with a beta distribution for each rate.

A step of the search assumes that all affected revisions share one rate. This needs few runs,
and the final check finds a step that was wrong. The final check does not assume a shared
rate, because a commit often widens the window of an older race. For example, the bad endpoint
shows the symptom in every run, but the revisions before some later commit show it in one run
of five. That commit may then appear to be the first bad one: its parent is clean in five runs
with a probability of 0.8 ** 5, which is a third, while a shared rate predicts about one in a
thousand.

The final check therefore assumes the lowest rate that the revision may have: the rate of its
neighbour, divided by ``MAX_RATE_RATIO``. A revision with at least this rate is clean in n
runs with a probability of at most (1 - rate) ** n. This bound does not depend on the rates of
other revisions or on their distribution: it is the worst case, not an average. A revision
with a lower rate can be missed more often. No number of clean runs excludes every rate, so
the lowest rate is reported with the result.
"""

import math
from dataclasses import dataclass

# The prior probability that unaffected revisions show the symptom too, by chance or for
# another reason, at some unknown rate.
_FALSE_POSITIVE_PRIOR = 0.05

# The number of runs with the symptom from which an endpoint's rate is estimated. With fewer,
# the estimate is a guess; more improve it little.
_MIN_SHOWN = 5

# The same number for a rate on which the final check of other revisions depends: a better
# estimate saves more runs there than it costs.
CHECK_MIN_SHOWN = 10

# The factor by which one commit may widen the window of a race. With a factor of 5, the final check
# finds a parent that shows the symptom in 20% of its runs if its child always shows it. The number
# of runs in the check is proportional to the factor.
MAX_RATE_RATIO = 5.0


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of runs that have ``shown`` the symptom, and of ``clean`` runs."""

    shown: int = 0
    clean: int = 0

    @property
    def runs(self) -> int:
        return self.shown + self.clean

    @property
    def rate(self) -> float:
        """The expected rate of the symptom in further runs, by Laplace's rule of succession."""
        return (self.shown + 1) / (self.runs + 2)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.shown + other.shown, self.clean + other.clean)

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(self.shown - other.shown, self.clean - other.clean)

    def __str__(self) -> str:
        return f"{self.shown} of {self.runs}"


@dataclass(frozen=True, slots=True)
class Rates:
    """The tallies of the revisions known to be ``affected``, and known to be ``unaffected``."""

    affected: Tally
    unaffected: Tally

    def lowest(self, ratio: float) -> float:
        """The lowest rate that an affected revision may have: the rate of the known affected
        revisions, divided by ``ratio``."""
        return self.affected.rate / self._limited(ratio)

    def _limited(self, ratio: float) -> float:
        """The ratio, limited if unaffected revisions show the symptom too: the lowest rate is
        then at least the geometric mean of both rates. No number of runs can distinguish a lower
        rate from the unaffected rate."""
        if not self.unaffected.shown:
            return ratio
        return max(1.0, min(ratio, math.sqrt(self.affected.rate / self.unaffected.rate)))

    def posterior(self, tally: Tally, ratio: float = 1.0) -> float:
        """The probability that a revision with these runs is affected. The prior is one half.
        The rate of an affected revision is the known rate or the lowest rate, whichever
        explains the runs better."""
        lowest = _log_evidence_at_lower_rate(tally, self.affected, self._limited(ratio))
        affected = max(_log_evidence(tally, self.affected), lowest)
        unaffected = self._log_evidence_unaffected(tally)
        return 1 / (1 + math.exp(min(unaffected - affected, 700.0)))

    def _log_evidence_unaffected(self, tally: Tally) -> float:
        """The log evidence for an unaffected revision, which shows the symptom never or
        rarely."""
        if self.unaffected.shown:
            return _log_evidence(tally, self.unaffected)
        noisy = _FALSE_POSITIVE_PRIOR * math.exp(_log_evidence(self.unaffected, Tally()))
        noisy /= noisy + 1 - _FALSE_POSITIVE_PRIOR
        never = 0.0 if tally.shown else 1 - noisy
        seldom = math.log(noisy) + _log_evidence(tally, self.unaffected)
        return seldom if not never else math.log(never + math.exp(seldom))


def has_lower_rate(one: Tally, other: Tally) -> bool:
    """Whether ``one`` has shown the symptom in a smaller fraction of its runs than ``other``."""
    return one.shown * other.runs < other.shown * one.runs


def has_distinctly_higher_rate(one: Tally, other: Tally, factor: float) -> bool:
    """Whether ``one`` has a higher rate than ``other``, and two rates explain the runs better
    than one shared rate by more than ``factor`` (a Bayes factor)."""
    separate = _log_evidence(one, Tally()) + _log_evidence(other, Tally())
    shared = _log_evidence(one + other, Tally())
    return has_lower_rate(other, one) and separate - shared > math.log(factor)


def _log_evidence(tally: Tally, known: Tally) -> float:
    """The logarithm of the probability of these runs, given the ``known`` runs at the same
    rate and a uniform prior: a beta-binomial distribution, without the binomial coefficient,
    which is the same for every rate."""
    shown, clean = 1 + known.shown, 1 + known.clean
    return _log_beta(shown + tally.shown, clean + tally.clean) - _log_beta(shown, clean)


def _log_evidence_at_lower_rate(tally: Tally, known: Tally, ratio: float) -> float:
    """As ``_log_evidence``, but at the known rate divided by ``ratio``: of the runs that would
    show the symptom at the known rate, one in ``ratio`` shows it. A clean run is therefore
    clean at the known rate too, or clean only because of the lower rate. The sum is over the
    number of runs that are clean at the known rate too."""
    if ratio == 1:
        return _log_evidence(tally, known)
    count, runs = tally.clean, 2 + known.runs + tally.shown
    terms = [count * math.log1p(-1 / ratio) + _log_evidence(Tally(tally.shown), known)]
    for clean in range(count):
        chosen = (count - clean) / (clean + 1) / (ratio - 1)
        terms.append(terms[-1] + math.log(chosen * (1 + known.clean + clean) / (runs + clean)))
    largest = max(terms)
    total = math.log(sum(math.exp(term - largest) for term in terms))
    return largest + total - tally.shown * math.log(ratio)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def is_measured(tally: Tally, min_shown: int = _MIN_SHOWN) -> bool:
    """Whether enough runs have shown the symptom to estimate its rate."""
    return tally.shown >= min_shown


@dataclass(frozen=True, slots=True)
class Threshold:
    """The requirements for a verdict on a revision.

    ``max_error``: the maximum probability of error.
    ``ratio``: the factor by which the revision's rate may be lower than the rate of other
    affected revisions and of its ``neighbours``.
    ``min_shown``: the minimum number of runs with the symptom if the revision is affected,
    because its neighbours are checked against its rate.
    """

    max_error: float
    ratio: float = 1.0
    neighbours: tuple[str, ...] = ()
    min_shown: int = 0

    def is_met(self, posterior: float, tally: Tally) -> bool:
        """Whether these runs, and this probability of being affected, suffice for a verdict."""
        if min(posterior, 1 - posterior) > self.max_error:
            return False
        return posterior < 0.5 or is_measured(tally, self.min_shown)


def step_threshold(left: int) -> Threshold:
    """The threshold for a step with ``left`` candidates remaining.

    Only the final check of the first bad commit and its parents has to reach the requested
    confidence. It catches a wrong step, which wastes only the steps after it. So one more run pays
    off only while it is expected to save more than one run: the probability of error times the
    number of runs that would be wasted, about one for each of the remaining steps.
    """
    after = math.ceil(math.log2(max(left, 1))) + 1
    return Threshold(1 / (after + 1))
