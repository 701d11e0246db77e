# SPDX-License-Identifier: GPL-2.0-only
"""How sure a verdict is that rests on runs of which only some show anything.

On one side of the change revisions show what is looked for in some of their runs, at a
rate that nobody knows but that all of them share; on the other side hardly ever. What is
known of both rates comes from runs of revisions whose side is known, by Bayes' rule with
a beta distribution for each.
"""

import math
from dataclasses import dataclass

# How probable it is, before any run, that the other side can show it too, by chance or
# for another reason, at a rate that nobody knows.
_NOISE = 0.05

# With fewer than this the rate is a guess; what is gained by more is little.
_ENOUGH_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Tally:
    """Of some runs, how many have ``shown`` it and how many not, ``clean``."""

    shown: int = 0
    clean: int = 0

    @property
    def runs(self) -> int:
        return self.shown + self.clean

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

    def showing_given(self, seen: Tally) -> float:
        """How probable it is that a revision can show it, after these runs of it and with
        nothing else known."""
        shows = _evidence(seen, self.showing)
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


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def is_measured(seen: Tally) -> bool:
    """Whether an end's rate is known well enough to go on."""
    return seen.shown >= _ENOUGH_SHOWN


def enough_for_a_step(probability: float, left: int) -> bool:
    """Whether a step can go on with the likelier side, with ``left`` revisions to choose
    from. The last word is on the culprit's parent, whose runs decide at the confidence
    asked for: a step that is mistaken costs the steps after it, and is found out then. So
    one more run is worth its while where the doubt, times those steps, is above one.
    """
    after = math.ceil(math.log2(max(left, 1))) + 1
    return min(probability, 1 - probability) <= 1 / (after + 1)
