# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from harness.errors import UsageError, did_you_mean
from harness.host import program
from harness.kernel import spec
from harness.suite import matrix, mutants, run
from harness.suite.mutants import Mutant, Score
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


def test_mutants_are_read_with_what_they_say_of_themselves(tmp_path: Path) -> None:
    (tmp_path / "lost-put.patch").write_text("The put is lost:\nnobody unloads.\n\n---\ndiff")
    (found,) = mutants.read(tmp_path)
    assert (found.name, found.summary) == ("lost-put", "The put is lost: nobody unloads.")


def test_a_mutant_may_be_a_bug_of_newer_kernels_only(tmp_path: Path) -> None:
    (tmp_path / "new.patch").write_text("New.\n\nSince: 6.15\n\n---\ndiff")
    (tmp_path / "old.patch").write_text("Old.\n\n---\ndiff\nSince: 6.15\n")
    new, old = mutants.read(tmp_path)
    assert [each.since.include("6.12.3") for each in (new, old)] == [False, True]
    assert new.since.include("7.2.13")


def test_two_mutants_of_one_name(tmp_path: Path) -> None:
    for suffix in ("patch", "diff"):
        (tmp_path / f"same.{suffix}").write_text("Same.")
    with pytest.raises(UsageError, match="two mutants called 'same'"):
        mutants.read(tmp_path)


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


def test_a_directory_without_mutants(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no mutants"):
        mutants.read(tmp_path)


def test_every_mutant_of_ours_says_what_it_breaks() -> None:
    found = mutants.read(None)
    assert len(found) >= 20
    assert all(len(each.summary) > 20 for each in found)


def test_what_caught_a_mutant_goes_first_next_time(tmp_path: Path) -> None:
    """The catchers of this mutant, then those of most others."""
    (tmp_path / "any.patch").write_text("It is bad.\n")
    patch = tmp_path / "any.patch"
    for name, by in {"one": ("a",), "two": ("a", "b"), "three": ("c",)}.items():
        mutants._remember(Score(name, "debian:6.12", caught=True, by=by))
    mutants._remember(Score("four", "debian:6.12", caught=False))
    assert mutants._likely(Mutant("three", patch)) == ("c", "a", "b")
    assert mutants._likely(Mutant("unseen", patch))[0] == "a"


def test_scenarios_about_what_a_mutant_changes_go_before_others() -> None:
    """Those that name what few others do first, then those of its directory."""
    patch = "+++ b/drivers/vfio/vfio_main.c\n@@ -1,2 +1 @@ int vfio_iommu_unmap_unpin_all(void)\n"
    first, second, *others = mutants._related(patch)
    assert first == "test_vfio.py::test_memory_is_pinned_as_long_as_a_user_maps_it"
    assert {each.partition("::")[0] for each in (second, *others)} == {"test_vfio.py"}
    assert len(others) > 10
    patch = "+++ b/drivers/iommu/iommu.c\n@@ -1 +1 @@ int __iommu_take_dma_ownership(void)\n"
    assert "test_unwinding.py::test_drivers_can_have_a_group_that_a_user_failed_to_get" in (
        mutants._related(patch)
    )
    assert mutants._related("+++ b/mm/none.c\n@@ -1,2 +1 @@ int nobody_names_this(void)\n") == []


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


def test_a_mutant_is_of_the_machines_that_it_names(tmp_path: Path) -> None:
    for name, head in {"all": "It is bad.", "some": "It is bad.\nMachines: virtio-iommu*"}.items():
        (tmp_path / f"{name}.patch").write_text(f"{head}\n\n---\ndiff --git a/a b/a\n")
    every, some = mutants.read(tmp_path)
    names = ("smmuv3", "virtio-iommu-acpi")
    assert every.machines(names) == names
    assert some.machines(names) == ("virtio-iommu-acpi",)
    assert some.machines(["smmuv3"]) == ()
