# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness.errors import UsageError, did_you_mean
from harness.host import program
from harness.kernel import spec
from harness.suite import matrix, run
from harness.suite.run import Outcome, Request


def outcome(name: str, result: str, kernel: str = "debian:6.12", number: int = 1) -> Outcome:
    return Outcome(
        f"test_{name}",
        kernel,
        "smmuv3",
        result,
        "" if result == "passed" else "why",
        0.1,
        "",
        number,
    )


PIN = "pinning.py::test_it"


def text(outcomes: list[Outcome]) -> str:
    return "\n".join(line for _, line in matrix.lines(outcomes))


def test_a_row_for_each_subject_and_a_column_for_each_kernel() -> None:
    shown = text(
        [
            outcome(PIN, "passed"),
            outcome("pinning.py::test_other", "known"),
            outcome("groups.py::test_it", "not-applicable"),
            outcome(PIN, "passed", "debian:7.2"),
        ]
    )
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert rows[0] == "debian:6.12 debian:7.2"
    assert "pinning 1, 1 known 1" in rows
    assert "groups 0, 1 n/a -" in rows
    assert "all 1, 1 known, 1 n/a 1" in rows


def test_a_failure_is_told_with_its_reason() -> None:
    shown = text([outcome(PIN, "failed")])
    assert "test_pinning.py::test_it [debian:6.12 smmuv3]" in shown
    assert "    why" in shown


def test_of_several_rounds_the_worst_counts_and_differences_are_told() -> None:
    rounds = [outcome(PIN, "passed"), outcome(PIN, "failed", number=2)]
    assert [each.result for each in matrix.worst(rounds)] == ["failed"]
    assert matrix.counts(matrix.worst(rounds))["failed"] == 1
    assert matrix.flaky(rounds) == ["test_pinning.py::test_it [debian:6.12 smmuv3]"]
    assert matrix.flaky([outcome(PIN, "passed"), outcome(PIN, "passed", number=2)]) == []


def test_a_race_that_is_known_is_not_flaky_and_a_teardown_is_no_round() -> None:
    race = [outcome(PIN, "passed"), outcome(PIN, "known", number=2)]
    assert matrix.flaky(race) == []
    assert matrix.flaky([outcome(PIN, "passed"), outcome(PIN, "failed")]) == []


RACE = "test_devices_come_and_go_from_two_sides"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pinning", "test_pinning.py"),
        ("test_pinning.py", "test_pinning.py"),
        (f"races::{RACE}", f"test_races.py::{RACE}"),
        (f"test_races.py::{RACE}[1]", f"test_races.py::{RACE}"),
    ],
)
def test_scenarios_are_named_as_users_and_outcomes_do(name: str, told: str) -> None:
    (chosen,) = run.chosen([name])
    assert str(chosen) == f"{run.directory()}/{told}"


@pytest.mark.parametrize("name", ["nope", "../unit/test_x", "pinning; true", ""])
def test_scenarios_that_do_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match="no scenarios about"):
        list(run.chosen([name]))


def test_a_scenario_that_does_not_exist_has_one_that_is_near() -> None:
    with pytest.raises(UsageError, match=f"did you mean {RACE}"):
        list(run.chosen([f"races::{RACE[:-2]}"]))
    with pytest.raises(UsageError, match="see iommu-harness run --list races"):
        list(run.chosen(["races::nothing"]))


def test_a_name_that_is_near_is_offered_and_another_is_not() -> None:
    assert did_you_mean("kernl", ["kernel", "work"], "see them") == "did you mean kernel?"
    assert did_you_mean("zzz", ["kernel", "work"], "see them") == "see them"


def test_likely_scenarios_are_the_first(tmp_path: Path) -> None:
    """As outcomes name them, in that order, before all others; without parameters, too."""
    named = "test_pinning.py::test_nobody_is_shown_as_the_holder"
    likely = (f"test_races.py::{RACE}[1]", named, f"test_races.py::{RACE}")
    kernels = (spec.parse("debian:6.12"),)
    request = Request(kernels, ("smmuv3",), ("pinning", "races"), likely=likely)
    argv = [*run._arguments(request, tmp_path / "events"), "--collect-only", "--quiet", "--quiet"]
    first, second, third, *others = program.run(argv).splitlines()
    assert first == f"test_races.py::{RACE}[6.12-smmuv3-1]"
    assert second == f"{named}[6.12-smmuv3]"
    assert third == f"test_races.py::{RACE}[6.12-smmuv3-0]"
    assert first not in others
    assert any(each.startswith("test_pinning.py") for each in others)
