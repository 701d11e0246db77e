# SPDX-License-Identifier: GPL-2.0-only
"""Confirming that a scenario fails because of a mutant, not by chance."""

import random
from collections.abc import Callable

import pytest

from harness.suite import confirm
from harness.suite.confirm import Confirmation, Trials

NONE = Trials()


def trial(rate: float, draw: random.Random) -> Callable[[int], list[bool]]:
    return lambda count: [draw.random() < rate for _ in range(count)]


def always(result: bool | None) -> Callable[[int], list[bool | None]]:
    return lambda count: [result] * count


def confirmation(on_mutant: float, on_base: float, seed: int, base: Trials = NONE) -> bool:
    draw = random.Random(f"{on_mutant} {on_base} {seed}")
    made = confirm.confirmed(trial(on_mutant, draw), trial(on_base, draw), base)
    return made.confirmed


def test_confirmed_requires_six_runs_each_or_three_with_a_measured_base() -> None:
    made = confirm.confirmed(always(True), always(False), Trials())
    assert made == Confirmation(Trials(6, 0), Trials(0, 6), confirmed=True)
    made = confirm.confirmed(always(True), always(False), Trials(0, 20))
    assert made == Confirmation(Trials(3, 0), Trials(0, 20), confirmed=True)


@pytest.mark.parametrize("rate", [0.001, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("known", [0, 30])
def test_confirmed_rejects_a_flaky_scenario_at_any_failure_rate(rate: float, known: int) -> None:
    """At most one flake in 1000 is confirmed: 10 of 10000, with a standard deviation of 3."""
    draw = random.Random(known)
    failed = [sum(draw.random() < rate for _ in range(known)) for _ in range(10000)]
    bases = [Trials(each, known - each) for each in failed]
    found = sum(confirmation(rate, rate, seed, base) for seed, base in enumerate(bases))
    assert found <= 20


def test_confirmed_requires_failures_on_the_mutant_but_not_on_the_base() -> None:
    assert sum(confirmation(0.9, 0.0, seed) for seed in range(1000)) > 850
    assert all(confirmation(1.0, 0.0, seed) for seed in range(10))
    assert not any(confirmation(0.0, 0.0, seed) for seed in range(10))
    assert not any(confirmation(1.0, 1.0, seed) for seed in range(10))


def test_confirmed_ignores_runs_without_a_result() -> None:
    made = confirm.confirmed(always(None), always(False), Trials())
    assert made == Confirmation(Trials(), Trials(), confirmed=False)
