# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin as users have it: in a directory of theirs, with their own tests."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.iommu import belief
from harness.iommu.behaviour import UNREGISTERING_REMOVES_GROUPS
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
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
    status, said = run(tmp_path, text, f"--kernel={kernel_name}", "--machine=smmuv3")
    assert "1 deselected" in said


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


SPLAT = "guest.run('echo \"WARNING: drivers/x.c:7 at thing_release+0x8/0x10\" > /dev/kmsg')"

NOT_REPORTED = "does not report what the test provokes"


@pytest.mark.parametrize(
    ("marker", "body", "told"),
    [
        ("", SPLAT, "the kernel reports what is not expected:"),
        ("@pytest.mark.splats('WARNING in thing_release')", SPLAT, "1 passed"),
        ("@pytest.mark.splats('WARNING in other_release')", SPLAT, "what is not expected"),
        ("@pytest.mark.splats('WARNING in thing_release')", "pass", NOT_REPORTED),
        ("", f"expect_splat('WARNING in thing_*'); {SPLAT}", "1 passed"),
        ("", "expect_splat('WARNING in thing_*')", NOT_REPORTED),
        ("", "expect_splat('WARNING in thing_*', sometimes=True)", "1 passed"),
        ("", f"expect_splat('WARNING in thing_*', sometimes=True); {SPLAT}", "1 passed"),
    ],
)
def test_a_splat_that_nobody_expects_fails_a_test_that_passes(
    tmp_path: Path, kernel_name: str, marker: str, body: str, told: str
) -> None:
    text = f"import pytest\n{marker}\ndef test_it(guest, expect_splat):\n    {body}\n"
    status, said = run(tmp_path, text, f"--kernel={kernel_name}")
    assert told in said
    assert status == (0 if "passed" in told else 1)


OOPS = """
def test_it(guest):
    guest.run("modprobe virtio-iommu; modprobe e1000e; cd /sys/bus/virtio/drivers/virtio_iommu")
    guest.run("for each in virtio*; do echo $each > unbind; done")
"""


@pytest.mark.parametrize(("options", "decoded"), [((), True), (("--plain-failures",), False)])
def test_an_unexpected_splat_has_places_in_the_source(
    tmp_path: Path, kernel_name: str, kernel: Kernel, options: tuple[str, ...], decoded: bool
) -> None:
    if not UNREGISTERING_REMOVES_GROUPS.since.include(kernel.release):
        pytest.skip("unbinding a virtio-iommu does not oops here")
    words = (f"--kernel={kernel_name}", "--machine=virtio-iommu", *options)
    status, said = run(tmp_path, OOPS, *words)
    assert (status, "in sysfs_remove_link_from_group" in said) == (1, True)
    place = r"iommu_device_unregister\+\S+ \(drivers/iommu/iommu.c:\d+\)"
    assert bool(re.search(place, said)) == decoded


@pytest.mark.parametrize(("body", "result"), [("pass", "inconclusive"), (SPLAT, "failed")])
def test_the_hosts_fault_is_no_excuse_for_a_splat(
    tmp_path: Path, kernel_name: str, body: str, result: str
) -> None:
    text = (
        "from harness.errors import HostError\n"
        f"def test_it(guest):\n    {body}\n    raise HostError('no disk')\n"
    )
    events = tmp_path / "events"
    status, _ = run(tmp_path, text, f"--kernel={kernel_name}", f"--events={events}")
    assert (status, json.loads(events.read_text())["result"]) == (1, result)


KNOWN = """
import pytest
from harness.iommu.audit import survives
@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-unbind")
def test_it(guest):
    guest.run("modprobe virtio-iommu; modprobe e1000e")
    survives(guest.step("cd /sys/bus/virtio/drivers/virtio_iommu; {}"))
"""


def test_a_known_issue_has_to_appear_where_it_applies(
    tmp_path: Path, kernel_spec: KernelSpec, kernel: Kernel
) -> None:
    name = f"{kernel_spec.kind}:{kernel_spec.where}"
    applies = belief.of(kernel_spec, kernel).issues["virtio-iommu-unbind"].shown
    oops = KNOWN.format("for d in virtio[0-9]*; do echo $d > unbind; done")
    events = tmp_path / "events"
    status, said = run(tmp_path, oops, f"--kernel={name}", "-rx", f"--events={events}")
    assert status == 0, said
    assert ("known issue virtio-iommu-unbind: " in said) == applies
    assert json.loads(events.read_text())["issue"] == ("virtio-iommu-unbind" if applies else "")
    status, said = run(tmp_path, KNOWN.format("true"), f"--kernel={name}")
    assert status == (1 if applies else 0)
    assert ("known issue virtio-iommu-unbind does not appear" in said) == applies
    # Of a kernel without its source the version says so, and may be wrong.
    guess = f"--kernel=prebuilt:{kernel.directory}"
    status, said = run(tmp_path, KNOWN.format("true"), guess)
    assert status == 0, said
    race = KNOWN.replace('unbind")', 'unbind", sometimes=True)').format("true")
    status, said = run(tmp_path, race, f"--kernel={name}")
    assert status == 0, said


