# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin as users have it: in a directory of theirs, with their own tests."""

import re
import subprocess
import sys
from pathlib import Path

from tests import command

PASSES = """
def test_it(guest, machine, kernel):
    assert guest.run("uname -r").out.decode().strip() == kernel.release
    assert guest.machine == machine
"""

FAILS = """
def test_it(guest):
    guest.run("modprobe arm-smmu-v3; KEPT=here")
    assert guest.run("echo seen; echo said > /dev/kmsg; false").number == 0
"""


def run(directory: Path, text: str, *words: str) -> tuple[int, str]:
    """The exit status and the output of pytest on a file with ``text``."""
    (directory / "test_mine.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_kernels_and_machines_are_in_the_name(tmp_path: Path, kernel_name: str) -> None:
    machines = ["--machine=smmuv3", "--machine=virtio-iommu+multifunction"]
    status, said = run(tmp_path, PASSES, "-v", f"--kernel={kernel_name}", *machines)
    assert status == 0, said
    version = kernel_name.partition(":")[2]
    assert f"test_it[{version}-smmuv3] PASSED" in said
    assert f"test_it[{version}-virtio-iommu+multifunction] PASSED" in said


def test_with_xdist(tmp_path: Path, kernel_name: str) -> None:
    status, said = run(tmp_path, PASSES, f"--kernel={kernel_name}", "-n", "auto")
    assert status == 0, said
    assert "1 passed" in said


def test_a_failure_tells_its_story_and_can_be_entered(tmp_path: Path, kernel_name: str) -> None:
    base = tmp_path / "base"
    status, said = run(tmp_path, FAILS, f"--kernel={kernel_name}", f"--basetemp={base}")
    assert status == 1
    for words in (
        "$ modprobe arm-smmu-v3; KEPT=here\n",
        "seen\n(status 1)",
        " said\n",
        "module arm_smmu_v3: loaded, refcount ",
    ):
        assert words in said
    match = re.search(r"iommu-harness shell (\S+)", said)
    assert match, said
    shell = subprocess.run(
        [*command.PROGRAM, "shell", match[1]],
        input="echo $KEPT\ncat /sys/module/arm_smmu_v3/initstate\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.splitlines()[:2] == ["here", "live"]


def test_a_dead_guest_tells_its_story_too(tmp_path: Path, kernel_name: str) -> None:
    text = "def test_it(guest):\n    guest.run('echo c > /proc/sysrq-trigger')\n"
    status, said = run(tmp_path, text, f"--kernel={kernel_name}")
    assert status == 1
    assert "$ echo c > /proc/sysrq-trigger\n(did not end)" in said
    assert "not to be had: " in said


def test_a_wrong_kernel_or_machine_is_one_line(tmp_path: Path) -> None:
    for option, why in (
        ("--kernel=nope", "no such kernel: 'nope'"),
        ("--machine=nope", "no such machine: 'nope'"),
    ):
        status, said = run(tmp_path, PASSES, option)
        assert status == 4
        assert why in said
        assert "Traceback" not in said


def test_a_test_runs_where_it_makes_sense(tmp_path: Path, kernel_name: str) -> None:
    text = "import pytest\n@pytest.mark.machines('virtio-iommu')\n" + PASSES.lstrip()
    status, said = run(tmp_path, text, "-v", f"--kernel={kernel_name}")
    assert status == 0
    assert "-virtio-iommu] PASSED" in said
    status, said = run(tmp_path, text, "-rs", f"--kernel={kernel_name}", "--machine=smmuv3")
    assert "1 skipped" in said


def test_the_factory_heeds_machine_and_qemu(tmp_path: Path, kernel_name: str) -> None:
    text = (
        "def test_it(guest_factory):\n    assert guest_factory().machine.name == 'virtio-iommu'\n"
    )
    words = (f"--kernel={kernel_name}", "--machine=virtio-iommu")
    status, said = run(tmp_path, text, *words)
    assert status == 0, said
    status, said = run(tmp_path, text, *words, "--qemu=/nowhere/qemu")
    assert status == 1
    assert "/nowhere/qemu is not installed" in said
