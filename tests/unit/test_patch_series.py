# SPDX-License-Identifier: GPL-2.0-only
"""The results of the patches of a series."""

from pathlib import Path

import pytest

from harness.comparison import patch_series, series_render
from harness.comparison.difference import ENOUGH
from harness.comparison.patch_series import Broken, PatchResult
from harness.comparison.scenario_runs import ScenarioCompared
from harness.errors import UsageError
from harness.kernel import series, spec
from harness.suite.run import ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult

GOOD, BAD = ScenarioResult.PASSED, ScenarioResult.FAILED


def outcomes(result: ScenarioResult) -> list[ScenarioOutcome]:
    reason = "harness.iommu.finding.RuleViolation: it leaks\nmore" if result is BAD else ""
    each = ScenarioOutcome("test_x.py::test_y", "debian:6.12", "smmuv3", result, reason, 1.0, "")
    return [each] * ENOUGH


def compared(old: ScenarioResult, new: ScenarioResult) -> ScenarioCompared:
    return ScenarioCompared("test_x.py::test_y", "smmuv3", outcomes(old), outcomes(new))


BREAKS = PatchResult(3, "iommu: Break", scenarios=(compared(GOOD, BAD),), total=9)
FIXES = PatchResult(5, "iommu: Fix", scenarios=(compared(BAD, GOOD),), total=9)
NEUTRAL = PatchResult(4, "iommu: Move", total=9)


def text_of(*results: PatchResult) -> list[str]:
    lines = [line for each in results for line in series_render.patch(each, 5)]
    return [text for _, text in [*lines, *series_render.closing(results, 5)]]


def test_a_patch_that_a_later_patch_fixes_is_not_bisectable() -> None:
    assert patch_series.broken([BREAKS, NEUTRAL, FIXES]) == [
        Broken("test_x.py::test_y", "smmuv3", 3, 5)
    ]
    lines = text_of(BREAKS, NEUTRAL, FIXES)
    assert "3/5 iommu: Break: 1 scenario broken" in lines
    assert "      fails: test_x.py::test_y [smmuv3]: RuleViolation: it leaks" in lines
    assert "4/5 iommu: Move: no difference in 9 scenarios" in lines
    assert "5/5 iommu: Fix: 1 scenario fixed" in lines
    assert lines[-1] == "not bisectable: patch 3 breaks 1 scenario until patch 5"


def test_a_patch_that_no_later_patch_fixes_is_reported() -> None:
    fixed_before = PatchResult(2, "iommu: Fix", scenarios=(compared(BAD, GOOD),), total=9)
    assert patch_series.broken([fixed_before, BREAKS])[0].fixed is None
    assert text_of(BREAKS)[-1] == "patch 3 breaks 1 scenario, without a fix in a later patch"


def test_a_known_issue_is_another_result_but_not_broken() -> None:
    each = PatchResult(1, "x", scenarios=(compared(GOOD, ScenarioResult.KNOWN_ISSUE),), total=1)
    assert each.is_good
    assert text_of(each)[0] == "1/5 x: 1 scenario with another result"


@pytest.mark.parametrize(
    "result",
    [
        PatchResult(1, "x", error="the kernel does not build: a.c:1:1: error: no"),
        PatchResult(1, "x", warnings=("a.c: unused variable",)),
        PatchResult(1, "x", applies=False, error="it does not apply"),
    ],
)
def test_errors_and_warnings_are_listed_below_the_patch(result: PatchResult) -> None:
    assert not result.is_good
    assert text_of(result)[1] == f"      {result.error or result.warnings[0]}"


DIFF = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"


def mbox(*titles: str) -> str:
    total = len(titles)
    return "".join(
        f"From 0 Mon Sep 17 00:00:00 2001\nFrom: a <a@b>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n"
        f"Subject: [PATCH {number}/{total}] {title}\n\n{DIFF}\n"
        for number, title in enumerate(titles, start=1)
    )


def test_each_patch_of_an_mbox_becomes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "s.mbox"
    file.write_text(mbox("iommu: One", "iommu: Two"))
    found = patch_series.patches(file, tmp_path / "patches")
    assert [patch.title for patch, _ in found] == ["iommu: One", "iommu: Two"]
    for patch, path in found:
        (read,) = series.read(path)
        assert read.text.strip() == patch.text.strip()


def test_patches_rejects_an_empty_mbox(tmp_path: Path) -> None:
    file = tmp_path / "s.mbox"
    file.write_text("")
    with pytest.raises(UsageError, match=r"s\.mbox: the file is empty"):
        patch_series.patches(file, tmp_path / "patches")


def test_a_prebuilt_kernel_cannot_be_patched() -> None:
    with pytest.raises(UsageError, match="prebuilt"):
        patch_series.check(spec.parse("prebuilt:/tmp"))
