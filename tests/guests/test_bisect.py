# SPDX-License-Identifier: GPL-2.0-only
"""Bisection over real kernels. The histories are cheap: releases, and series of five patches."""

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

from harness.errors import HostError
from harness.host import paths
from tests import command
from tests.conftest import PATCHES, REPORTS
from tests.processes import wait_until

REFCOUNT = REPORTS / "refcount-at-modprobe.transcript"
# Both kernels are also built by the other tests.
RELEASES = ("--releases", "--old", "debian:6.12", "--new", "debian:7.2")


def test_bisect_finds_the_release_that_creates_groups_at_registration(tmp_path: Path) -> None:
    """Since bcb81ac6ae3c (6.15) the driver is pinned as soon as it is loaded."""
    words = ("bisect", REFCOUNT, *RELEASES, "--run-dir", tmp_path / "run", "--json")
    done = command.run(*words)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["name"] == "debian:7.2"
    assert not found["appears"]
    assert found["confidence"] >= 0.99
    report = (tmp_path / "run/report.txt").read_text()
    assert "Confidence 0.99" in report
    (held,) = found["held"]
    assert (held["name"], held["shown"]) == ("debian:7.2", 0)
    assert held["error"] <= held["requested_error"]
    assert f"(requested: {held['requested_error']:.2g})" in report
    assert "Fixes:" not in report  # no commit
    assert "<h1>debian:7.2</h1>" in (tmp_path / "run/report.html").read_text()
    logged = command.run("bisect", "log", tmp_path / "run")
    assert "# first new commit" in logged.out
    status = command.run("bisect", "status", tmp_path / "run")
    assert "first new release: debian:7.2" in status.out
    progress = json.loads(command.run("bisect", "status", tmp_path / "run", "--json").out)
    assert progress["result"] == found


def test_bisect_finds_the_release_that_changes_a_figure(tmp_path: Path) -> None:
    symptom: tuple[str, ...] = ("--command", "modprobe arm-smmu-v3")
    symptom += ("--command", "cat /sys/module/arm_smmu_v3/refcnt", "--figure", r"(\d+)")
    words = ("bisect", *symptom, "--above", "0", *RELEASES)
    done = command.run(*words, "--run-dir", tmp_path / "run", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["name"], found["appears"]) == ("debian:7.2", True)


def test_bisect_finds_the_first_release_on_which_a_command_hangs(tmp_path: Path) -> None:
    """With --hang, a release is bad if the last command hangs. The init function of the guest
    module "hang" never returns."""
    hangs = "case $(uname -r) in 7.*) modprobe hang; esac"
    words = ("bisect", "--command", hangs, "--hang", "--limit", "2", *RELEASES)
    endpoints = ("--confidence", "0.9", "--run-dir", tmp_path / "run", "--json")
    done = command.run(*words, *endpoints)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["name"], found["appears"]) == ("debian:7.2", True)
    assert any("do_init_module" in each["reason"] for each in found["steps"])


def test_hang_in_a_setup_command_is_inconclusive(tmp_path: Path) -> None:
    words = ("bisect", "--command", "modprobe hang", "--command", "true", "--limit", "2")
    done = command.run(*words, "--hang", *RELEASES, "--run-dir", tmp_path / "run")
    assert done.status == 3, done.out + done.err
    assert "the guest has been silent for 2 s" in done.err, done.err


def test_panic_instead_of_a_hang_is_inconclusive(tmp_path: Path) -> None:
    words = ("bisect", "--command", "echo c > /proc/sysrq-trigger", "--hang", *RELEASES)
    done = command.run(*words, "--run-dir", tmp_path / "run")
    assert done.status == 3, done.out + done.err
    assert "the kernel panicked: sysrq triggered crash" in done.err, done.err


def test_failed_setup_command_is_inconclusive(tmp_path: Path) -> None:
    """The failure must not count as a run of the last command without the symptom."""
    words = ("bisect", "--command", "modprobe no-such-module", "--command", "true", *RELEASES)
    done = command.run(*words, "--run-dir", tmp_path / "run")
    assert done.status == 3, done.out + done.err
    assert "set-up command 'modprobe no-such-module' fails: status 1" in done.err, done.err


def test_bisect_finds_the_release_that_fails_a_scenario(tmp_path: Path) -> None:
    """On 7.2 the scenario shows a known issue, which counts as the symptom only with --known."""
    issue = "rescan-splits-functions"
    name = "groups::test_rescanned_functions_share_a_group"
    words = ("bisect", name, *RELEASES, "--confidence", "0.7")
    done = command.run(*words, "--max-runs", "2", "--run-dir", tmp_path / "without")
    assert done.status == 2
    assert f"known issue {issue} appears (--known {issue} bisects it)" in done.err
    done = command.run(*words, "--known", issue, "--run-dir", tmp_path / "run", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["name"], found["appears"]) == ("debian:7.2", True)


