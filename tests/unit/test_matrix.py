# SPDX-License-Identifier: GPL-2.0-only
"""The table of a suite's outcomes, and the selection of scenarios by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError, did_you_mean
from harness.host import program
from harness.host.progress import Phase
from harness.kernel import spec
from harness.suite import matrix, run, scenarios
from harness.suite.run import RunRequest, ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult


def outcome(
    name: str, result: str, kernel: str = "debian:6.12", number: int = 1
) -> ScenarioOutcome:
    return ScenarioOutcome(
        f"test_{name}",
        kernel,
        "smmuv3",
        ScenarioResult(result),
        "" if result == "passed" else "why",
        0.1,
        "",
        number,
    )


PIN = "pinning.py::test_it"


def text(outcomes: list[ScenarioOutcome]) -> str:
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


def test_the_matrix_prints_the_reason_for_a_failure() -> None:
    shown = text([outcome(PIN, "failed")])
    assert "test_pinning.py::test_it [debian:6.12 smmuv3]" in shown
    assert "    why" in shown
    assert "run with --keep-failed" in shown


def test_the_matrix_prints_the_rule_and_the_shell_command_of_a_failure() -> None:
    name = "pinning.py::test_device_pins_show_no_holder"
    shown = text([replace(outcome(f"{name}[module]", "failed"), kept=("/runs/state",))])
    assert f"    rule: {scenarios.rule(f'test_{name}')}" in shown
    assert "    iommu-harness shell /runs/state" in shown.splitlines()
    assert "--keep-failed" not in shown


@pytest.mark.parametrize(
    ("wider", "named"), [((), True), (("groups",), True), (("pinning",), False)]
)
def test_parameters_narrow_a_scenario_that_nothing_else_selects(
    wider: tuple[str, ...], named: bool
) -> None:
    one = "pinning::test_repeated_binding_pins_once[module]"
    found = list(scenarios.parametrized([one, *wider]))
    assert found == (["test_pinning.py::test_repeated_binding_pins_once[module]"] if named else [])


def test_rule_returns_one_line_or_nothing_for_an_unknown_scenario() -> None:
    rule = scenarios.rule("test_pinning.py::test_device_pins_show_no_holder")
    assert rule
    assert "\n" not in rule
    assert (
        scenarios.rule("test_pinning.py::test_nope")
        == scenarios.rule("test_nope.py::test_it")
        == ""
    )


def test_worst_selects_the_worst_round_and_flaky_lists_scenarios_that_differ() -> None:
    rounds = [outcome(PIN, "passed"), outcome(PIN, "failed", number=2)]
    assert [each.result for each in matrix.worst(rounds)] == ["failed"]
    assert matrix.counts(matrix.worst(rounds))["failed"] == 1
    assert matrix.flaky(rounds) == ["test_pinning.py::test_it [debian:6.12 smmuv3]"]
    assert matrix.flaky([outcome(PIN, "passed"), outcome(PIN, "passed", number=2)]) == []


def test_known_races_and_teardown_failures_are_not_flaky() -> None:
    race = [outcome(PIN, "passed"), outcome(PIN, "known", number=2)]
    assert matrix.flaky(race) == []
    assert matrix.flaky([outcome(PIN, "passed"), outcome(PIN, "failed")]) == []


def test_progress_follows_the_events_of_pytest(tmp_path: Path) -> None:
    """An incomplete line is read again once it is complete."""
    events = tmp_path / "events"
    phase = Phase("scenarios", 0.0, 0)
    follower = run._Follower(events, phase)
    follower.update("pytest starts")
    assert phase.done == 0
    with events.open("w", buffering=1) as file:
        file.write('{"scenario": "a", "collected": 3}\n{"scen')
        follower.update("a PASSED")
        assert (phase.done, "1/3" in phase.line()) == (1, True)
        file.write('ario": "b", "collected": 3}\n')
        follower.update("b PASSED")
        assert (phase.done, "2/3" in phase.line()) == (2, True)


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
def test_select_accepts_subjects_files_and_scenarios(name: str, node: str) -> None:
    assert list(scenarios.select([name])) == [f"{scenarios.directory()}/{node}"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "unknown subject 'nope'"),
        ("pining", "did you mean pinning"),
        ("pinning; true", "unknown subject"),
        ("", "unknown subject ''"),
        ("../unit/test_x", "cannot read ../unit/test_x: no such file"),
        ("test_nope.py", "cannot read test_nope.py: no such file"),
    ],
)
def test_select_rejects_an_unknown_subject_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        list(scenarios.select([name]))


def test_select_accepts_paths_of_a_users_scenarios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundled subject takes precedence over a directory of the same name."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "pinning"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_mine.py").write_text("def test_x(guest):\n    pass\n")
    file = f"{tmp_path}/mine/test_mine.py"
    names = ["mine", "mine/", "mine/test_mine.py", f"{file}::test_x[1]"]
    assert list(scenarios.select(names)) == [
        f"{tmp_path}/mine",
        f"{tmp_path}/mine",
        file,
        f"{file}::test_x",
    ]
    assert list(scenarios.select(["pinning"])) == [f"{scenarios.directory()}/test_pinning.py"]
    with pytest.raises(UsageError, match="did you mean test_x"):
        list(scenarios.select([f"{file}::test_xx"]))
    (tmp_path / "mine/test_mine.py").write_text("def")
    message = r"test_mine.py is not valid Python: invalid syntax on line 1"
    with pytest.raises(UsageError, match=message):
        list(scenarios.select([f"{file}::test_x"]))


def test_select_suggests_the_closest_scenario_or_run_list() -> None:
    with pytest.raises(UsageError, match=f"did you mean {RACE}"):
        list(scenarios.select([f"races::{RACE[:-2]}"]))
    with pytest.raises(UsageError, match="see iommu-harness run --list races"):
        list(scenarios.select(["races::nothing"]))


def test_did_you_mean_suggests_only_close_names() -> None:
    assert did_you_mean("kernl", ["kernel", "work"], "see them") == "did you mean kernel?"
    assert did_you_mean("zzz", ["kernel", "work"], "see them") == "see them"


def test_scenarios_of_run_first_precede_all_others(tmp_path: Path) -> None:
    """The scenarios in ``run_first`` run in its order. A name in it can have parameters."""
    named = "test_pinning.py::test_device_pins_show_no_holder"
    likely = (f"test_races.py::{RACE}[1]", named, f"test_races.py::{RACE}")
    kernels = (spec.parse("debian:6.12"),)
    request = RunRequest(kernels, ("smmuv3",), ("pinning", "races"), run_first=likely)
    argv = [*run._arguments(request, tmp_path / "events"), "--collect-only", "--quiet", "--quiet"]
    first, second, third, *others = program.run(argv).splitlines()
    assert first == f"test_races.py::{RACE}[1-6.12-smmuv3]"
    assert second == f"{named}[6.12-smmuv3]"
    assert third == f"test_races.py::{RACE}[0-6.12-smmuv3]"
    assert first not in others
    assert any(each.startswith("test_pinning.py") for each in others)
