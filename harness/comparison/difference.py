# SPDX-License-Identifier: GPL-2.0-only
"""Tell a difference between two sides from noise: what differs between runs of one side.

A fact that is in every run of one side and in no run of the other is a difference once both sides
have run often enough. In between, Fisher's exact test decides: the probability that the runs with
the fact are spread over the two sides as they are, or more unevenly, if the sides do not differ.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.comparison.fact import Fact

# The probability at which a fact is a difference. With 7 runs of each side, a fact in all runs of
# one side and in none of the other reaches it (2 / C(14, 7) = 0.0006).
_CHANCE = 0.001

# The numbers of runs of each side: to see whether anything differs, to tell difference from noise,
# and to decide a fact that is still undecided then.
FIRST, ENOUGH, MOST = 3, 7, 21
# The probability below which more runs are worthwhile.
_SUSPICIOUS = 0.05

Run = frozenset[Fact]


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is more frequent on one side. ``old`` and ``new`` are the numbers of runs with
    the fact."""

    fact: Fact
    old: int
    new: int

    @property
    def side(self) -> str:
        """The side with the fact: "old" or "new"."""
        return "old" if self.old > self.new else "new"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences, and the facts that vary between the runs of one side (``noise``). ``old``
    and ``new`` are the numbers of runs."""

    old: int
    new: int
    differences: tuple[Difference, ...]
    noise: tuple[Difference, ...]


def compare(old: Sequence[Run], new: Sequence[Run]) -> Comparison:
    """Compare the runs of the two sides."""
    before = Counter(each for run in old for each in run)
    after = Counter(each for run in new for each in run)
    found = [
        Difference(fact, before[fact], after[fact])
        for fact in before.keys() | after.keys()
        if (before[fact], after[fact]) != (len(old), len(new))
    ]
    found.sort(key=lambda each: (each.fact.step, each.fact.position, each.fact.text))
    differs = [_chance(each, len(old), len(new)) <= _CHANCE for each in found]
    return Comparison(
        len(old),
        len(new),
        tuple(each for each, yes in zip(found, differs, strict=True) if yes),
        tuple(each for each, yes in zip(found, differs, strict=True) if not yes),
    )


def runs_needed(found: Comparison) -> int:
    """The number of runs of each side that the comparison needs so far."""
    if not found.noise:
        return min(found.old, FIRST) if found.old >= FIRST else FIRST
    if found.old < ENOUGH:
        return ENOUGH
    open_ = any(_chance(each, found.old, found.new) < _SUSPICIOUS for each in found.noise)
    return MOST if open_ else found.old


def _chance(each: Difference, old: int, new: int) -> float:
    """The probability of Fisher's exact test, two-sided."""
    total, total_with = old + new, each.old + each.new

    every = math.comb(total, total_with)

    def of(count: int) -> float:
        return math.comb(old, count) * math.comb(new, total_with - count) / every

    observed = of(each.old)
    possible = range(max(0, total_with - new), min(old, total_with) + 1)
    return sum(p for p in map(of, possible) if p <= observed * (1 + 1e-9))
