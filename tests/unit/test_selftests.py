# SPDX-License-Identifier: GPL-2.0-only
"""The results of the kernel's own tests: KTAP, and the verdict on a selftest."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestHang, GuestPanic, HarnessError, HostError, QemuEnded
from harness.guest import launch
from harness.iommu import machines
from harness.iommu.finding import Finding
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.selftests import ktap, render, run, suites
from harness.selftests.ktap import Report, Result, Subtest
from harness.selftests.run import End, SelftestOutcome
from harness.suite.scenario_result import ScenarioResult

KSELFTEST = """\
TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           global.simple ...
#            OK  global.simple
ok 1 global.simple
#  RUN           global.failing ...
# iommufd.c:12:failing:Expected 0 (0) == rc (-1)
# failing: Selftest terminated by assertion
#          FAIL  global.failing
not ok 2 global.failing
ok 3 global.skipped # SKIP no huge pages
ok 4 - with a dash # XFAIL known
# FAILED: 3 / 4 tests passed.
# Totals: pass:2 fail:1 xfail:0 xpass:0 skip:1 error:0
"""

KUNIT = """\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: suite
    # module: suite_test
    1..3
    ok 1 simple
        KTAP version 1
        # Subtest: parametrized
        ok 1 first
    # parametrized: EXPECTATION FAILED at suite_test.c:7
    Expected left == right, but
        left == 1 (0x1)
        right == 2 (0x2)
        not ok 2 second
    # parametrized: pass:1 fail:1 skip:0 total:2
    not ok 2 parametrized
    ok 3 later # SKIP not here
