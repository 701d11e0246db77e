# SPDX-License-Identifier: GPL-2.0-only
"""Facts of a step, and the distinction of differences from noise."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparison import compared, difference, fact, render, scenario_runs
from harness.comparison.compared import Compared
from harness.comparison.difference import ENOUGH, FIRST, MOST
from harness.comparison.fact import Fact
from harness.comparison.scenario_runs import ScenarioCompared
from harness.comparison.session import Side
from harness.guest.guest import Step
from harness.guest.state import Device, Module, State
from harness.guest.tracing import Event
from harness.iommu import machines
from harness.kernel.artifact import Kernel
from harness.klog.record import Record
from harness.report.commands import Command
from harness.report.session import Session
from harness.repro.request import Request
from harness.suite.run import ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult

STATUS = Fact(1, "status", "exit status 0")
FLAKE = Fact(1, "log", "a message")


def runs(with_flake: int, of: int) -> list[frozenset[Fact]]:
    return [frozenset({STATUS, FLAKE} if n < with_flake else {STATUS}) for n in range(of)]


def test_a_fact_of_all_runs_of_one_side_is_a_difference() -> None:
    found = difference.compare(runs(0, ENOUGH), runs(ENOUGH, ENOUGH))
    assert [(each.fact, each.side) for each in found.differences] == [(FLAKE, "new")]
    assert not found.noise


def test_few_runs_are_no_difference_and_need_more_runs() -> None:
    found = difference.compare(runs(0, FIRST), runs(FIRST, FIRST))
    assert not found.differences
    assert difference.runs_needed(found) == ENOUGH


def test_equal_runs_need_no_more_runs() -> None:
    assert difference.runs_needed(difference.compare([], [])) == FIRST
    found = difference.compare(runs(0, FIRST), runs(0, FIRST))
    assert not found.noise
    assert difference.runs_needed(found) == FIRST


def test_an_undecided_fact_needs_more_runs_only_once() -> None:
    suspicious = difference.compare(runs(0, ENOUGH), runs(5, ENOUGH))
    assert difference.runs_needed(suspicious) == MOST
    noisy = difference.compare(runs(3, ENOUGH), runs(4, ENOUGH))
    assert difference.runs_needed(noisy) == ENOUGH
    assert difference.runs_needed(difference.compare(runs(0, MOST), runs(8, MOST))) == MOST


@pytest.mark.parametrize("count", [ENOUGH, MOST])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_noise_is_a_difference_in_less_than_one_of_1000_comparisons(
    count: int, rate: float
) -> None:
    """The exact probability, for a fact with the same rate on both sides."""

    def probability(n: int) -> float:
        return math.comb(count, n) * rate**n * (1 - rate) ** (count - n)

    total = sum(
        probability(old) * probability(new)
        for old, new in itertools.product(range(count + 1), repeat=2)
        if difference.compare(runs(old, count), runs(new, count)).differences
    )
    assert total < 0.001


@given(
    st.lists(st.frozensets(st.sampled_from([STATUS, FLAKE])), max_size=8),
    st.lists(st.frozensets(st.sampled_from([STATUS, FLAKE])), max_size=8),
)
def test_exchanged_sides_have_the_same_differences(
    old: list[frozenset[Fact]], new: list[frozenset[Fact]]
) -> None:
    one, other = difference.compare(old, new), difference.compare(new, old)
    assert {each.fact for each in one.differences} == {each.fact for each in other.differences}
    assert {each.fact for each in one.noise} == {each.fact for each in other.noise}


@pytest.mark.parametrize(
    ("line", "normal"),
    [
        ("ffff0000c1234567 is freed", "ADDRESS is freed"),
        ("map iova=0x00000000fffff000 size=4096", "map iova=ADDRESS size=4096"),
        ("refcnt=2 0x30", "refcnt=2 0x30"),
        ("task kworker/0:1 pid=34", "task kworker/0:1 pid=N"),
        ("took 33 usecs", "took N usecs"),
        ("real    0m 0.03s", ""),
        ("group 12", "group 12"),
        ("[    0.344813] e1000e: bound", "e1000e: bound"),
    ],
)
def test_normal_leaves_out_what_differs_between_boots(line: str, normal: str) -> None:
    assert fact.normal(line) == normal


@given(st.text())
def test_normal_is_idempotent(line: str) -> None:
    once = fact.normal(line)
    assert fact.normal(once) == once


def step(**changes: object) -> Step:
    made = Step("rmmod x", 0, False, "", "", (), State(), State(), 0.1)
    return replace(made, **changes)  # type: ignore[arg-type]


def record(text: str) -> Record:
    return Record(1, 6, 0.5, text)


def test_facts_of_a_step_cover_each_aspect() -> None:
    after = State(
        modules={"x": Module("x", "live", 2, ())},
        devices={"d": Device("pci", "d", "e1000e", 3, "smmu", False, True)},
    )
    made = step(status=1, out="a\na\n", kmsg=(record("hello"),), after=after)
    event = Event("sh", 3, 1.0, "module_put", "x call_site=f refcnt=1")
    found = fact.of_step(2, made, [event], ["smmuv3_cmdq_opcode <--- SYNC"])
    assert {(each.aspect, each.text, each.number) for each in found} == {
        ("status", "exit status 1", 1),
        ("output", "a", 1),
        ("output", "a", 2),
        ("state", "module x: loaded", 1),
        ("state", "module x: refcount 2", 1),
        ("state", "device d: appeared", 1),
        ("state", "device d: driver e1000e", 1),
        ("state", "device d: group 3", 1),
        ("log", "hello", 1),
        ("trace", "module_put: x call_site=f refcnt=1", 1),
        ("iommu", "smmuv3_cmdq_opcode <--- SYNC", 1),
    }


WARNING = """\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 34 at drivers/iommu/iommu.c:2198 __iommu_group_set_domain+0x1c/0x38
Call trace:
 __iommu_group_set_domain+0x1c/0x38
 iommu_detach_group+0x30/0x50
