# SPDX-License-Identifier: GPL-2.0-only
"""Reports in the formats that users send, and their verdicts."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.iommu.behaviour import GROUPS_AT_REGISTRATION
from harness.kernel.artifact import Kernel
from harness.repro import replay, request
from harness.repro.replay import Result

WARN = """\
[   63.219483] ------------[ cut here ]------------
[   63.219991] WARNING: CPU: 3 PID: 1184 at drivers/iommu/iommu.c:2198 FUNCTION+0x40/0x64
[   63.220417] Modules linked in: e1000e arm_smmu_v3(-)
[   63.221082] CPU: 3 UID: 0 PID: 1184 Comm: rmmod Tainted: G R 6.12.0-rc3 #7
[   63.221904] pc : __iommu_group_free_device+0x40/0x64
[   63.222310] lr : __iommu_group_remove_device+0x9c/0x100
[   63.223000] Call trace:
[   63.223200]  __iommu_group_free_device+0x40/0x64
[   63.223300]  __iommu_group_remove_device+0x9c/0x100
[   63.223400]  iommu_device_unregister+0x50/0x90
[   63.229990] ---[ end trace 0000000000000000 ]---
"""
WARN = WARN.replace("FUNCTION", "__iommu_group_free_device")
FORCED = "$ modprobe arm-smmu-v3\n$ modprobe e1000e\n$ rmmod -f arm_smmu_v3\n"
REFUSED = "modprobe: FATAL: Module arm_smmu_v3 is in use."
REPRODUCED, NOT, UNCLEAR = "reproduced", "not-reproduced", "inconclusive"


def replayed(kernel: Kernel, tmp_path: Path, text: str, limit: float | None = None) -> Result:
    report = tmp_path / "report"
    report.write_text(text)
    run = tmp_path / "run"
    run.mkdir()
    return replay.replay(request.create(report), kernel, run, limit=limit)


@dataclass(frozen=True)
class Shape:
    """A report and its verdict."""

    id: str
    text: str
    verdict: str


SHAPES = [
    Shape("death", "$ modprobe arm-smmu-v3\nSegmentation fault\n", NOT),
    Shape("warning-below", f"$ modprobe arm-smmu-v3\n$ rmmod arm_smmu_v3\n\nThen:\n\n{WARN}", NOT),
    Shape(
        "lone-prompt",
        "root@host:~# modprobe arm-smmu-v3\nroot@host:~# echo busy\nbusy\nroot@host:~#\n",
        REPRODUCED,
    ),
    Shape("counters", "$ echo kmalloc-64 1234 5\nkmalloc-64 1235 5\n", NOT),
    Shape("counters-alike", "$ echo kmalloc-64 1234 5\nkmalloc-64 1234 5\n", REPRODUCED),
    *(
        Shape(f"prompt-{n}-{number}", f"{prompt} true\n{prompt} echo 3\n{number}\n", verdict)
        for n, prompt in enumerate(
            ("root@qemu ~ #", "localhost:~#", "root@host#", "[root@box ~]#", "host:/ #", "sh-5.2#")
        )
        for number, verdict in (("3", REPRODUCED), ("4", NOT))
    ),
    Shape("fence", "Hi,\n\n```console\n# true\n# echo 1\n1\n```\n\nBye\n", REPRODUCED),
    Shape("uname", "$ uname -r\n6.5.0-rc2-custom\n$ echo 1\n1\n", REPRODUCED),
    Shape("uname-alone", "$ uname -r\n6.5.0-rc2-custom\n$ true\n", UNCLEAR),
    Shape("soft-lockup", "$ modprobe arm-smmu-v3\n\n"
          "[ 30.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [modprobe:55]\n", NOT),
    Shape("note", "$ echo 1\n1   <---- should be 0\n", REPRODUCED),
    Shape("thanks", "$ echo 1\n1\nThanks,\nJoe\n", REPRODUCED),
    Shape("markup", "$ echo 1\n1\n</div>\n", REPRODUCED),
    Shape(
        "parts",
        "$ A=1\n\nThat is set now. Then, as the second part:\n\n$ echo $A\n1\n",
        REPRODUCED,
    ),
    Shape("terminals", "$ A=1\n$\n\nIn a second terminal:\n\n$ echo ${A:-2}\n1\n", REPRODUCED),
    Shape("lspci", "$ dpdk-devbind.py --status | grep 1234\n00:02.0 foo\n", UNCLEAR),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.id)
def test_replay_returns_the_verdict_of_a_report(
    kernel: Kernel, tmp_path: Path, shape: Shape
) -> None:
    result = replayed(kernel, tmp_path, shape.text)
    assert result.verdict.word == shape.verdict, result.verdict.reason


@pytest.mark.parametrize("place", ["inside", "below", "quoted-below"])
def test_warning_is_matched_anywhere_in_the_report(
    kernel: Kernel, tmp_path: Path, place: str
) -> None:
    """The guest's warning has a different CPU, PID, command, offset and release."""
    text = {
        "inside": FORCED + WARN,
        "below": f"{FORCED}\nand dmesg has\n\n{WARN}",
        "quoted-below": FORCED + "\ndmesg:\n" + WARN.replace("[ ", "> [ "),
    }[place]
    result = replayed(kernel, tmp_path, text)
    expected = REPRODUCED if _warns(result, "__iommu_group_free_device") else NOT
    assert result.verdict.word == expected
    if kernel.release.startswith(("6.12", "7.")):
        assert expected == REPRODUCED


