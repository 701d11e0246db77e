# SPDX-License-Identifier: GPL-2.0-only
"""The commands ``run`` and ``mutants``, run as users run them."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from harness.host import paths
from harness.kernel.artifact import Kernel
from tests import command
from tests.processes import wait_until

FEW = "pinning::test_device_pins_show_no_holder"


def test_run_runs_and_records_scenarios(kernel_name: str, tmp_path: Path) -> None:
    words = ("run", FEW, "--kernel", kernel_name, "--run-dir", tmp_path / "run")
    done = command.run(*words, "--repeat", "2", "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert result["counts"]["passed"] == 2
    assert result["flaky"] == []
    recorded = {(each["scenario"], each["machine"]) for each in result["scenarios"]}
    name = "test_pinning.py::test_device_pins_show_no_holder"
    assert recorded == {(name, "smmuv3"), (name, "virtio-iommu")}
    assert json.loads((tmp_path / "run/result.json").read_text()) == result


def test_run_selects_one_parameter_of_a_scenario(kernel_name: str, tmp_path: Path) -> None:
    words = ("run", "pinning::test_repeated_binding_pins_once[module]", "--kernel", kernel_name)
    done = command.run(*words, "--machine", "smmuv3", "--json", "--run-dir", tmp_path / "run")
    names = [each["scenario"] for each in json.loads(done.out)["scenarios"]]
    assert names == ["test_pinning.py::test_repeated_binding_pins_once[module]"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_keeps_its_results(
    kernel_name: str, tmp_path: Path, number: signal.Signals
) -> None:
    """The run is interrupted after the first of a hundred rounds."""
    into = tmp_path / "run"
    words = ("run", FEW, "--kernel", kernel_name, "--machine", "smmuv3", "--repeat", "100")
    started = command.start(*words, "--run-dir", into)
    first = into / "scenarios-1.jsonl"
    assert wait_until(lambda: first.exists() and first.read_text().endswith("\n"), 60)
    started.send_signal(number)
    started.communicate(timeout=60)
    assert json.loads((into / "result.json").read_text())["counts"]["passed"] == 1


def test_run_accepts_a_prebuilt_kernel(kernel: Kernel, tmp_path: Path) -> None:
    spec = f"prebuilt:{kernel.directory}"
    words = ("run", "pinning::test_repeated_binding_pins_once", "--kernel", spec)
    done = command.run(*words, "--machine", "smmuv3+nic", "--json", "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    recorded = [(each["scenario"], each["kernel"]) for each in json.loads(done.out)["scenarios"]]
    name = "test_pinning.py::test_repeated_binding_pins_once"
    assert sorted(recorded) == [(f"{name}[driver]", spec), (f"{name}[module]", spec)]


def test_behaviour_option_overrides_the_source(kernel_name: str, tmp_path: Path) -> None:
    """The scenario fails because --behaviour is wrong for this kernel."""
    words = ("run", "pinning::test_unregistering_a_platform_driver_does_not_unpin")
    options = ("--kernel", kernel_name, "--machine", "smmuv3", "--run-dir", tmp_path / "run")
    done = command.run(*words, *options, "--behaviour", "unbind-releases-device")
    assert done.status == 1
    assert "1 failed" in done.out
    assert "= pins(" in done.out


def test_keep_failed_keeps_the_guest_of_a_failed_scenario_for_shell(
    kernel_name: str, tmp_path: Path
) -> None:
    words = ("run", "pinning::test_unregistering_a_platform_driver_does_not_unpin")
    options = ("--kernel", kernel_name, "--machine", "smmuv3", "--run-dir", tmp_path / "run")
    failing = ("--behaviour", "unbind-releases-device", "--keep-failed")
    done = command.run(*words, *options, *failing, XDG_STATE_HOME=str(tmp_path / "state"))
    assert done.status == 1
    lines = [line.strip() for line in done.out.splitlines()]
    assert any(line.startswith("rule: ") for line in lines)
    (shell,) = [line.split() for line in lines if line.startswith("iommu-harness shell ")]
    (outcome,) = json.loads((tmp_path / "run/result.json").read_text())["scenarios"]
    assert outcome["kept"] == [shell[2]]
    entered = subprocess.run(
        [*command.PROGRAM, *shell[1:]],
        input="lsmod\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "arm_smmu_v3" in entered.stdout


MY_SCENARIOS = """
import pytest

WARNING = "WARNING: drivers/x.c:7 at my_release+0x8/0x10"

@pytest.mark.known_issue("my-warning")
def test_with_my_issue(guest):
    guest.run(f"echo {WARNING!r} > /dev/kmsg")

def test_that_my_issue_names(bound_guest):
    bound_guest.run(f"echo {WARNING!r} > /dev/kmsg")

def test_without_a_splat(bound_guest):
    assert bound_guest.run("true").status == 0
