# SPDX-License-Identifier: GPL-2.0-only
"""Confirm that a scenario fails because of a mutant, and not by chance.

A scenario that failed once may be flaky on any kernel. It is run again, on the mutant and on the
base in turn, and two hypotheses are compared. By chance: it fails at the same rate on both,
whatever that rate is. By the mutant: it fails in 80% of its runs on the mutant and in 1% on the
base. The *evidence* is the likelihood ratio of the second to the first at its most likely rate
(Wald's sequential ratio, with the supremum over the rate):

    0.8^f 0.2^p 0.01^f' 0.99^p' / sup r: r^(f+f') (1-r)^(p+p')

after f failures and p passes on the mutant, f' and p' on the base. At any one rate its expectation
is 1 or less, and stays so with each run. By Ville's inequality the probability that it ever reaches
1000 by chance is at most one in 1000, whenever the runs end. Six failures on the mutant and six
passes on the base suffice (0.792^6 * 4^6 = 1011), or three failures if the base has passed twenty
times for other mutants. A flake that fails in 3% of its runs passes its first run on the mutant
with a probability of 97%, and the evidence falls to 0.2. The failure that led here does not count,
because it was selected for being one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ON_MUTANT, _ON_BASE = 0.8, 0.01

_ENOUGH = math.log(1000)

# Below this evidence, or after this many runs on the mutant, further runs are not worth it.
_FUTILE = math.log(1 / 20)
_MAX_RUNS = 12

# The number of inconclusive runs, for example after an error on this host, before giving up.
_MAX_INCONCLUSIVE = 3


@dataclass(frozen=True, slots=True)
class Trials:
    """The runs of one scenario on one kernel."""

    failed: int = 0
    passed: int = 0

    @property
    def runs(self) -> int:
        return self.failed + self.passed

    def after(self, results: Sequence[bool]) -> "Trials":
        """Add further runs. ``results`` are whether each of them failed."""
        failed = sum(results)
        return Trials(self.failed + failed, self.passed + len(results) - failed)

    def __str__(self) -> str:
        return f"{self.failed} of {self.runs} runs"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The runs on the mutant and on the base, and whether they confirm that the mutant makes the
    scenario fail."""

    mutant: Trials
    base: Trials
    confirmed: bool

    def __str__(self) -> str:
        return f"fails in {self.mutant} with it and {self.base} without"


# Runs the scenario this many times. Returns whether each run failed, None if it is inconclusive.
Trial = Callable[[int], Sequence[bool | None]]


def confirmed(on_mutant: Trial, on_base: Trial, base: Trials) -> Confirmation:
    """Run until the evidence suffices or is unlikely to. ``base`` are earlier runs on the base.

    The runs that suffice if none surprises are one batch, because starting one run costs more
    than the run."""
    mutant, inconclusive = Trials(), 0
    while _FUTILE < (value := evidence(mutant, base)) < _ENOUGH:
        if mutant.runs >= _MAX_RUNS or inconclusive >= _MAX_INCONCLUSIVE:
            break
        is_base = base.runs < mutant.runs
        batch = mutant.runs - base.runs if is_base else _missing(mutant, base)
        results = on_base(batch) if is_base else on_mutant(batch)
        conclusive = [each for each in results if each is not None]
        inconclusive += batch - len(conclusive)
        if is_base:
            base = base.after(conclusive)
        else:
            mutant = mutant.after(conclusive)
    return Confirmation(mutant, base, value >= _ENOUGH)


def _missing(mutant: Trials, base: Trials) -> int:
    """How many more failures on the mutant suffice if the base passes as often."""
    most = _MAX_RUNS - mutant.runs
    for count in range(1, most):
        failing = mutant.after([True] * count)
        passing = base.after([False] * max(0, failing.runs - base.runs))
        if evidence(failing, passing) >= _ENOUGH:
            return count
    return most


def evidence(mutant: Trials, base: Trials) -> float:
    """The logarithm of the evidence."""
    by_mutant = _likelihood(mutant, _ON_MUTANT) + _likelihood(base, _ON_BASE)
    both = Trials(mutant.failed + base.failed, mutant.passed + base.passed)
    return by_mutant - _likelihood(both, both.failed / max(both.runs, 1))


def _likelihood(seen: Trials, rate: float) -> float:
    failed = seen.failed * math.log(rate) if seen.failed else 0.0
    return failed + (seen.passed * math.log1p(-rate) if seen.passed else 0.0)
