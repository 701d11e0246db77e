# SPDX-License-Identifier: GPL-2.0-only
"""Whether a scenario fails because of a mutant, and not by chance.

A scenario that fails once may be one that fails now and then on any kernel. So it is run
again, on the mutant and on the base in turn, and two explanations are weighed. By chance:
it fails at one rate on both, whatever that is. By the mutant: it fails in 80 % of its runs
there and in 1 % on the base. The *evidence* is how much better the second explains the
runs than the first does at the rate that is best for it (Wald's sequential ratio, with
the supremum over the rate):

    0.8^f 0.2^p 0.01^f' 0.99^p' / sup r: r^(f+f') (1-r)^(p+p')

after f failures and p passes on the mutant, f' and p' on the base. At any one rate its
expectation is 1 or less, and stays so with each run, so that by Ville's inequality the
probability that it ever comes to 1000 by chance is one in 1000 or less, whenever the runs
end. Six failures on the mutant and six passes on the base are enough (0.792^6 * 4^6 = 1011),
three are where the base has passed twenty times for other mutants. Of a flake that fails in
3 % of its runs the first run on the mutant passes, but for 3 %, and the evidence falls to
0.2. The failure that led here is not counted: it was chosen for being one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

_ON_MUTANT, _ON_BASE = 0.8, 0.01

_ENOUGH = math.log(1000)

# Less than this is not worth more runs; nor are more runs of the mutant than that.
_FUTILE = math.log(1 / 20)
_MOST = 12

# Runs without an answer, as when this host is in trouble, before it is given up.
_LOST = 3


@dataclass(frozen=True, slots=True)
class Trials:
    """The runs of one scenario on one kernel."""

    failed: int = 0
    passed: int = 0

    @property
    def runs(self) -> int:
        return self.failed + self.passed

    def after(self, *, failed: bool) -> "Trials":
        return Trials(self.failed + failed, self.passed + (not failed))

    def __str__(self) -> str:
        return f"{self.failed} of {self.runs} runs"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The runs on the mutant and on the base, and whether they confirm that it is the
    mutant that makes the scenario fail."""

    mutant: Trials
    base: Trials
    confirmed: bool

    def __str__(self) -> str:
        return f"fails in {self.mutant} with it and {self.base} without"


# One run more: whether the scenario fails; None where that cannot be said.
Trial = Callable[[], bool | None]


def confirmed(on_mutant: Trial, on_base: Trial, base: Trials) -> Confirmation:
    """After as many runs as it takes; ``base`` are those that the base has had already."""
    mutant, lost = Trials(), 0
    while _FUTILE < (value := evidence(mutant, base)) < _ENOUGH:
        if mutant.runs >= _MOST or lost >= _LOST:
            break
        is_base = base.runs < mutant.runs
        failed = on_base() if is_base else on_mutant()
        if failed is None:
            lost += 1
        elif is_base:
            base = base.after(failed=failed)
        else:
            mutant = mutant.after(failed=failed)
    return Confirmation(mutant, base, value >= _ENOUGH)


def evidence(mutant: Trials, base: Trials) -> float:
    """The logarithm of it."""
    apart = _likelihood(mutant, _ON_MUTANT) + _likelihood(base, _ON_BASE)
    both = Trials(mutant.failed + base.failed, mutant.passed + base.passed)
    return apart - _likelihood(both, both.failed / max(both.runs, 1))


def _likelihood(seen: Trials, rate: float) -> float:
    failed = seen.failed * math.log(rate) if seen.failed else 0.0
    return failed + (seen.passed * math.log1p(-rate) if seen.passed else 0.0)
