# SPDX-License-Identifier: GPL-2.0-only
"""Judging mutants: the order of the scenarios, confirmed kills, and records."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.cli import mutants as cli_mutants
from harness.errors import BuildError, UsageError
from harness.guest import snapshot
from harness.host import cache
from harness.iommu.evidence import Evidence
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import build, spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.suite import harmless, killer_table, mutant, mutants, planted, resolved, run
from harness.suite.mutant import Mutant
from harness.suite.mutants import Score
from harness.suite.run import RunRequest, ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult
from tests.unit.mutant_patch import PATCH


def test_recorded_writes_the_killers_after_each_mutant(tmp_path: Path) -> None:
    """An interrupted run keeps the killers that it has found so far."""
    killed = Score("one", "k", "killed", by=("a",))
    found = cli_mutants._recorded(iter([killed, Score("two", "k")]), tmp_path)
    assert not (tmp_path / "killers.json").exists()
    assert next(found) == killed
    assert killer_table.read(tmp_path) == {"one": ["a"]}
    assert [each.name for each in found] == ["two"]
    assert killer_table.read(tmp_path) == {"one": ["a"]}


def test_likely_returns_the_killers_of_earlier_runs(tmp_path: Path) -> None:
    """Killers of the same mutant are first, then the most frequent killers of other mutants."""
    (tmp_path / "any.patch").write_text("It is bad.\n")
    patch = tmp_path / "any.patch"
    for name, by in {"one": ("a",), "two": ("a", "b"), "three": ("c",)}.items():
        killer_table.remember(name, by)
    assert killer_table.likely(Mutant("three", patch)) == ("c", "a", "b")
    assert killer_table.likely(Mutant("unseen", patch))[0] == "a"


def test_related_returns_scenarios_that_mention_the_patched_function() -> None:
    """Scenarios with the rarest names of the patch are first, then scenarios of its directory."""
    patch = "+++ b/drivers/vfio/vfio_main.c\n@@ -1,2 +1 @@ int vfio_iommu_unmap_unpin_all(void)\n"
    first, second, *others = killer_table.related(patch)
    assert first == "test_vfio.py::test_memory_is_pinned_while_a_user_maps_it"
    assert {each.partition("::")[0] for each in (second, *others)} == {"test_vfio.py"}
    assert len(others) > 10
    patch = "+++ b/drivers/iommu/iommu.c\n@@ -1 +1 @@ int __iommu_take_dma_ownership(void)\n"
    assert "test_unwinding.py::test_failed_claim_does_not_block_drivers" in (
        killer_table.related(patch)
    )
    assert (
        killer_table.related("+++ b/mm/none.c\n@@ -1,2 +1 @@ int nobody_names_this(void)\n") == []
    )


def test_likely_merges_the_table_beside_the_patches_with_the_cache(tmp_path: Path) -> None:
    patch = tmp_path / "three.patch"
    patch.write_text("It is bad.\n")
    killer_table.write(tmp_path, {"three": ("c",), "one": ("a", "b")})
    killer_table.write(tmp_path, {"two": ("a",)})
    assert killer_table.read(tmp_path) == {"one": ["a", "b"], "three": ["c"], "two": ["a"]}
    assert killer_table.likely(Mutant("three", patch)) == ("c", "a", "b")
    killer_table.remember("three", ("d",))
    assert killer_table.likely(Mutant("three", patch))[:2] == ("d", "c")
    (tmp_path / "killers.json").write_text("{")
    with pytest.raises(UsageError, match=r"cannot read .*killers.json"):
        killer_table.likely(Mutant("three", patch))


class Suite:
    """A simulated suite. ``fails`` determines the result of each scenario, ``starts`` whether
    mutants boot, and ``broken`` is the error of their build."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: dict[str, Callable[[bool, int], ScenarioResult]] = {}
        self.starts, self.broken = True, ""
        self.runs: list[tuple[str, ...]] = []
        monkeypatch.setattr(planted, "release", lambda _request: "6.12.1")
        monkeypatch.setattr(planted, "planted", self._planted)
        monkeypatch.setattr(run, "run", self._run)
        monkeypatch.setattr(mutants, "_start_error", self._start_error)

    @contextlib.contextmanager
    def _planted(self, found: Mutant, request: RunRequest, _into: Path) -> Iterator[RunRequest]:
        if self.broken:
            raise BuildError(self.broken)
        (base,) = request.kernels
        yield replace(request, kernels=(replace(base, patches=(found.patch,)),))

    def _start_error(self, kernel: KernelSpec, _machine: str) -> str:
        return "GuestPanic: early" if kernel.patches and not self.starts else ""

    def _run(self, request: RunRequest, *_into: object, **_facts: object) -> list[ScenarioOutcome]:
        is_mutant = bool(request.kernels[0].patches)
        self.runs.append(request.scenarios)
        found = []
        for name in request.scenarios or self.fails:
            result = self.fails[name](is_mutant, len(self.runs))
            reason = f"{name} {result}"
            outcome = ScenarioOutcome(name, "k", "smmuv3", result, reason, 0.1, "")
            found += [outcome] * request.trials
            if result == ScenarioResult.FAILED and request.first_failure:
                break
        return found

    def score(self, tmp_path: Path, head: str = "") -> Score:
        (tmp_path / "one.patch").write_text(PATCH.format(head=head))
        request = RunRequest((spec.parse("debian:6.12"),), ("smmuv3",), first_failure=True)
        into = tmp_path / "into"
        into.mkdir()
        (found,) = mutants.scores(mutant.read(tmp_path), request, into)
        return found


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Suite:
    return Suite(monkeypatch)