def test_a_known_issue_does_not_excuse_its_neighbour(
    tmp_path: Path, kernel_spec: KernelSpec, kernel: Kernel
) -> None:
    if not belief.of(kernel_spec, kernel).issues["virtio-iommu-unbind"].shown:
        pytest.skip("unbinding a virtio-iommu does not oops here")
    name = f"--kernel={kernel_spec.kind}:{kernel_spec.where}"
    oops = KNOWN.format("for d in virtio[0-9]*; do echo $d > unbind; done")
    status, said = run(tmp_path, oops.replace("    survives", f"    {SPLAT}\n    survives"), name)
    assert status == 1
    assert "in thing_release" in said
    assert "known issue virtio-iommu-unbind explains the rest" in said


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_known_issue_that_does_not_exist(tmp_path: Path, kernel_name: str, workers: str) -> None:
    text = KNOWN.replace("virtio-iommu-unbind", "nope").format("true")
    events = tmp_path / "events"
    words = (f"--kernel={kernel_name}", "-n", workers, f"--events={events}")
    status, said = run(tmp_path, text, *words)
    assert status == 1
    assert "no known issue 'nope'" in said
    (told,) = map(json.loads, events.read_text().splitlines())
    assert told["result"] == "failed"
    assert "no known issue 'nope'" in told["reason"]


NEEDS = """
import pytest
from harness.iommu.behaviour import UNBIND_UNPINS
@pytest.mark.needs(UNBIND_UNPINS)
def test_it(guest, shows):
    assert shows(UNBIND_UNPINS)
"""


def test_what_a_kernel_cannot_show_is_not_applicable(tmp_path: Path, kernel_name: str) -> None:
    events = tmp_path / "events"
    words = (f"--kernel={kernel_name}", "-rs", f"--events={events}")
    _, said = run(tmp_path, NEEDS, *words)
    assert "not applicable: it needs that a platform device leaves its group" in said
    status, said = run(tmp_path, NEEDS, *words, "--behaviour=unbind-unpins")
    assert (status, "1 passed" in said) == (0, True)
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [each["result"] for each in told] == ["not-applicable", "passed"]
    assert {(each["scenario"], each["kernel"], each["machine"]) for each in told} == {
        ("test_mine.py::test_it", kernel_name, "smmuv3")
    }


def test_a_qemu_that_the_host_kills_says_nothing_about_the_kernel(
    tmp_path: Path, kernel_name: str
) -> None:
    text = "import os\ndef test_it(guest):\n    os.kill(guest.pid, 9)\n    guest.run('true')\n"
    events = tmp_path / "events"
    run(tmp_path, text, f"--kernel={kernel_name}", f"--events={events}")
    (found,) = map(json.loads, events.read_text().splitlines())
    assert found["result"] == "inconclusive"
    assert "QEMU ended by SIGKILL" in found["reason"]
    assert "QEMU ended by SIGKILL" in found["retried"]


TROUBLE = """
import errno
from pathlib import Path
def test_it(guest):
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert guest.run("true").number == 0
"""


def test_what_the_host_has_kept_from_an_end_is_run_once_more(
    tmp_path: Path, kernel_name: str
) -> None:
    events = tmp_path / "events"
    status, said = run(tmp_path, TROUBLE, f"--kernel={kernel_name}", f"--events={events}")
    assert status == 0, said
    (found,) = map(json.loads, events.read_text().splitlines())
    assert found["result"] == "passed"
    assert "No space left on device" in found["retried"]


BELIEVES = """
from harness.iommu.behaviour import UNBIND_UNPINS
def test_it(guest, shows):
    assert guest.run("true").number == 0
    assert shows(UNBIND_UNPINS)
"""


@pytest.mark.parametrize(("form", "result"), [("source", "failed"), ("guess", "inconclusive")])
def test_a_belief_that_the_guest_contradicts_is_named(
    tmp_path: Path, kernel: Kernel, kernel_name: str, form: str, result: str
) -> None:
    """A guess that is wrong is no failure of the kernel."""
    name = kernel_name if form == "source" else f"prebuilt:{kernel.directory}"
    events = tmp_path / "events"
    words = (f"--kernel={name}", f"--events={events}")
    status, said = run(tmp_path, BELIEVES, *words)
    assert status == 1
    assert "this kernel seems to have unbind-unpins" in said
    (found,) = map(json.loads, events.read_text().splitlines())
    assert found["result"] == result
    assert "this kernel seems to have unbind-unpins" in found["reason"]


def test_a_test_that_fails_either_way_says_nothing_of_beliefs(
    tmp_path: Path, kernel_name: str
) -> None:
    text = BELIEVES + "    assert False\n"
    _, said = run(tmp_path, text, f"--kernel={kernel_name}")
    assert "this kernel seems" not in said


def test_a_worker_that_dies_judges_nobody(tmp_path: Path, kernel_name: str) -> None:
    """As one would for which the host has no memory left."""
    text = "import os\ndef test_it(guest):\n    os.kill(os.getpid(), 9)\n"
    events = tmp_path / "events"
    run(tmp_path, text, f"--kernel={kernel_name}", "-n", "1", f"--events={events}")
    (told,) = map(json.loads, events.read_text().splitlines())
    assert told["result"] == "inconclusive"
    assert "crashed while running" in told["reason"]