---[ end trace 0000000000000000 ]---"""


def test_a_splat_is_one_fact_without_cpu_and_pid() -> None:
    kmsg = tuple(record(line) for line in [*WARNING.splitlines(), "later"])
    found = [each for each in fact.of_step(1, step(kmsg=kmsg)) if each.aspect in ("splat", "log")]
    assert [(each.aspect, each.text) for each in found] == [
        ("splat", "WARNING in __iommu_group_set_domain, called by iommu_detach_group"),
        ("log", "later"),
    ]


def test_a_step_that_ends_the_guest_is_followed_by_steps_that_do_not_run() -> None:
    found = fact.of_end(3, "the kernel panicked: x", WARNING.splitlines(), 5)
    assert [(each.step, each.aspect, each.text) for each in found] == [
        (3, "status", "the kernel panicked: x"),
        (3, "splat", "WARNING in __iommu_group_set_domain, called by iommu_detach_group"),
        (4, "status", "does not run"),
        (5, "status", "does not run"),
    ]


def comparison(tmp_path: Path, *facts: Fact) -> Compared:
    commands = tuple(Command(text, (), None, 1) for text in ("modprobe x", "rmmod  x\n"))
    request = Request("r.txt", Session(commands), (), machines.MACHINES["smmuv3"], (), "")
    sides = [
        Side(name, Kernel("key", f"debian:6.12 {name}", "6.12.1", "gcc", tmp_path), request.machine)
        for name in ("old", "new")
    ]
    base = [frozenset({STATUS})] * ENOUGH
    changed = [frozenset({STATUS, *facts})] * ENOUGH
    return Compared(request, sides[0], sides[1], difference.compare(base, changed))


def text_of(found: Compared) -> list[str]:
    return [text for _, text in render.lines(found)]


def test_render_shows_a_step_that_differs_in_72_columns(tmp_path: Path) -> None:
    long = Fact(2, "output", " ".join(["word"] * 40))
    lines = text_of(comparison(tmp_path, Fact(2, "status", "exit status 1"), long))
    assert "2. $ rmmod x" in lines
    assert " +   exit status 1" in lines
    assert max(map(len, lines)) <= 72
    assert "1 of 2 steps differs: 2" in lines


def test_render_shows_only_the_result_of_a_step_that_does_not_run(tmp_path: Path) -> None:
    found = comparison(tmp_path, *fact.of_end(1, "hangs", [], 2), Fact(2, "output", "lost"))
    lines = [line.strip() for line in text_of(found)]
    assert lines[lines.index("2. $ rmmod x") + 1 :][:2] == ["result:", "+   does not run"]
    assert not any("lost" in line for line in lines)


def test_render_counts_equal_lines(tmp_path: Path) -> None:
    facts = [Fact(2, "iommu", "SYNC", number) for number in (1, 2, 3)]
    assert " +   SYNC (3 times)" in text_of(comparison(tmp_path, *facts))
    assert " +   SYNC (2 more)" in text_of(comparison(tmp_path, *facts[1:]))


def test_render_reports_that_nothing_differs(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    assert "no difference in 2 steps" in text_of(found)
    assert compared.record(found)["differences"] == []


def outcome(result: ScenarioResult, reason: str = "") -> ScenarioOutcome:
    return ScenarioOutcome("test_x.py::test_y", "debian:6.12", "smmuv3", result, reason, 1.0, "")


def test_a_scenario_differs_if_its_results_differ_in_all_runs() -> None:
    passed, failed = ScenarioResult.PASSED, ScenarioResult.FAILED
    old, new = [outcome(passed)] * ENOUGH, [outcome(failed, "it leaks")] * ENOUGH
    found = ScenarioCompared("test_x.py::test_y", "smmuv3", old, new)
    assert found.differs
    lines = [text for _, text in scenario_runs.lines([found])]
    assert " +   failed in 7 of 7 runs: it leaks" in lines
    assert "1 of 1 scenarios differs" in lines


def test_a_flaky_scenario_is_noise() -> None:
    passed, failed = ScenarioResult.PASSED, ScenarioResult.FAILED
    old, new = [outcome(passed)] * ENOUGH, [outcome(passed)] * (ENOUGH - 1)
    found = ScenarioCompared("test_x.py::test_y", "smmuv3", old, [*new, outcome(failed)])
    assert found.varies
    assert not found.differs
    assert [text for _, text in scenario_runs.lines([found])][-1].startswith("noise: ")
