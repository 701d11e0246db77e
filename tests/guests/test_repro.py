# SPDX-License-Identifier: GPL-2.0-only
"""Replaying reports with the command ``repro``: verdicts, run directories and interruptions."""

import json
import re
import signal
import stat
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pexpect
import pytest

from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu.behaviour import GROUPS_AT_REGISTRATION, UNREGISTERING_REMOVES_GROUPS
from harness.kernel import build, spec
from harness.kernel.artifact import Kernel
from harness.plugin.plugin import GuestFactory
from harness.report.commands import Command
from harness.repro import render, serialize
from tests import command
from tests.conftest import PATCHES, REPORTS
from tests.processes import wait_until

PINS = REPORTS / "platform-client-pins-smmu.transcript"
UNPINNED = PATCHES / "6.12-no-module-pin.patch"
UNPINNED_KERNEL = "debian:6.12"


def repro(kernel_name: str, report: Path, run: Path, *words: str | Path) -> tuple[int, Any]:
    """Run ``repro`` on the report; return the exit status and the JSON object."""
    done = command.run("repro", report, "--kernel", kernel_name, "--run-dir", run, "--json", *words)
    return done.status, json.loads(done.out)


def write(tmp_path: Path, text: str) -> Path:
    report = tmp_path / "report.transcript"
    report.write_text(text)
    return report


def test_repro_reproduces_a_bundled_report(
    kernel_name: str, kernel: Kernel, tmp_path: Path
) -> None:
    status, result = repro(kernel_name, PINS, tmp_path / "run")
    assert (status, result["verdict"]) == (0, "reproduced")
    assert result["kernel"] == kernel.label
    assert result["machine"] == "smmuv3"
    assert result["splats"] == []
    third, fourth = result["steps"][2:]
    pinned = 4 if GROUPS_AT_REGISTRATION.since.include(kernel.release) else 2
    assert third["refcounts"]["arm_smmu_v3"] == [pinned, pinned]
    assert len(third["groups"][1]) == pinned
    assert (fourth["exit_status"], fourth["matched"]) == (1, True)
    assert "Resource temporarily unavailable" in fourth["stderr"]
    (note,) = (each for each in result["notes"] if each not in kernel.notes)
    assert "test_module is iommu_client" in note


def test_repro_does_not_reproduce_a_report_without_the_pin(tmp_path: Path) -> None:
    status, result = repro(UNPINNED_KERNEL, PINS, tmp_path / "run", "--patch", UNPINNED)
    assert (status, result["verdict"]) == (1, "not-reproduced")
    assert [step["matched"] for step in result["steps"]] == [True, True, True, False]
    last = result["steps"][-1]
    assert "exit status 0" in last["difference"]["observed"]
    assert last["refcounts"]["arm_smmu_v3"] == [0, None]


