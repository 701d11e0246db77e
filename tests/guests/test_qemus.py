# SPDX-License-Identifier: GPL-2.0-only
"""Differences between QEMU versions: the host's (or that of --qemu), and the newest in Debian."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HostError, Unmigratable, UsageError
from harness.guest import modules, snapshot
from harness.guest.guest import Guest
from harness.iommu import machines
from harness.iommu.drivers import IOMMUS
from harness.machine import qemu, qemus, topology
from harness.machine.device import EmulatedDevice
from harness.plugin import options
from harness.plugin.plugin import GuestFactory
from tests import command

SMMUV3 = machines.named("smmuv3")

# Bits of arm-smmu-v3's "features" (arm-smmu-v3.h, ARM_SMMU_FEAT_TRANS_S1 and _S2).
FEATURES = {"1": {9}, "2": {10}, "nested": {9, 10}}


@pytest.fixture(params=["this", "newest"])
def program(request: pytest.FixtureRequest) -> str:
    this: str = options.qemus(request.config)[0]
    return qemus.program("debian:newest" if request.param == "newest" else this)


@pytest.fixture(scope="module")
def newest() -> str:
    return qemus.program("debian:newest")


def has_open(guest: Guest, file: Path) -> bool:
    """Whether the QEMU process of the guest has ``file`` open."""
    descriptors = Path(f"/proc/{guest.pid}/fd").iterdir()
    return any(each.readlink() == file for each in descriptors)


def test_newest_qemu_is_version_11_or_later(newest: str) -> None:
    assert int(qemu.version(newest).split()[3].split(".")[0]) >= 11


def test_restored_guest_continues_from_its_saved_state(
    guest_factory: GuestFactory, program: str, tmp_path: Path
) -> None:
    """QEMU 11 no longer accepts a file as "fd:", and QEMU 7.2 does not support "file:"."""
    guest = guest_factory(replace(SMMUV3, qemu=program))
    assert "-incoming" in guest.argv, "booted instead of restored"
    modules.load(guest, "iommu_client")
    guest.run("WORD=before")
    taken = snapshot.save(guest, tmp_path / "kept")
    modules.unload(guest, "iommu_client")
    with pytest.raises(UsageError, match="already exists"):
        snapshot.save(guest, tmp_path / "kept")
    (tmp_path / "again").mkdir()
    with snapshot.restored(
        snapshot.load(taken.directory, IOMMUS.values(), program), tmp_path / "again"
    ) as again:
        assert "iommu_client" in again.state().modules
        assert again.run("echo $WORD").out == "before\n"
        snapshot.save(again, tmp_path / "deeper")
    assert not has_open(guest, tmp_path / "kept/state"), "QEMU keeps the state file open"


def test_save_rejects_a_device_that_qemu_cannot_migrate(
    guest_factory: GuestFactory, program: str, tmp_path: Path
) -> None:
    rocker = replace(SMMUV3, name="rocker", devices=(EmulatedDevice("rocker"),), qemu=program)
    guest = guest_factory(rocker)
    assert "-incoming" not in guest.argv
    with pytest.raises(Unmigratable, match="non-migratable"):
        snapshot.save(guest, tmp_path / "kept")
    assert guest.run("echo on").out == "on\n"


def test_load_reports_qemu_error_messages(guest_factory: GuestFactory) -> None:
    """For example, QEMU rejects a restore into a running guest."""
    guest = guest_factory(replace(SMMUV3, qemu=qemus.program("debian:newest")))
    with pytest.raises(HostError, match=r"QEMU rejects migrate-incoming: .*already been started"):
        guest.monitor.load(guest.directory / "console-kernel.log")


@pytest.mark.parametrize("stage", FEATURES)
def test_smmu_has_the_stage_of_its_machine(
    guest_factory: GuestFactory, newest: str, stage: str
) -> None:
    """The machine determines the stage, not the default of QEMU's newest boards."""
    guest = guest_factory(replace(SMMUV3, name=f"stage{stage}", stage=stage, qemu=newest))
    modules.load(guest, "arm_smmu_v3")
    (word,) = (
        entry.text.rpartition("(features 0x")[2].rstrip(")")
        for entry in guest.kmsg()
        if "(features 0x" in entry.text
    )
    assert {bit for bit in FEATURES["nested"] if int(word, 16) >> bit & 1} == FEATURES[stage]


def test_boot_rejects_a_stage_that_qemu_does_not_support(
    guest_factory: GuestFactory, newest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU without its old boards does not support their stages."""
    monkeypatch.setattr(qemu, "_STAGES", "virt-0.0")
    machine = replace(SMMUV3, name="mine", stage="1", qemu=newest)
    with pytest.raises(UsageError, match=r"mine has stage '1', but QEMU .* sets .* 'nested'"):
        guest_factory(machine)


def test_run_has_a_column_for_each_qemu(newest: str, kernel_name: str, tmp_path: Path) -> None:
    """Each scenario runs on each QEMU, and the result has both versions."""
    this = qemu.version(topology.QEMU)
    words = ("run", "pinning::test_device_pins_show_no_holder", "--kernel", kernel_name)
    qemus = ("--qemu", topology.QEMU, "--qemu", "debian:newest")
    done = command.run(*words, *qemus, "--machine", "smmuv3", "--json", "--run-dir", tmp_path / "r")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    both = [this, qemu.version(newest)]
    numbers = {text.split()[3] for text in both}
    assert {each["machine"] for each in result["scenarios"]} == {f"smmuv3@{n}" for n in numbers}
    assert result["tools"]["qemu"] == ", ".join(both)
    logs = (tmp_path / "r/pytest-1.log").read_text()
    assert all(f"-smmuv3@{number}]" in logs for number in numbers)


@pytest.mark.parametrize("name", ["run", "repro", "machines", "shell", "bisect"])
def test_unknown_qemu_of_debian_is_one_line_before_anything_is_built(name: str) -> None:
    words = {
        "run": ("pinning",),
        "repro": ("tests/reports/platform-client-pins-smmu.transcript",),
        "machines": (),
        "shell": (),
        "bisect": ("--releases", "--old", "debian:6.1", "--new", "debian:6.12", "--boot"),
    }
    done = command.run(name, *words[name], "--qemu", "debian:99")
    assert done.status == 2
    assert done.err.splitlines()[-1].startswith("iommu-harness: Debian has no QEMU 99")
    assert "11" in done.err.splitlines()[-1]