"""

MY_ISSUES = """
[[issue]]
id = "my-warning"
title = "my driver warns"
introduced = ["5.10"]
symptoms = [{ is = "WARNING in my_release" }]
scenarios = ["mine::test_that_*"]
"""


def test_run_accepts_a_users_scenarios_and_known_issues(kernel_name: str, tmp_path: Path) -> None:
    """A conftest.py that imports the bundled fixtures also adds the audit."""
    scenarios = tmp_path / "scenarios"
    scenarios.mkdir()
    (scenarios / "test_mine.py").write_text(MY_SCENARIOS)
    fixtures = "from harness.plugin.scenario_fixtures import *\n"
    (scenarios / "conftest.py").write_text(fixtures)
    (tmp_path / "issues.toml").write_text(MY_ISSUES)
    words = ("run", scenarios, "--kernel", kernel_name, "--machine", "smmuv3", "--json")
    options = ("--known-issues", tmp_path / "issues.toml", "--run-dir", tmp_path / "run")
    done = command.run(*words, *options)
    assert done.status == 0, done.err
    results = {each["scenario"]: each for each in json.loads(done.out)["scenarios"]}
    assert {name: each["result"] for name, each in results.items()} == {
        "test_mine.py::test_with_my_issue": "known",
        "test_mine.py::test_that_my_issue_names": "known",
        "test_mine.py::test_without_a_splat": "passed",
    }
    assert results["test_mine.py::test_with_my_issue"]["issue"] == "my-warning"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "/nowhere/test_x.py"), "cannot read /nowhere/test_x.py: no such file"),
        (("run", "--known-issues", "/nowhere/x.toml"), "cannot read /nowhere/x.toml"),
        (("run", "nope"), "unknown subject 'nope'"),
        (("run", "--behaviour", "nope"), "unknown behaviour 'nope'"),
        (("run", "--machine", "nope"), "unknown machine 'nope'"),
        (("run", "firmware", "--machine", "virtio-iommu"), "does not apply to virtio-iommu"),
        (("run", "--kernel", "prebuilt:/"), "require guest modules, which a prebuilt kernel lacks"),
        (("mutants", "--only", "nope"), "unknown mutant 'nope'"),
        (("mutants", "--dir", "/nowhere"), "/nowhere has no mutants"),
        (("mutants", "--kernel", "prebuilt:/"), "a prebuilt kernel cannot be patched"),
    ],
)
def test_usage_error_is_reported_in_the_last_line(
    kernel_name: str, words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    kernel = () if "--kernel" in words else ("--kernel", kernel_name)
    done = command.run(*words, *kernel, "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert message in done.err.splitlines()[-1]


EQUIVALENT = """\
Nothing is planted.

---
--- a/drivers/iommu/iommu.c
+++ b/drivers/iommu/iommu.c
@@ -1,2 +1,3 @@
 // SPDX-License-Identifier: GPL-2.0-only
+/* no bug */
 /*
"""


def test_mutants_kills_a_mutant_but_not_an_equivalent_one(tmp_path: Path) -> None:
    mutants = tmp_path / "mutants"
    mutants.mkdir()
    ours = paths.data("tests/mutants") / "lost-module-put-on-release.patch"
    (mutants / "lost-put.patch").write_text(ours.read_text())
    (mutants / "nothing.patch").write_text(EQUIVALENT)
    (mutants / "other.patch").write_text(EQUIVALENT.replace(" /*\n", " elsewhere\n"))
    words = ("mutants", "--dir", mutants, "--kernel", "debian:6.12", "--machine", "smmuv3")
    scenario = "pinning::test_removing_a_pci_device_drops_its_pin"
    done = command.run(*words, "--scenario", scenario, "--json", "--run-dir", tmp_path / "run")
    assert done.status == 1, done.err
    lost, nothing, other = json.loads(done.out)["mutants"]
    assert (lost["name"], lost["caught"], lost["result"]) == ("lost-put", True, "killed")
    assert lost["by"] == ["test_pinning.py::test_removing_a_pci_device_drops_its_pin"]
    assert "AssertionError" in lost["message"]
    assert lost["killers"][0]["confirmed"]
    assert lost["killers"][0]["figures"] == "fails in 6 of 6 runs with it and 0 of 6 runs without"
    assert (nothing["caught"], nothing["result"]) == (False, "survived")
    assert other["result"] == "not-applicable"
    assert "does not apply" in other["reason"]


def test_harmless_reports_a_harmful_patch_as_a_false_alarm(tmp_path: Path) -> None:
    """One patch plants a bug although it is declared harmless; the other patch is harmless."""
    patches = tmp_path / "patches"
    patches.mkdir()
    ours = paths.data("tests/mutants") / "lost-module-put-on-release.patch"
    (patches / "lost-put.patch").write_text(ours.read_text())
    (patches / "nothing.patch").write_text(EQUIVALENT)
    words = ("mutants", "--harmless", "--dir", patches, "--machine", "smmuv3", "--runs", "2")
    scenario = "pinning::test_removing_a_pci_device_drops_its_pin"
    done = command.run(*words, "--scenario", scenario, "--json", "--run-dir", tmp_path / "run")
    assert done.status == 1, done.err
    lost, nothing = json.loads(done.out)["harmless"]
    assert (lost["result"], nothing["result"]) == ("false-alarm", "quiet")
    (alarm,) = lost["alarms"]
    assert (alarm["scenario"], alarm["times"]) == (f"test_{scenario.replace('::', '.py::')}", 2)


def test_run_list_lists_scenarios_and_behaviours() -> None:
    listed = json.loads(command.run("run", "--list", "--json").out)
    assert "pinning" in listed["scenarios"]
    assert "unbind-releases-device" in listed["behaviours"]
    assert "unbind-releases-device" in command.run("run", "--list").out
