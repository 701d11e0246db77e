# SPDX-License-Identifier: GPL-2.0-only
"""The confidence of a bisect step if only some runs show the symptom."""

import bisect
import functools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bisect import confidence
from harness.bisect.confidence import Rates, Tally, Threshold

NONE = Tally()


tallies = st.builds(Tally, st.integers(0, 40), st.integers(0, 40))


@given(tallies, tallies, st.integers(0, 40))
def test_shown_runs_raise_the_probability_and_clean_runs_lower_it(
    known: Tally, other: Tally, clean: int
) -> None:
    rates = Rates(Tally(known.shown + 1, known.clean), Tally(0, other.clean))
    without = rates.posterior(Tally(0, clean))
    assert 0 <= rates.posterior(Tally(0, clean + 1)) <= without <= 0.5
    assert without < rates.posterior(Tally(1, clean)) <= 1


def test_a_higher_rate_requires_fewer_clean_runs() -> None:
    frequent, rare = Rates(Tally(5, 0), Tally(0, 5)), Rates(Tally(5, 20), Tally(0, 10))
    assert frequent.posterior(Tally(0, 4)) < 0.01
    assert rare.posterior(Tally(0, 4)) > 0.2
    assert rare.posterior(Tally(1, 4)) > 0.99
    assert rare.posterior(Tally(2, 8)) > 0.995


@given(tallies)
def test_equal_tallies_have_no_distinctly_higher_rate(tally: Tally) -> None:
    assert not confidence.has_distinctly_higher_rate(tally, tally, 20)
    assert confidence.has_distinctly_higher_rate(Tally(18, 2), Tally(2, 18), 20)


@given(st.floats(0, 1), st.integers(1, 10000))
def test_a_step_near_the_end_requires_no_more_confidence(sure: float, left: int) -> None:
    if confidence.step_threshold(left * 2).is_met(sure, NONE):
        assert confidence.step_threshold(left).is_met(sure, NONE)


@pytest.mark.parametrize("seen", [Tally(0, 37), Tally(3, 20), Tally(0, 0), Tally(1, 0)])
@pytest.mark.parametrize("known", [NONE, Tally(10, 0), Tally(10, 23)])
def test_the_evidence_at_a_lower_rate_matches_numerical_integration(
    seen: Tally, known: Tally
) -> None:
    """The closed form equals the integral over the rate (computed here by the midpoint rule)."""

    def density(rate: float) -> float:
        return rate**known.shown * (1 - rate) ** known.clean

    rates = [(number + 0.5) / 4000 for number in range(4000)]
    whole = sum(density(each) for each in rates)
    part = sum(
        density(each) * (each / 5) ** seen.shown * (1 - each / 5) ** seen.clean for each in rates
    )
    found = confidence._log_evidence_at_lower_rate(seen, known, 5.0)
    assert found == pytest.approx(math.log(part / whole), abs=1e-4)


def test_a_threshold_can_require_shown_runs() -> None:
    threshold = Threshold(0.01, min_shown=5)
    assert not threshold.is_met(0.999, Tally(4, 2))
    assert threshold.is_met(0.999, Tally(5, 2))
    assert threshold.is_met(0.001, Tally(0, 40))


# Draws of the rates (child, parent), from distributions that the model does not assume.
HISTORIES: dict[str, Callable[[random.Random], tuple[float, float]]] = {
    "a fifth": lambda _draw: (1.0, 0.2),
    "a fifth of half": lambda _draw: (0.5, 0.1),
    "falling by factors": lambda draw: (
        (child := 2.0 ** -draw.randrange(4)),
        child / draw.choice((2, 3, 4, 5)),
    ),
    "U-shaped": lambda draw: (1.0, 0.2 + 0.8 * draw.betavariate(0.5, 0.5)),
    "bimodal": lambda draw: (draw.choice((0.25, 1.0)), draw.choice((0.2, 1.0))),
    "drifting": lambda draw: (
        (child := draw.uniform(0.1, 1)),
        max(0.02, child * draw.uniform(0.2, 1.2)),
    ),
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("requested", [0.01, 0.001])
def test_a_bad_parent_passes_as_clean_no_more_often_than_requested(
    history: str, requested: float
) -> None:
    """The bound holds for the mean over random measurements of the child's rate."""
    draw = random.Random(history)
    errors = [
        _missed(*HISTORIES[history](draw), requested, confidence.MAX_RATE_RATIO, draw)
        for _ in range(200)
    ]
    assert sum(errors) / len(errors) <= requested
    # Without the allowance for lower rates, the bound does not hold.
    unallowed = [_missed(*HISTORIES[history](draw), requested, 1.0, draw) for _ in range(200)]
    assert sum(unallowed) / len(unallowed) > requested


def _missed(
    child: float, parent: float, requested: float, ratio: float, draw: random.Random
) -> float:
    """The probability that all runs of the parent stay clean."""
    seen = NONE
    while not confidence.is_measured(seen, confidence.CHECK_MIN_SHOWN):
        seen += Tally(1, 0) if draw.random() < child else Tally(0, 1)
    return float((1 - parent) ** _runs_of_the_parent(seen, requested, ratio))


@functools.cache
def _runs_of_the_parent(child: Tally, requested: float, ratio: float) -> int:
    rates, threshold = Rates(child, Tally(0, 10)), Threshold(requested, ratio)

    def is_met(runs: int) -> bool:
        return threshold.is_met(rates.posterior(Tally(0, runs), ratio), Tally(0, runs))

    return bisect.bisect_left(range(10000), True, lo=1, key=is_met)