def _warns(result: Result, function: str) -> bool:
    return any((each.kind, each.function) == ("WARNING", function) for each in result.splats)


def test_warning_in_another_function_does_not_match(kernel: Kernel, tmp_path: Path) -> None:
    text = FORCED + WARN.replace("__iommu_group_free_device", "iommu_group_release")
    assert replayed(kernel, tmp_path, text).verdict.word == NOT


SCRIPT = """\
Run this as root:

#!/bin/sh
modprobe arm-smmu-v3
modprobe e1000e
for i in 1; do
    rmmod -f arm_smmu_v3
done

It warns:

"""


def test_script_is_reproduced_if_its_warning_appears(kernel: Kernel, tmp_path: Path) -> None:
    result = replayed(kernel, tmp_path, SCRIPT + WARN)
    assert result.verdict.word == (
        REPRODUCED if _warns(result, "__iommu_group_free_device") else NOT
    )


def test_numbered_steps_are_reproduced_if_the_actual_results_appear(
    kernel: Kernel, tmp_path: Path
) -> None:
    text = f"""\
Description of problem:
The driver cannot be unloaded.

Steps to Reproduce:
1. modprobe arm-smmu-v3
2. modprobe test_module
3. modprobe -r test_module
4. modprobe -r arm-smmu-v3

Actual results:
{REFUSED}

Expected results:
The driver is unloaded.
"""
    assert replayed(kernel, tmp_path, text).verdict.word == REPRODUCED
    text = text.replace("2. modprobe test_module\n3. modprobe -r test_module\n4.", "2.")
    (tmp_path / "other").mkdir()
    word = replayed(kernel, tmp_path / "other", text).verdict.word
    pinned = GROUPS_AT_REGISTRATION.since.include(kernel.release)
    assert word == (REPRODUCED if pinned else NOT)


def test_reported_device_is_translated_by_its_driver(kernel: Kernel, tmp_path: Path) -> None:
    path = "/sys/bus/pci/drivers/e1000e/unbind"
    load = "# modprobe arm-smmu-v3; modprobe e1000e\n"
    listing = "# ls /sys/bus/pci/drivers/e1000e\nbind\n...\n"
    text = f"{load}# echo 0000:81:00.0 > {path}\n{listing}"
    result = replayed(kernel, tmp_path, text)
    assert result.verdict.word == REPRODUCED
    assert result.steps[1].command == f"echo 0000:00:01.0 > {path}"
    assert any("0000:81:00.0" in note and "0000:00:01.0" in note for note in result.notes)


def test_ambiguous_device_is_inconclusive(kernel: Kernel, tmp_path: Path) -> None:
    path = "/sys/bus/platform/drivers/iommu_client/unbind"
    text = (
        f"# modprobe iommu_client\n# echo 3f000000.gpu > {path}\nsh: write error: No such device\n"
    )
    result = replayed(kernel, tmp_path, text)
    assert result.verdict.word == UNCLEAR
    assert "--device 3f000000.gpu=" in result.verdict.reason


def test_command_runs_in_the_directory_of_its_prompt(kernel: Kernel, tmp_path: Path) -> None:
    text = (
        "root@host:~# modprobe arm-smmu-v3\nroot@host:~# modprobe e1000e\n"
        "root@host:/sys/bus/pci/drivers/e1000e# echo 0000:00:01.0 > unbind\n"
        "root@host:/sys/bus/pci/drivers/e1000e# ls -d 0000*\n"
        "ls: 0000*: No such file or directory\n"
    )
    assert replayed(kernel, tmp_path, text).verdict.word == REPRODUCED


def test_reported_virtio_device_is_translated_to_the_iommu(kernel: Kernel, tmp_path: Path) -> None:
    text = "# modprobe virtio-iommu\n# echo virtio0 > /sys/bus/virtio/drivers/virtio_iommu/unbind\n"
    result = replayed(kernel, tmp_path, text + "# ls /sys/class/iommu\n# echo done\ndone\n")
    assert "virtio1" in result.steps[1].command
    assert any("virtio0" in note for note in result.notes)
    # If groups are created at registration, viommu_remove removes them and oopses.
    oopses = GROUPS_AT_REGISTRATION.since.include(kernel.release)
    assert result.verdict.word == (NOT if oopses else REPRODUCED)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("$ modprobe hang\n^C\n", REPRODUCED),
        ("When I load the module, modprobe hangs.\n\n$ modprobe hang\n", REPRODUCED),
        ("$ modprobe iommu_client\n^C\n", NOT),
    ],
)
def test_hang_is_reproduced_only_if_the_guest_hangs(
    kernel: Kernel, tmp_path: Path, text: str, verdict: str
) -> None:
    result = replayed(kernel, tmp_path, text, limit=2)
    assert result.verdict.word == verdict
    if verdict == REPRODUCED:
        assert "CPU 0 is in ? <- do_one_initcall <- do_init_module" in result.verdict.reason


def test_create_notes_a_command_of_an_unknown_program(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.write_text("# modprobe a\n# frobnicate --all /dev/x | grep y\nbusy\n")
    notes = request.create(report).notes
    assert any("commands of unknown programs in lines 2" in note for note in notes)
