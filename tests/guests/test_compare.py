# SPDX-License-Identifier: GPL-2.0-only
"""Comparing two kernels with the command ``compare``."""

import json
from pathlib import Path
from typing import Any

from harness.comparison import compared
from harness.comparison.session import Side
from harness.kernel.artifact import Kernel
from harness.repro import request
from tests import command
from tests.conftest import PATCHES, REPORTS

PINS = REPORTS / "platform-client-pins-smmu.transcript"
UNPINNED = PATCHES / "6.12-no-module-pin.patch"
ON = ("--kernel", "debian:6.12")


def run(*words: str | Path) -> tuple[int, Any]:
    """Run ``compare``; return the exit status and the JSON object."""
    done = command.run("compare", *words, "--json")
    return done.status, json.loads(done.out)


def test_compare_finds_the_steps_that_a_patch_changes(tmp_path: Path) -> None:
    """Without the pin, the refcount stays 0, and the IOMMU's module can be unloaded."""
    status, found = run(PINS, *ON, "--patch", UNPINNED, "--run-dir", tmp_path / "run")
    assert status == 1
    lines = {(each["step"], each["text"]): each for each in found["differences"]}
    runs = found["new"]["runs"]
    assert lines[4, "exit status 1"]["old_runs"] == runs
    assert lines[4, "exit status 1"]["new_runs"] == 0
    assert lines[4, "module arm_smmu_v3: unloaded"]["new_runs"] == runs
    assert [each["number"] for each in found["steps"] if each["differs"]][-1] == 4
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == found


def test_compare_finds_no_difference_between_runs_of_one_kernel(
    kernel: Kernel, tmp_path: Path
) -> None:
    wanted = request.create(PINS)
    side = Side("old", kernel, wanted.machine)
    found = compared.compare(wanted, side, side, tmp_path, least=3)
    assert found.comparison.differences == ()


def test_compare_finds_the_scenarios_that_a_patch_breaks() -> None:
    broken = "pinning::test_binding_a_nic_pins_the_module_once"
    status, found = run(
        "pinning::test_device_pins_show_no_holder",
        broken,
        *(*ON, "--patch", UNPINNED, "--machine", "smmuv3"),
    )
    assert status == 1
    assert any(each["differs"] for each in found["scenarios"])
    for each in found["scenarios"]:
        assert set(each["old"]) == {"passed"}
        assert set(each["new"]) == {"failed"}
