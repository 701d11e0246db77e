# SPDX-License-Identifier: GPL-2.0-only
"""The outcomes of a suite as a table, and the names that select scenarios."""

from dataclasses import replace
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


def test_the_matrix_has_a_row_per_subject_and_a_column_per_kernel() -> None:
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


def test_the_matrix_prints_the_reason_of_a_failure() -> None:
    shown = text([outcome(PIN, "failed")])
    assert "test_pinning.py::test_it [debian:6.12 smmuv3]" in shown
    assert "    why" in shown
    assert "run with --keep-failed" in shown


def test_the_matrix_prints_the_rule_and_the_kept_guest_of_a_failure() -> None:
    name = "pinning.py::test_device_pins_show_no_holder"
    shown = text([replace(outcome(f"{name}[module]", "failed"), kept=("/runs/state",))])
    assert f"    rule: {run.rule(f'test_{name}')}" in shown
    assert "    iommu-harness shell /runs/state" in shown.splitlines()
    assert "--keep-failed" not in shown


def test_the_rule_of_a_scenario_is_the_first_paragraph_of_its_docstring() -> None:
    rule = run.rule("test_pinning.py::test_device_pins_show_no_holder")
    assert rule
    assert "\n" not in rule
    assert run.rule("test_pinning.py::test_nope") == run.rule("test_nope.py::test_it") == ""


def test_the_worst_of_several_rounds_counts_and_differing_rounds_are_flaky() -> None:
    rounds = [outcome(PIN, "passed"), outcome(PIN, "failed", number=2)]
    assert [each.result for each in matrix.worst(rounds)] == ["failed"]
    assert matrix.counts(matrix.worst(rounds))["failed"] == 1
    assert matrix.flaky(rounds) == ["test_pinning.py::test_it [debian:6.12 smmuv3]"]
    assert matrix.flaky([outcome(PIN, "passed"), outcome(PIN, "passed", number=2)]) == []


def test_known_races_and_teardown_failures_are_not_flaky() -> None:
    race = [outcome(PIN, "passed"), outcome(PIN, "known", number=2)]
    assert matrix.flaky(race) == []
    assert matrix.flaky([outcome(PIN, "passed"), outcome(PIN, "failed")]) == []


RACE = "test_removals_race_with_rescans"


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("pinning", "test_pinning.py"),
        ("test_pinning.py", "test_pinning.py"),
        (f"races::{RACE}", f"test_races.py::{RACE}"),
        (f"test_races.py::{RACE}[1]", f"test_races.py::{RACE}"),
    ],
)
def test_run_accepts_the_names_that_users_and_outcomes_use(name: str, node: str) -> None:
    (chosen,) = run.chosen([name])
    assert str(chosen) == f"{run.directory()}/{node}"


@pytest.mark.parametrize("name", ["nope", "../unit/test_x", "pinning; true", ""])
def test_unknown_scenarios_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no scenarios about"):
        list(run.chosen([name]))


def test_an_unknown_scenario_gets_the_closest_name_or_the_list() -> None:
    with pytest.raises(UsageError, match=f"did you mean {RACE}"):
        list(run.chosen([f"races::{RACE[:-2]}"]))
    with pytest.raises(UsageError, match="see iommu-harness run --list races"):
        list(run.chosen(["races::nothing"]))


def test_did_you_mean_offers_only_close_names() -> None:
    assert did_you_mean("kernl", ["kernel", "work"], "see them") == "did you mean kernel?"
    assert did_you_mean("zzz", ["kernel", "work"], "see them") == "see them"


def test_likely_scenarios_run_first(tmp_path: Path) -> None:
    """They keep their order. Outcomes name them, with or without parameters."""
    named = "test_pinning.py::test_device_pins_show_no_holder"
    likely = (f"test_races.py::{RACE}[1]", named, f"test_races.py::{RACE}")
    kernels = (spec.parse("debian:6.12"),)
    request = Request(kernels, ("smmuv3",), ("pinning", "races"), run_first=likely)
    argv = [*run._arguments(request, tmp_path / "events"), "--collect-only", "--quiet", "--quiet"]
    first, second, third, *others = program.run(argv).splitlines()
    assert first == f"test_races.py::{RACE}[6.12-smmuv3-1]"
    assert second == f"{named}[6.12-smmuv3]"
    assert third == f"test_races.py::{RACE}[6.12-smmuv3-0]"
    assert first not in others
    assert any(each.startswith("test_pinning.py") for each in others)