def test_bisect_shows_source_lines_in_the_splat_of_the_first_bad_release(tmp_path: Path) -> None:
    """A forced unload removes groups that a driver still owns, and __iommu_group_free_device
    warns."""
    load = ("--command", "modprobe arm-smmu-v3", "--command", "modprobe test_module")
    words = ("bisect", *load, "--command", "rmmod -f arm_smmu_v3", "--splat", "group_free_device")
    endpoints = (
        "--releases",
        "--old",
        "debian:5.10",
        "--new",
        "debian:6.12",
        "--confidence",
        "0.9",
    )
    done = command.run(*words, *endpoints, "--run-dir", tmp_path / "run", "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["splats"]
    for each in found["splats"]:
        assert each["function"] == "__iommu_group_free_device"
    report = (tmp_path / "run/report.txt").read_text()
    frame = r"iommu_device_unregister\+\S+ \(drivers/iommu/iommu.c:\d+\)"
    assert re.search(frame, report), report


def test_bisect_rejects_a_symptom_of_both_endpoints(tmp_path: Path) -> None:
    words = ("bisect", "--command", "echo yes", "--matches", "yes", *RELEASES)
    done = command.run(*words, "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert "the symptom is about as frequent at both endpoints" in done.err


def test_bisect_rejects_swapped_endpoints(tmp_path: Path) -> None:
    words = ("bisect", REFCOUNT, "--releases", "--good", "debian:6.12", "--bad", "debian:7.2")
    done = command.run(*words, "--run-dir", tmp_path / "run")
    assert done.status == 2
    assert re.search(
        r"bad endpoint .* shows the symptom in 0 of \d+ runs, but the good endpoint .* shows it",
        done.err,
    )


def series(into: Path, changes: dict[int, Path]) -> Path:
    """Write a series of five patches to ``into``. ``changes`` maps numbers to patches; the other
    patches have no effect."""
    into.mkdir()
    for number in range(1, 6):
        diff = f"--- /dev/null\n+++ b/Documentation/{number}\n@@ -0,0 +1 @@\n+{number}\n"
        if number in changes:
            diff = changes[number].read_text().partition("\n---\n")[2]
        head = f"From: a@example.org\nSubject: [PATCH {number}/5] change {number}\n\n---\n"
        (into / f"{number:04}.patch").write_text(f"{head}{diff}")
    return into


def test_bisect_finds_the_bad_patch_of_a_series(tmp_path: Path) -> None:
    """The other patches do not change what a guest runs, and are classified without a run."""
    bug = paths.data("tests/mutants") / "lost-module-put-on-release.patch"
    patches = series(tmp_path / "series", {3: bug})
    report = REPORTS / "nic-removal-keeps-smmu.transcript"
    words = ("bisect", report, "--series", patches, "--kernel", "debian:6.12", "--json")
    done = command.run(*words, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["name"] == "3/5: change 3"
    assert found["reverted"].startswith("is good")
    assert found["verified"]
    classified = {each["name"][:3] for each in found["steps"] if not each["runs"]}
    assert classified


def test_bisect_ignores_a_patch_that_changes_a_behaviour(tmp_path: Path) -> None:
    """The second patch changes the source so that the scenario asserts the opposite behaviour. It
    fails only from the fourth patch on."""
    acs = PATCHES / "6.12-acs-when-dma-is-configured.patch"
    bug = paths.data("tests/mutants") / "functions-never-share.patch"
    patches = series(tmp_path / "series", {2: acs, 4: bug})
    name = "topologies::test_root_port_shares_its_group_without_early_acs"
    words = ("bisect", name, "--series", patches, "--kernel", "debian:6.12", "--json")
    done = command.run(*words, "--confidence", "0.7", "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    assert json.loads(done.out)["name"] == "4/5: change 4"


def test_resume_continues_an_interrupted_search(tmp_path: Path) -> None:
    """A search that is interrupted at random moments, by SIGKILL and SIGINT alternately, repeats no
    recorded work and finds the same result."""
    draw = random.Random(1)
    directory = tmp_path / "run"
    words: tuple[str | Path, ...] = ("bisect", REFCOUNT, *RELEASES, "--run-dir", directory)
    recorded: list[str] = []
    for number in range(6):
        process = command.start(*words)
        _wait_for_more(process, directory / "journal.jsonl", len(recorded))
        time.sleep(draw.random())
        process.send_signal([signal.SIGKILL, signal.SIGINT][number % 2])
        process.communicate(timeout=60)
        text = (directory / "journal.jsonl").read_text()
        lines = text.split("\n")[:-1]
        assert lines[: len(recorded)] == recorded
        recorded = lines
        words = ("bisect", "resume", directory)
        if process.returncode == 0:
            break
    done = command.run("bisect", "resume", directory, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["name"] == "debian:7.2"
    lines = (directory / "journal.jsonl").read_text().splitlines()
    assert lines[: len(recorded)] == recorded
    builds = [json.loads(line)["build"]["revision"] for line in lines if '"build"' in line]
    assert len(builds) == len(set(builds))


def _wait_for_more(process: subprocess.Popen[str], journal: Path, known: int) -> None:
    """Wait until one more run is recorded, or the search has ended."""

    def is_more() -> bool:
        return journal.exists() and journal.read_text().count("\n") > known

    assert wait_until(lambda: process.poll() is not None or is_more(), 600)


def test_resume_fails_while_another_search_uses_the_directory(tmp_path: Path) -> None:
    process = command.start("bisect", REFCOUNT, *RELEASES, "--run-dir", tmp_path / "run")
    _wait_for_more(process, tmp_path / "run/journal.jsonl", 0)
    done = command.run("bisect", "resume", tmp_path / "run")
    assert done.status == HostError.exit_code
    assert "another bisection is running" in done.err
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_bisect_finds_the_patch_that_panics_before_the_console(tmp_path: Path) -> None:
    """The reason for the panic is read from an early console."""
    patch = tmp_path / "panic.patch"
    patch.write_text((PATCHES / "6.12-early-panic.patch").read_text())
    words = ("bisect", "--boot", "--series", patch, "--kernel", "debian:6.12", "--json")
    done = command.run(*words, "--run-dir", tmp_path / "run")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert any("the kernel panicked: no IOMMU" in each["reason"] for each in found["steps"])
