# SPDX-License-Identifier: GPL-2.0-only
"""How sure a verdict is that rests on runs of which only some show anything.

On one side of the change revisions show the symptom in some of their runs; on the
other side hardly ever. What is known of both rates comes from runs of revisions whose
side is known, by Bayes' rule with a beta distribution for each.

A step takes it that all revisions of a side share one rate, because that is cheap and a
mistake is found out later. The last word does not: a change often makes the window of an
older race wider, so that the end shows in every run what a revision before that change
shows in one of five. That change is then taken for the culprit, since its parent stays
clean in five runs with a probability of 0.8 ** 5, a third, and not in one search of a
thousand. So the last word on a revision holds it to the least rate that it can have: that
of its neighbour, divided by ``WIDER``. Of a revision with that rate or a higher one n
runs stay clean with a probability of at most (1 - rate) ** n, whatever the rates of other
revisions are and however they are distributed: it is the worst case over all of them, and
no average. What has a lower rate can be missed more often, and no number of clean runs
rules that out for every rate; the least rate is therefore part of the answer.
"""

import math
from dataclasses import dataclass

# How probable it is, before any run, that the other side can show it too, by chance or
# for another reason, at a rate that nobody knows.
_NOISE = 0.05

# With fewer than this the rate of an end is a guess; what is gained by more is little.
_ENOUGH_SHOWN = 5

# A rate that the last word on other revisions rests on is worth more: what its measurement
# costs is saved there.
LAST_SHOWN = 10

# How many times wider one change makes the window of a race. With five, a parent that shows
# in 20 % of its runs what its child always shows is found out; each more makes the last
# word dearer in proportion.
WIDER = 5.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Of some runs, how many have ``shown`` it and how many not, ``clean``."""

    shown: int = 0
    clean: int = 0

    @property
    def runs(self) -> int:
        return self.shown + self.clean

    @property
    def rate(self) -> float:
        """What is to be expected of the next run, by Laplace's rule of succession."""
        return (self.shown + 1) / (self.runs + 2)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.shown + other.shown, self.clean + other.clean)

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(self.shown - other.shown, self.clean - other.clean)

    def __str__(self) -> str:
        return f"{self.shown} of {self.runs}"


@dataclass(frozen=True, slots=True)
class Rates:
    """The runs of revisions of which it is known that they can show it, ``showing``, or
    not, ``lacking``."""

    showing: Tally
    lacking: Tally

    def least(self, rarer: float) -> float:
        """The least rate of a revision that can show it, so many times ``rarer`` than the
        others."""
        return self.showing.rate / self._rarer(rarer)

    def _rarer(self, rarer: float) -> float:
        """Where the other side shows it too the least is not below halfway between both, as
        a ratio: nearer to the other side no number of runs distinguishes them."""
        if not self.lacking.shown:
            return rarer
        return max(1.0, min(rarer, math.sqrt(self.showing.rate / self.lacking.rate)))

    def showing_given(self, seen: Tally, rarer: float = 1.0) -> float:
        """How probable it is that a revision can show it, after these runs of it and with
        nothing else known; at the others' rate or the least, whichever explains them better."""
        least = _evidence_of_rarer(seen, self.showing, self._rarer(rarer))
        shows = max(_evidence(seen, self.showing), least)
        lacks = self._by_noise(seen)
        return 1 / (1 + math.exp(min(lacks - shows, 700.0)))

    def _by_noise(self, seen: Tally) -> float:
        """The evidence for the side that lacks it: it never shows it, or seldom."""
        if self.lacking.shown:
            return _evidence(seen, self.lacking)
        noisy = _NOISE * math.exp(_evidence(self.lacking, Tally()))
        noisy /= noisy + 1 - _NOISE
        never = 0.0 if seen.shown else 1 - noisy
        seldom = math.log(noisy) + _evidence(seen, self.lacking)
        return seldom if not never else math.log(never + math.exp(seldom))


def is_less(one: Tally, other: Tally) -> bool:
    """Whether the one has shown it less often, of as many runs."""
    return one.shown * other.runs < other.shown * one.runs


def are_distinct(one: Tally, other: Tally, factor: float) -> bool:
    """Whether the one shows it more often: that they have rates of their own explains
    their runs by that ``factor`` better than one rate for both (Bayes factor)."""
    apart = _evidence(one, Tally()) + _evidence(other, Tally())
    same = _evidence(one + other, Tally())
    return is_less(other, one) and apart - same > math.log(factor)


def _evidence(seen: Tally, known: Tally) -> float:
    """The logarithm of the probability of these runs, at a rate of which ``known`` runs
    are known and nothing before them: a beta-binomial distribution, without the factor
    that is the same for every rate."""
    shown, clean = 1 + known.shown, 1 + known.clean
    return _log_beta(shown + seen.shown, clean + seen.clean) - _log_beta(shown, clean)


def _evidence_of_rarer(seen: Tally, known: Tally, rarer: float) -> float:
    """The same at a rate that is so many times rarer: of the runs that would show it at the
    known rate one in ``rarer`` does. So a clean run either stays clean at the known rate
    too, or not but for that; the sum is over how many are of the first kind."""
    if rarer == 1:
        return _evidence(seen, known)
    count, runs = seen.clean, 2 + known.runs + seen.shown
    terms = [count * math.log1p(-1 / rarer) + _evidence(Tally(seen.shown), known)]
    for clean in range(count):
        chosen = (count - clean) / (clean + 1) / (rarer - 1)
        terms.append(terms[-1] + math.log(chosen * (1 + known.clean + clean) / (runs + clean)))
    largest = max(terms)
    total = math.log(sum(math.exp(term - largest) for term in terms))
    return largest + total - seen.shown * math.log(rarer)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def is_measured(seen: Tally, enough: int = _ENOUGH_SHOWN) -> bool:
    """Whether a rate is known well enough to go on."""
    return seen.shown >= enough


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a verdict takes: at most so much ``doubt``, of a revision that may show it so
    many times ``rarer`` than others, and than those ``near`` it; and if it shows it, so often as
    is ``measured``, because its neighbours are held to its rate."""

    doubt: float
    rarer: float = 1.0
    near: tuple[str, ...] = ()
    measured: int = 0

    def is_met(self, showing: float, seen: Tally) -> bool:
        """By how probable it is, after the runs ``seen``, that the revision can show it."""
        if min(showing, 1 - showing) > self.doubt:
            return False
        return showing < 0.5 or is_measured(seen, self.measured)


def of_a_step(left: int) -> Threshold:
    """What it takes to go on with the likelier side, with ``left`` revisions to choose from.
    The last word is on the culprit's parent, whose runs decide at the requested confidence:
    a step that is mistaken costs the steps after it, and is found out then. So one more run
    is worth its while where the doubt, times those steps, is above one.
    """
    after = math.ceil(math.log2(max(left, 1))) + 1
    return Threshold(1 / (after + 1))