def on_mutants(is_mutant: bool, _number: int) -> ScenarioResult:
    return ScenarioResult.FAILED if is_mutant else ScenarioResult.PASSED


def once(_is_mutant: bool, number: int) -> ScenarioResult:
    return ScenarioResult.FAILED if number == 1 else ScenarioResult.PASSED


def test_past_killers_run_first_and_alone(suite: Suite, tmp_path: Path) -> None:
    killer = "test_pinning.py::test_removing_a_pci_device_drops_its_pin"
    suite.fails = {"other": never, killer: on_mutants}
    killer_table.write(tmp_path, {"one": (killer, "test_pinning.py::test_that_was_renamed")})
    assert suite.score(tmp_path).by == (killer,)
    assert set(suite.runs) == {(killer,)}


def test_all_scenarios_run_if_past_killers_pass(suite: Suite, tmp_path: Path) -> None:
    past = "test_pinning.py::test_removing_a_pci_device_drops_its_pin"
    suite.fails = {past: never, "other": on_mutants}
    killer_table.write(tmp_path, {"one": (past,)})
    assert suite.score(tmp_path).by == ("other",)
    assert suite.runs[:2] == [(past,), ()]


def never(_is_mutant: bool, _number: int) -> ScenarioResult:
    return ScenarioResult.PASSED


def test_a_confirmed_kill_records_its_killer_and_rates(suite: Suite, tmp_path: Path) -> None:
    suite.fails = {"good": never, "iommu_deinit_device": on_mutants}
    found = suite.score(tmp_path)
    assert (found.result, found.caught, found.kind) == ("killed", True, "rule")
    assert (found.by, found.names_the_bug) == (("iommu_deinit_device",), True)
    assert found.killers[0].figures == "fails in 6 of 6 runs with it and 0 of 6 runs without"
    assert found.record()["caught"] is True


def test_a_flaky_scenario_does_not_kill_the_mutant(suite: Suite, tmp_path: Path) -> None:
    suite.fails = {"flake": once, "killer": on_mutants}
    found = suite.score(tmp_path)
    assert (found.result, found.by, found.names_the_bug) == ("killed", ("killer",), False)


def test_an_unconfirmed_failure_makes_the_mutant_inconclusive(suite: Suite, tmp_path: Path) -> None:
    suite.fails = {"flake": once, "good": never}
    found = suite.score(tmp_path)
    assert (found.result, found.caught, found.by) == ("inconclusive", False, ())
    assert found.reason == (
        "no failure is confirmed: flake fails in 0 of 6 runs with it and 0 of 0 runs without"
    )


def test_a_scenario_that_also_fails_on_the_base_does_not_kill_the_mutant(
    suite: Suite, tmp_path: Path
) -> None:
    suite.fails = {"bad": lambda _is_mutant, _number: ScenarioResult.FAILED, "good": never}
    assert suite.score(tmp_path).result == "inconclusive"


def test_a_mutant_that_does_not_boot_is_killed_in_set_up(suite: Suite, tmp_path: Path) -> None:
    suite.fails, suite.starts = {"any": on_mutants}, False
    found = suite.score(tmp_path)
    assert (found.result, found.kind, found.by) == ("killed", "set-up", ())
    assert found.message == "GuestPanic: early"


def test_a_mutant_survives_if_no_scenario_fails(suite: Suite, tmp_path: Path) -> None:
    suite.fails = {"good": never}
    assert suite.score(tmp_path).result == "survived"


