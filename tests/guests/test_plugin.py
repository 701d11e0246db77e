# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin, run as users run it: in their own directory, with their own tests."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.iommu import kernel_profile
from harness.iommu.behaviour import UNREGISTERING_REMOVES_GROUPS
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from tests import command

PASSES = """
def test_it(guest, machine, kernel):
    assert guest.run("uname -r").out.strip() == kernel.release
    assert guest.machine == machine
"""

FAILS = """
def test_it(guest):
    guest.run("modprobe arm-smmu-v3; KEPT=here")
    assert guest.run("echo seen; echo said > /dev/kmsg; false").status == 0
"""


def run(directory: Path, text: str, *words: str) -> tuple[int, str]:
    """Run pytest on a file with ``text``, and return its exit status and output."""
    (directory / "test_mine.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def outcomes(events: Path) -> list[dict[str, Any]]:
    """The records of an ``--iommu-events`` file."""
    return [json.loads(line) for line in events.read_text().splitlines()]


def test_test_ids_contain_kernel_and_machine(tmp_path: Path, kernel_name: str) -> None:
    machines = ["--iommu-machine=smmuv3", "--iommu-machine=virtio-iommu+multifunction"]
    status, output = run(tmp_path, PASSES, "-v", f"--iommu-kernel={kernel_name}", *machines)
    assert status == 0, output
    version = kernel_name.partition(":")[2]
    assert f"test_it[{version}-smmuv3] PASSED" in output
    assert f"test_it[{version}-virtio-iommu+multifunction] PASSED" in output


def test_xdist_workers_run_tests(tmp_path: Path, kernel_name: str) -> None:
    status, output = run(tmp_path, PASSES, f"--iommu-kernel={kernel_name}", "-n", "auto")
    assert status == 0, output
    assert "1 passed" in output


def test_failure_shows_its_steps_and_opens_a_shell(tmp_path: Path, kernel_name: str) -> None:
    base = tmp_path / "base"
    status, output = run(tmp_path, FAILS, f"--iommu-kernel={kernel_name}", f"--basetemp={base}")
    assert status == 1
    for words in (
        "$ modprobe arm-smmu-v3; KEPT=here\n",
        "seen\n(status 1)",
        " said\n",
        "module arm_smmu_v3: loaded, refcount ",
    ):
        assert words in output
    match = re.search(r"iommu-harness shell (\S+)", output)
    assert match, output
    shell = subprocess.run(
        [*command.PROGRAM, "shell", match[1]],
        input="echo $KEPT\ncat /sys/module/arm_smmu_v3/initstate\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.splitlines()[:2] == ["here", "live"]


def test_failure_by_a_panic_shows_its_steps(tmp_path: Path, kernel_name: str) -> None:
    text = "def test_it(guest):\n    guest.run('echo c > /proc/sysrq-trigger')\n"
    status, output = run(tmp_path, text, f"--iommu-kernel={kernel_name}")
    assert status == 1
    assert "$ echo c > /proc/sysrq-trigger\n(did not end)" in output
    assert "not available: " in output


def test_unknown_kernel_or_machine_is_reported_without_a_traceback(tmp_path: Path) -> None:
    for option, why in (
        ("--iommu-kernel=nope", "unknown kernel 'nope'"),
        ("--iommu-machine=nope", "unknown machine 'nope'"),
    ):
        status, output = run(tmp_path, PASSES, option)
        assert status == 4
        assert why in output
        assert "Traceback" not in output


def test_machines_marker_selects_machines(tmp_path: Path, kernel_name: str) -> None:
    text = "import pytest\n@pytest.mark.machines('virtio-iommu')\n" + PASSES.lstrip()
    status, output = run(tmp_path, text, "-v", f"--iommu-kernel={kernel_name}")
    assert status == 0
    assert "-virtio-iommu] PASSED" in output
    status, output = run(tmp_path, text, f"--iommu-kernel={kernel_name}", "--iommu-machine=smmuv3")
    assert "1 deselected" in output


def test_guest_factory_uses_the_machine_and_qemu_options(tmp_path: Path, kernel_name: str) -> None:
    text = (
        "def test_it(guest_factory):\n    assert guest_factory().machine.name == 'virtio-iommu'\n"
    )
    words = (f"--iommu-kernel={kernel_name}", "--iommu-machine=virtio-iommu")
    status, output = run(tmp_path, text, *words)
    assert status == 0, output
    status, output = run(tmp_path, text, *words, "--iommu-qemu=/nowhere/qemu")
    assert status == 1
    assert "cannot find the program /nowhere/qemu" in output


SPLAT = "guest.run('echo \"WARNING: drivers/x.c:7 at thing_release+0x8/0x10\" > /dev/kmsg')"

NOT_REPORTED = "an expected splat does not appear"


@pytest.mark.parametrize(
    ("marker", "body", "expected"),
    [
        ("", SPLAT, "unexpected splat:"),
        ("@pytest.mark.splats('WARNING in thing_release')", SPLAT, "1 passed"),
        ("@pytest.mark.splats('WARNING in other_release')", SPLAT, "unexpected splat:"),
        ("@pytest.mark.splats('WARNING in thing_release')", "pass", NOT_REPORTED),
        ("", f"expect_splat('WARNING in thing_*'); {SPLAT}", "1 passed"),
        ("", "expect_splat('WARNING in thing_*')", NOT_REPORTED),
        ("", "expect_splat('WARNING in thing_*', sometimes=True)", "1 passed"),
        ("", f"expect_splat('WARNING in thing_*', sometimes=True); {SPLAT}", "1 passed"),
    ],
)
def test_unexpected_or_missing_splat_fails_a_passing_test(
    tmp_path: Path, kernel_name: str, marker: str, body: str, expected: str
) -> None:
    text = f"import pytest\n{marker}\ndef test_it(guest, expect_splat):\n    {body}\n"
    status, output = run(tmp_path, text, f"--iommu-kernel={kernel_name}")
    assert expected in output
    assert status == (0 if "passed" in expected else 1)


OOPS = """
def test_it(guest):
    guest.run("modprobe virtio-iommu; modprobe e1000e; cd /sys/bus/virtio/drivers/virtio_iommu")
    guest.run("for each in virtio*; do echo $each > unbind; done")
"""


@pytest.mark.parametrize(("options", "decoded"), [((), True), (("--iommu-plain-failures",), False)])
def test_unexpected_splat_has_source_lines_unless_failures_are_plain(
    tmp_path: Path, kernel_name: str, kernel: Kernel, options: tuple[str, ...], decoded: bool
) -> None:
    if not UNREGISTERING_REMOVES_GROUPS.since.include(kernel.release):
        pytest.skip("unbinding a virtio-iommu does not oops here")
    words = (f"--iommu-kernel={kernel_name}", "--iommu-machine=virtio-iommu", *options)
    status, output = run(tmp_path, OOPS, *words)
    assert (status, "in sysfs_remove_link_from_group" in output) == (1, True)
    place = r"iommu_device_unregister\+\S+ \(drivers/iommu/iommu.c:\d+\)"
    assert bool(re.search(place, output)) == decoded


@pytest.mark.parametrize(("body", "result"), [("pass", "inconclusive"), (SPLAT, "failed")])
def test_host_error_does_not_hide_a_splat(
    tmp_path: Path, kernel_name: str, body: str, result: str
) -> None:
    text = (
        "from harness.errors import HostError\n"
        f"def test_it(guest):\n    {body}\n    raise HostError('no disk')\n"
    )
    events = tmp_path / "events"
    status, _ = run(tmp_path, text, f"--iommu-kernel={kernel_name}", f"--iommu-events={events}")
    assert (status, outcomes(events)[0]["result"]) == (1, result)


KNOWN = """
import pytest
from harness.iommu.audit import require_survival
@pytest.mark.machines("virtio-iommu")
@pytest.mark.known_issue("virtio-iommu-unbind")
def test_it(guest):
    guest.run("modprobe virtio-iommu; modprobe e1000e")
    require_survival(guest.step("cd /sys/bus/virtio/drivers/virtio_iommu; {}"))
"""


def test_known_issue_must_appear_where_it_applies(
    tmp_path: Path, kernel_spec: KernelSpec, kernel: Kernel
) -> None:
    name = f"{kernel_spec.kind}:{kernel_spec.where}"
    applies = kernel_profile.of(kernel_spec, kernel).issues["virtio-iommu-unbind"].shown
    oops = KNOWN.format("for d in virtio[0-9]*; do echo $d > unbind; done")
    events = tmp_path / "events"
    status, output = run(
        tmp_path, oops, f"--iommu-kernel={name}", "-rx", f"--iommu-events={events}"
    )
    assert status == 0, output
    assert ("known issue virtio-iommu-unbind: " in output) == applies
    assert outcomes(events)[0]["issue"] == ("virtio-iommu-unbind" if applies else "")
    status, output = run(tmp_path, KNOWN.format("true"), f"--iommu-kernel={name}")
    assert status == (1 if applies else 0)
    assert ("known issue virtio-iommu-unbind does not appear" in output) == applies
    # For a kernel without source the version decides. That is a guess, which may be wrong.
    guess = f"--iommu-kernel=prebuilt:{kernel.directory}"
    status, output = run(tmp_path, KNOWN.format("true"), guess)
    assert status == 0, output
    race = KNOWN.replace('unbind")', 'unbind", sometimes=True)').format("true")
    status, output = run(tmp_path, race, f"--iommu-kernel={name}")
    assert status == 0, output


def test_known_issue_does_not_explain_another_splat(
    tmp_path: Path, kernel_spec: KernelSpec, kernel: Kernel
) -> None:
    if not kernel_profile.of(kernel_spec, kernel).issues["virtio-iommu-unbind"].shown:
        pytest.skip("unbinding a virtio-iommu does not oops here")
    name = f"--iommu-kernel={kernel_spec.kind}:{kernel_spec.where}"
    oops = KNOWN.format("for d in virtio[0-9]*; do echo $d > unbind; done")
    status, output = run(
        tmp_path, oops.replace("    require_survival", f"    {SPLAT}\n    require_survival"), name
    )
    assert status == 1
    assert "in thing_release" in output
    assert "known issue virtio-iommu-unbind explains the other findings" in output


@pytest.mark.parametrize("workers", ["0", "1"])
def test_unknown_known_issue_fails_the_test(tmp_path: Path, kernel_name: str, workers: str) -> None:
    text = KNOWN.replace("virtio-iommu-unbind", "nope").format("true")
    events = tmp_path / "events"
    words = (f"--iommu-kernel={kernel_name}", "-n", workers, f"--iommu-events={events}")
    status, output = run(tmp_path, text, *words)
    assert status != 0
    assert "known issue 'nope' does not exist" in output
    (outcome,) = outcomes(events)
    assert outcome["result"] == "failed"
    assert "known issue 'nope' does not exist" in outcome["reason"]


NEEDS = """
import pytest
from harness.iommu.behaviour import UNBIND_RELEASES_DEVICE
@pytest.mark.needs(UNBIND_RELEASES_DEVICE)
def test_it(guest, shows):
    assert shows(UNBIND_RELEASES_DEVICE)
"""


def test_missing_behaviour_makes_a_test_not_applicable(tmp_path: Path, kernel_name: str) -> None:
    events = tmp_path / "events"
    words = (f"--iommu-kernel={kernel_name}", "-rs", f"--iommu-events={events}")
    _, output = run(tmp_path, NEEDS, *words)
    assert "NotApplicable: requires that unbinding a platform device removes it" in output
    status, output = run(tmp_path, NEEDS, *words, "--iommu-behaviour=unbind-releases-device")
    assert (status, "1 passed" in output) == (0, True)
    found = outcomes(events)
    assert [each["result"] for each in found] == ["not-applicable", "passed"]
    assert {(each["scenario"], each["kernel"], each["machine"]) for each in found} == {
        ("test_mine.py::test_it", kernel_name, "smmuv3")
    }


def test_killed_qemu_makes_its_test_inconclusive(tmp_path: Path, kernel_name: str) -> None:
    text = "import os\ndef test_it(guest):\n    os.kill(guest.pid, 9)\n    guest.run('true')\n"
    events = tmp_path / "events"
    run(tmp_path, text, f"--iommu-kernel={kernel_name}", f"--iommu-events={events}")
    (found,) = outcomes(events)
    assert found["result"] == "inconclusive"
    assert "QEMU was killed by SIGKILL" in found["reason"]
    assert "QEMU was killed by SIGKILL" in found["retried"]


FAILS_ONCE = """
import errno
from pathlib import Path
from typing import Any
def test_it(guest):
    seen = Path("seen")
    if not seen.exists():
        seen.touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert guest.run("true").status == 0
"""


def test_test_with_a_host_error_is_run_again(tmp_path: Path, kernel_name: str) -> None:
    events = tmp_path / "events"
    status, output = run(
        tmp_path, FAILS_ONCE, f"--iommu-kernel={kernel_name}", f"--iommu-events={events}"
    )
    assert status == 0, output
    (found,) = outcomes(events)
    assert found["result"] == "passed"
    assert "No space left on device" in found["retried"]


EXPECTS_BEHAVIOUR = """
from harness.iommu.behaviour import UNBIND_RELEASES_DEVICE
def test_it(guest, shows):
    assert guest.run("true").status == 0
    assert shows(UNBIND_RELEASES_DEVICE)
"""


@pytest.mark.parametrize(("form", "result"), [("source", "failed"), ("guess", "inconclusive")])
def test_failure_reports_a_contradicted_behaviour(
    tmp_path: Path, kernel: Kernel, kernel_name: str, form: str, result: str
) -> None:
    """A behaviour that is only a guess makes the test inconclusive, not failed."""
    name = kernel_name if form == "source" else f"prebuilt:{kernel.directory}"
    events = tmp_path / "events"
    words = (f"--iommu-kernel={name}", f"--iommu-events={events}")
    status, output = run(tmp_path, EXPECTS_BEHAVIOUR, *words)
    assert status == 1
    assert "this kernel seems to have unbind-releases-device" in output
    (found,) = outcomes(events)
    assert found["result"] == result
    assert "this kernel seems to have unbind-releases-device" in found["reason"]


def test_failure_with_either_behaviour_reports_no_behaviour(
    tmp_path: Path, kernel_name: str
) -> None:
    text = EXPECTS_BEHAVIOUR + "    assert False\n"
    _, output = run(tmp_path, text, f"--iommu-kernel={kernel_name}")
    assert "this kernel seems" not in output


def test_killed_worker_makes_its_test_inconclusive(tmp_path: Path, kernel_name: str) -> None:
    """The host's OOM killer can send SIGKILL to a worker."""
    text = "import os\ndef test_it(guest):\n    os.kill(os.getpid(), 9)\n"
    events = tmp_path / "events"
    run(tmp_path, text, f"--iommu-kernel={kernel_name}", "-n", "1", f"--iommu-events={events}")
    (outcome,) = outcomes(events)
    assert outcome["result"] == "inconclusive"
    assert "crashed while running" in outcome["reason"]