def test_run_directory_contains_result_steps_logs_and_config(
    kernel_name: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    _, result = repro(kernel_name, PINS, run)
    assert json.loads((run / "result.json").read_text()) == result
    steps = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert steps == result["steps"]
    records = [json.loads(line) for line in (run / "kmsg.jsonl").read_text().splitlines()]
    assert [record["sequence"] for record in records] == list(range(len(records)))
    assert any("Adding to iommu group" in record["text"] for record in records)
    assert "Linux version" in (run / "console-kernel.log").read_text()
    assert b"modprobe arm-smmu-v3" in (run / "console-command.log").read_bytes()
    assert "CONFIG_ARM_SMMU_V3=m" in (run / "kernel.config").read_text()
    assert "virt,gic-version=3" in (run / "qemu.json").read_text()


def test_boot_script_in_the_run_directory_boots_the_machine(
    kernel_name: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    repro(kernel_name, PINS, run)
    script = run / "boot.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    with pexpect.spawn(str(script), timeout=60, encoding="utf-8") as console:
        console.expect("/ # ")
        console.sendline("modprobe arm-smmu-v3; lsmod; poweroff -f")
        console.expect(r"arm_smmu_v3 +\d+ +[04]\b")
        console.expect(pexpect.EOF)


def test_kmod_messages_in_a_report_select_the_kmod_tools(kernel_name: str, tmp_path: Path) -> None:
    text = PINS.read_text().replace(
        "modprobe: can't unload module 'arm-smmu-v3': Resource temporarily unavailable",
        "modprobe: FATAL: Module arm_smmu_v3 is in use.",
    )
    status, result = repro(kernel_name, write(tmp_path, text), tmp_path / "run")
    assert (status, result["verdict"]) == (0, "reproduced")
    assert result["steps"][-1]["stderr"] == "modprobe: FATAL: Module arm_smmu_v3 is in use.\n"
    assert any("kmod" in note for note in result["notes"])


def test_virtio_iommu_session_runs_on_the_virtio_iommu_machine(
    kernel_name: str, kernel: Kernel, tmp_path: Path
) -> None:
    report = write(
        tmp_path,
        """\
        # modprobe virtio-iommu
        [   25.180965] virtio_iommu virtio0: input address: 64 bits (re)
        # rmmod virtio-iommu
        # modprobe virtio-iommu
        [   34.828982] virtio_iommu virtio\\d: page mask: 0xfffffffffffff000 (re)
        """.replace("virtio0: input", "virtio\\d: input"),
    )
    status, result = repro(kernel_name, report, tmp_path / "run")
    assert result["machine"] == "virtio-iommu"
    # With groups at registration the driver is pinned from the first modprobe on.
    differs = GROUPS_AT_REGISTRATION.since.include(kernel.release)
    assert [step["matched"] for step in result["steps"]] == [True, not differs, not differs]
    assert status == differs


@pytest.mark.parametrize(
    ("session", "status", "verdict", "reason"),
    [
        (
            "$ echo a\nb\n",
            1,
            "not-reproduced",
            "step 1 does not hold: `echo a` prints b",
        ),
        ("$ true\n$ true\n", 3, "inconclusive", "no output or status to compare"),
        ("$ echo a\na\n$ poweroff -f\nx\n", 3, "inconclusive", "step 2"),
        ("$ echo a\na\n$ echo c >/proc/sysrq-trigger\nx\n", 3, "inconclusive", "panicked"),
        (
            "$ echo c >/proc/sysrq-trigger\n[ 1.0] Kernel panic - not syncing: sysrq\n",
            0,
            "reproduced",
            "(the kernel panics: sysrq triggered crash)",
        ),
        ("$ sleep 1000\nx\n", 3, "inconclusive", "silent for 1 s"),
    ],
)
def test_repro_returns_the_verdict_of_a_session(
    kernel_name: str, tmp_path: Path, session: str, status: int, verdict: str, reason: str
) -> None:
    report = write(tmp_path, session)
    done, result = repro(kernel_name, report, tmp_path / "run", "--limit", "1")
    assert (done, result["verdict"]) == (status, verdict)
    assert reason in result["reason"]


def test_repro_records_the_steps_before_a_panic(kernel_name: str, tmp_path: Path) -> None:
    report = write(tmp_path, "$ echo a\na\n$ echo c >/proc/sysrq-trigger\nx\n")
    _, result = repro(kernel_name, report, tmp_path / "run")
    assert [step["stdout"] for step in result["steps"]] == ["a\n"]
    assert "panic" in [splat["kind"] for splat in result["splats"]]


OOPS = """\
# modprobe virtio-iommu
# modprobe e1000e
# cd /sys/bus/virtio/drivers/virtio_iommu; for d in virtio*; do echo $d > unbind; done
[1]
"""


def test_repro_shows_a_splat_that_the_report_does_not_mention(
    kernel_name: str, kernel: Kernel, tmp_path: Path
) -> None:
    status, result = repro(kernel_name, write(tmp_path, OOPS), tmp_path / "run")
    assert status == 1
    if not UNREGISTERING_REMOVES_GROUPS.since.include(kernel.release):
        assert result["splats"] == []
        return
    (oops,) = [found for found in result["splats"] if found["kind"] == "Oops"]
    assert oops["function"] == "sysfs_remove_link_from_group"
    assert oops["title"] in result["unmentioned_splats"]
    places = [each["place"] for chain in oops["chains"] for each in chain["frames"]]
    assert any(each.startswith("drivers/iommu/iommu.c:") for each in places), places
    done = command.run("repro", tmp_path / "report.transcript", "--kernel", kernel_name)
    assert "Oops that the report does not mention" in done.out
    assert re.search(r"pc : sysfs_remove_link_from_group\+\S+ \(fs/sysfs/group.c:\d+\)", done.out)


def test_repro_shows_a_splat_that_the_report_mentions(kernel_name: str, tmp_path: Path) -> None:
    mentioned = """
[ 1.0] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000030
[ 1.0] pc : sysfs_remove_link_from_group+0x14/0x44
[ 1.0] ---[ end trace 0000000000000000 ]---
"""
    _, result = repro(kernel_name, write(tmp_path, OOPS + mentioned), tmp_path / "run")
    assert not any("Unable to handle" in title for title in result["unmentioned_splats"])
    done = command.run("repro", tmp_path / "report.transcript", "--kernel", kernel_name)
    shown = "Oops that the report mentions: " in done.out
    assert shown == any(each["kind"] == "Oops" for each in result["splats"])


def test_hostile_report_does_not_affect_the_host(kernel_name: str, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    report = write(
        tmp_path,
        f"$ touch {target}; mkdir -p {tmp_path}; touch {target}; printf '\\033[2J\\007'\nx\n"
        f"$ echo '$(touch {target})' `touch {target}`\nx\n",
    )
    done = command.run("repro", report, "--kernel", kernel_name, "--run-dir", tmp_path / "run")
    assert done.status == 3  # the guest has no such directory
    assert not target.exists()
    assert "\x1b" not in done.out
    assert "\\x1b[2J" in done.out


def test_repro_prints_plain_text_to_a_pipe(
    kernel_name: str, kernel: Kernel, tmp_path: Path
) -> None:
    done = command.run("repro", PINS, "--kernel", kernel_name, "--run-dir", tmp_path / "run")
    assert done.status == 0
    assert "\x1b" not in done.out + done.err
    assert " 4  $ modprobe -r arm-smmu-v3" in done.out
    # Long lines are not wrapped, whatever the width of a terminal.
    pinned = 4 if GROUPS_AT_REGISTRATION.since.include(kernel.release) else 2
    refcounts = f"refcounts: arm_smmu_v3 {pinned} -> {pinned}; groups {pinned} -> {pinned}"
    assert f"    matches the report: status 1; {refcounts}" in done.out
    assert f"run:     {tmp_path / 'run'}" in done.out


def has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupt_during_boot_or_replay_leaves_no_process(
    kernel_name: str, tmp_path: Path, number: signal.Signals
) -> None:
    report = write(tmp_path, "$ echo a\na\n$ sleep 1000\n")
    for moment in ("boot", "replay"):
        run = tmp_path / moment
        process = command.start("repro", report, "--kernel", kernel_name, "--run-dir", run)
        if moment == "replay":
            assert wait_until(partial(has_text, run / "steps.jsonl"))
        stopped = command.stop_when(process, "qemu-system-aar", number)
        assert stopped.status == (-9 if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in stopped.err
    assert json.loads((tmp_path / "replay/steps.jsonl").read_text())["stdout"] == "a\n"
    assert repro(kernel_name, PINS, tmp_path / "after")[0] == 0


def test_repro_reports_a_missing_qemu_in_one_line(
    kernel_name: str, kernel: Kernel, tmp_path: Path
) -> None:
    assert kernel.image.exists()
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in ("/usr/bin", "/usr/sbin"):
        for program in Path(place).iterdir():
            link = directory / program.name
            if not program.name.startswith("qemu-system-aarch64") and not link.is_symlink():
                link.symlink_to(program)
    done = command.run("repro", PINS, "--kernel", kernel_name, PATH=str(directory))
    assert done.status == 3
    assert "qemu-system-aarch64 is not installed" in done.err
    assert "apt-get install --no-install-recommends qemu-system-arm" in done.err
    assert len(done.err.splitlines()) == 1


def test_patched_kernel_has_a_different_key() -> None:
    kernel = build.build(spec.parse(UNPINNED_KERNEL))
    patched = build.build(spec.parse(UNPINNED_KERNEL, [UNPINNED]))
    assert patched.key != kernel.key
    assert patched.release == kernel.release


def test_repro_reproduces_an_oops(kernel_name: str, kernel: Kernel, tmp_path: Path) -> None:
    text = OOPS.replace(
        "[1]",
        "[   12.3] Unable to handle kernel NULL pointer dereference at virtual address (re)\n"
        "Segmentation fault",
    ).replace("address (re)", "address .* (re)")
    status, result = repro(kernel_name, write(tmp_path, text), tmp_path / "run")
    oopses = UNREGISTERING_REMOVES_GROUPS.since.include(kernel.release)
    assert (status, result["verdict"]) == ((0, "reproduced") if oopses else (1, "not-reproduced"))


def test_repro_does_not_reproduce_another_panic_or_earlier_output(
    kernel_name: str, tmp_path: Path
) -> None:
    panic = "$ echo c >/proc/sysrq-trigger\n[ 1.0] Kernel panic - not syncing: "
    other = write(tmp_path, panic + "Fatal exception\n")
    assert repro(kernel_name, other, tmp_path / "a")[1]["verdict"] == "not-reproduced"
    differs = write(tmp_path, "$ echo a\nb\n" + panic + "sysrq\n")
    assert repro(kernel_name, differs, tmp_path / "b")[1]["verdict"] == "not-reproduced"


def test_repro_records_lost_kernel_messages(kernel_name: str, tmp_path: Path) -> None:
    flood = "for i in $(seq 500); do sleep 1000 & done; echo t >/proc/sysrq-trigger"
    _, result = repro(kernel_name, write(tmp_path, f"$ {flood}\n[0]\n"), tmp_path / "run")
    ((first, last),) = result["lost_records"][:1]
    assert 0 < first <= last


def test_repro_exits_with_the_status_of_sigpipe_if_its_output_is_closed(
    kernel_name: str, tmp_path: Path
) -> None:
    process = command.start("repro", PINS, "--kernel", kernel_name, "--run-dir", tmp_path / "run")
    assert process.stdout
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_guest_provides_test_module_as_a_driver(smmuv3: Guest) -> None:
    step = smmuv3.step("modprobe arm-smmu-v3; modprobe test_module")
    assert "test_module" in step.after.modules
    assert step.after.devices["b000000.client0"].driver == "test_module"


def test_steps_record_and_show_an_untranslated_client(
    guest_factory: GuestFactory,
) -> None:
    """driver_deferred_probe_check_state defers no probe after deferred_probe_timeout."""
    guest = guest_factory("smmuv3", arguments="deferred_probe_timeout=1")
    guest.run("modprobe iommu_client")
    bound = "/sys/bus/platform/drivers/iommu_client/b00?000.client?"
    guest.run(f"until ls -d {bound}; do sleep 0.05; done")
    step = guest.step("true")
    assert step.after.untranslated == ["b000000.client0", "b001000.client1"]
    done = replace(step, before=State())
    recorded = serialize.step(Command("true", (), None, 1), done, [])
    assert recorded["untranslated"] == step.after.untranslated
    shown = [line for _, line in render.step(done, [], "arm_smmu_v3")]
    assert any("! b000000.client0 is bound and has no group" in line for line in shown)