@pytest.mark.parametrize(
    ("head", "broken", "result", "reason"),
    [
        ("Since: 6.15", "", "not-applicable", "it is a bug only since 6.15"),
        ("Machines: virtio-iommu*", "", "not-applicable", "it is a bug only on other machines"),
        ("Equivalent: it is never read", "", "equivalent", "it is never read"),
        ("", "a.c:1: error: no", "inconclusive", "a.c:1: error: no"),
    ],
)
def test_inapplicable_equivalent_and_unbuildable_mutants_are_not_run(
    suite: Suite, tmp_path: Path, head: str, broken: str, result: str, reason: str
) -> None:
    suite.broken = broken
    found = suite.score(tmp_path, head)
    assert (found.result, found.reason, suite.runs) == (result, reason, [])
    assert found.kind == ("build" if broken else "")


SPEC = spec.parse("debian:6.12")


def profile(**shown: bool) -> KernelProfile:
    found = {
        name.replace("_", "-"): Evidence(value, "source", f"a sign of {name}")
        for name, value in shown.items()
    }
    return KernelProfile(found, {"virtio-iommu-unbind": Evidence(True, "source", "a bug")})


def request_with(
    kernels: Mapping[KernelSpec, KernelProfile], machines: str, at: Path
) -> RunRequest:
    rows = {each.key: {"profile": asdict(found)} for each, found in kernels.items()}
    file = resolved.file_in(at)
    file.write_text(json.dumps(rows))
    return RunRequest((SPEC,), tuple(machines.split()), resolved=file)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("Requires: dma-ownership", ""),
        ("Requires: no-acs-before-groups, dma-ownership", ""),
        ("Requires: no-dma-ownership", "it requires no-dma-ownership: a sign of dma_ownership"),
        ("Requires: virtio-iommu-unbind", ""),
        ("Requires: no-virtio-iommu-unbind", "it requires no-virtio-iommu-unbind: a bug"),
        (
            "Requires: acs-before-groups\nMachines: smmuv3*",
            "it requires acs-before-groups: a sign of acs_before_groups",
        ),
    ],
)
def test_a_mutant_applies_to_kernels_with_the_behaviours_that_it_requires(
    tmp_path: Path, head: str, reason: str
) -> None:
    """The kernel's profile decides, not its version."""
    (tmp_path / "one.patch").write_text(PATCH.format(head=head))
    (found,) = mutant.read(tmp_path)
    made = {SPEC: profile(dma_ownership=True, acs_before_groups=False)}
    request = request_with(made, "smmuv3 virtio-iommu", tmp_path)
    assert planted.inapplicable(found, request, "6.12.1") == reason


def test_a_mutant_runs_only_on_machines_with_a_kernel_that_it_applies_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.patch").write_text(PATCH.format(head="Requires: probe-deferral"))
    (found,) = mutant.read(tmp_path)
    acpi = SPEC.with_variants(["acpi"])
    made = {SPEC: profile(probe_deferral=True), acpi: profile(probe_deferral=False)}
    request = request_with(made, "smmuv3 smmuv3-acpi", tmp_path)
    monkeypatch.setattr(build, "build", lambda _: Kernel("k", "k", "6.12.1", "gcc", tmp_path))
    monkeypatch.setattr(snapshot, "forget", lambda _: None)
    monkeypatch.setattr(cache, "discard_unused", lambda _: None)
    monkeypatch.setattr(resolved, "write", lambda _, file: file)
    assert planted.inapplicable(found, request, "6.12.1") == ""
    with planted.planted(found, request, tmp_path) as mutated:
        assert mutated.machines == ("smmuv3",)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("harness.errors.GuestHang: no answer for 20 s", "hang"),
        ("harness.errors.GuestPanic: the kernel panicked: Oops", "death"),
        ("unexpected splat:\nWARNING", "splat"),
        ("UsageError: the warm-up command 'modprobe x' fails with status 1: no", "set-up"),
        ("assert 1 == 2", "rule"),
    ],
)
def test_kinds_classifies_a_failure_by_its_message(message: str, kind: str) -> None:
    assert next(name for name, each in mutants._KINDS.items() if each.search(message)) == kind


@pytest.mark.parametrize(
    ("fails", "result", "times"),
    [({"good": never}, "quiet", []), ({"good": never, "bad": on_mutants}, "false-alarm", [3])],
)
def test_a_scenario_that_fails_on_a_harmless_patch_is_a_false_alarm(
    suite: Suite,
    tmp_path: Path,
    fails: dict[str, Callable[[bool, int], ScenarioResult]],
    result: str,
    times: list[int],
) -> None:
    suite.fails = fails
    (tmp_path / "one.patch").write_text(PATCH.format(head=""))
    request = RunRequest((spec.parse("debian:6.12"),), ("smmuv3",))
    (found,) = harmless.scores(mutant.read(tmp_path), request, 3, tmp_path)
    assert (found.result, [each.times for each in found.alarms]) == (result, times)