# suite: pass:1 fail:1 skip:1 total:3
not ok 1 suite
"""


def test_parse_reads_the_output_of_a_kselftest_program() -> None:
    report = ktap.parse(KSELFTEST.splitlines())
    assert report.missing == 0
    assert [(each.name, each.result) for each in report.subtests] == [
        ("global.simple", Result.PASSED),
        ("global.failing", Result.FAILED),
        ("global.skipped", Result.SKIPPED),
        ("with a dash", Result.PASSED),
    ]
    assert report.subtests[1].reason == (
        "iommufd.c:12:failing:Expected 0 (0) == rc (-1)\nfailing: Selftest terminated by assertion"
    )
    assert report.subtests[2].reason == "no huge pages"


def test_parse_names_the_nested_results_of_kunit() -> None:
    report = ktap.parse(KUNIT.splitlines())
    assert report.missing == 0
    assert [(each.name, each.result) for each in report.subtests] == [
        ("suite.simple", Result.PASSED),
        ("suite.parametrized.first", Result.PASSED),
        ("suite.parametrized.second", Result.FAILED),
        ("suite.later", Result.SKIPPED),
    ]
    assert "left == 1 (0x1)" in report.subtests[2].reason


def test_parse_keeps_a_parent_that_fails_without_a_failed_subtest() -> None:
    lines = ["1..1", "    1..1", "    ok 1 inner", "# cleanup failed", "not ok 1 outer"]
    found = ktap.parse(lines).subtests
    assert [(each.name, each.result) for each in found] == [
        ("outer.inner", Result.PASSED),
        ("outer", Result.FAILED),
    ]
    assert found[1].reason == "cleanup failed"


def test_parse_counts_the_results_that_are_missing() -> None:
    """The program ended early, or the kernel died."""
    for stop in range(len(KSELFTEST.splitlines())):
        report = ktap.parse(KSELFTEST.splitlines()[:stop])
        assert len(report.subtests) + report.missing == (4 if stop >= 2 else 0)


def test_parse_ignores_the_kernel_log_between_results() -> None:
    lines = KSELFTEST.splitlines()
    noisy = [part for line in lines for part in ("iommu_mock iommu_mock0: ok", line, "not ok")]
    names = [each.name for each in ktap.parse(lines).subtests]
    assert [each.name for each in ktap.parse(noisy).subtests] == names


@given(st.lists(st.text() | st.from_regex(r" {0,8}(not )?ok \d{1,4}( - )?\w* # ?\w*")))
def test_parse_accepts_any_lines(lines: list[str]) -> None:
    report = ktap.parse(lines)
    assert report.missing >= 0
    assert all(0 <= each.line < len(lines) for each in report.subtests)


OUTCOME = SelftestOutcome("iommu", "iommufd", "debian:7.2", "smmuv3", ScenarioResult.PASSED)
PASSED = Report((Subtest("a", Result.PASSED, line=1), Subtest("b", Result.PASSED, line=9)))
SKIPPED = Report((Subtest("a", Result.SKIPPED, "no device"),))
WARNING = splat.find(
    ["noise"] * 3
    + ["WARNING: CPU: 0 PID: 9 at drivers/iommu/iommufd/pages.c:12 iopt_map+0x1/0x2"]
    + ["Call trace:", " iopt_map+0x1/0x2", " iommufd_ioas_map+0x1/0x2"]
    + ["---[ end trace 0000000000000000 ]---"]
)


PLAIN = End()


def judged(
    report: Report = PASSED, found: list[splat.Splat] | None = None, end: End = PLAIN
) -> tuple[ScenarioResult, str]:
    outcome = run.judge(OUTCOME, report, found or [], end)
    return outcome.result, outcome.reason


def test_selftest_passes_if_its_subtests_pass() -> None:
    assert judged() == (ScenarioResult.PASSED, "")


def test_selftest_that_skips_everything_is_not_applicable() -> None:
    assert judged(SKIPPED) == (ScenarioResult.NOT_APPLICABLE, "no device")
    assert judged(SKIPPED, end=End(4)) == (ScenarioResult.NOT_APPLICABLE, "no device")


def test_selftest_without_subtests_does_not_pass() -> None:
    assert judged(Report(()))[0] == ScenarioResult.NOT_APPLICABLE
    assert judged(Report(()), end=End(1))[0] == ScenarioResult.FAILED


def test_splat_fails_a_selftest_and_is_attributed_to_the_subtest() -> None:
    result, reason = judged(found=WARNING)
    assert (result, reason) == (ScenarioResult.FAILED, "WARNING in iopt_map (during b)")
    assert judged(found=WARNING * 3)[1] == "WARNING in iopt_map (during b), 3 times"


def test_exit_status_without_a_failed_subtest_fails() -> None:
    assert judged(end=End(1)) == (
        ScenarioResult.FAILED,
        "the exit status is 1, but no subtest fails",
    )


def test_missing_results_fail() -> None:
    assert judged(Report(PASSED.subtests, missing=3)) == (
        ScenarioResult.FAILED,
        "3 subtests have no result; the exit status is 0",
    )


def test_finding_of_the_audit_fails() -> None:
    leak = Finding("refcount-leak", "arm_smmu_v3", "1", "arm_smmu_v3 has refcount 1")
    assert judged(end=End(findings=(leak,))) == (ScenarioResult.FAILED, leak.text)


def test_panic_and_hang_fail_and_host_trouble_is_inconclusive() -> None:
    assert judged(end=End(error=GuestPanic("Oops"))) == (
        ScenarioResult.FAILED,
        "panic after 2 subtests: the kernel panicked: Oops",
    )
    result, reason = judged(end=End(error=GuestHang("no reply for 120 s")))
    assert (result, reason) == (ScenarioResult.FAILED, "hang after 2 subtests: no reply for 120 s")
    assert judged(end=End(error=QemuEnded("killed")))[0] == ScenarioResult.INCONCLUSIVE


def test_table_counts_subtests_and_lists_each_reason_once() -> None:
    broken = [
        SelftestOutcome(
            "vfio", name, "debian:7.2", "smmuv3", ScenarioResult.INCONCLUSIVE, "error: x"
        )
        for name in ("one", "two")
    ]
    passed = run.judge(OUTCOME, PASSED, [], End())
    text = [line for _, line in render.lines([passed, *broken])]
    assert "iommu/iommufd  2 passed" in text
    assert "vfio/one       inconclusive" in text
    assert text.count("    error: x") == 1
    assert render.counts([passed, *broken])["inconclusive"] == 2


def test_boot_message_has_the_counts() -> None:
    line = "arm-lpae io-pgtable: selftest: completed with 18 PASS 1 FAIL"
    _, pattern = suites.BOOT_TESTS["io-pgtable-arm"]
    match = pattern.match(line)
    assert match
    assert (match["passed"], match["failed"]) == ("18", "1")


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (GuestPanic("Oops"), ScenarioResult.FAILED),
        (GuestHang("no reply for 60 s"), ScenarioResult.FAILED),
        (QemuEnded("killed"), ScenarioResult.INCONCLUSIVE),
        (HostError("no space"), ScenarioResult.INCONCLUSIVE),
    ],
)
def test_guest_that_does_not_boot_fails_a_test(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: HarnessError, result: ScenarioResult
) -> None:
    def boot_of(*_: object) -> None:
        raise error

    monkeypatch.setattr(launch, "boot_of", boot_of)
    test = suites.Selftest("kunit", "arm-smmu-v3-test")
    kernel = Kernel("key", "debian:7.2", "7.2.13", "gcc", tmp_path)
    outcome = run.run(test, "debian:7.2", kernel, machines.named("smmuv3"), tmp_path)
    assert (outcome.result, outcome.reason) == (result, str(error))
