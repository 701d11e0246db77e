# SPDX-License-Identifier: GPL-2.0-only
"""Saving and restoring guests, and replacing damaged snapshots."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import GuestError, Unmigratable, UsageError
from harness.guest import modules, snapshot
from harness.guest.guest import Guest
from harness.host import cache
from harness.iommu import machines
from harness.iommu.drivers import IOMMUS
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.machine.device import EmulatedDevice
from harness.plugin.plugin import GuestFactory

SMMUV3 = machines.named("smmuv3")


def test_restored_guest_continues_clock_log_and_shell(guest: Guest) -> None:
    """The kernel log of a restored guest includes the boot before the snapshot."""
    assert "-incoming" in guest.argv
    first = guest.clock()
    guest.run("sleep 0.1")
    assert 0.1 <= guest.clock() - first < 60
    step = guest.step("echo a word > /dev/kmsg")
    assert [entry.text for entry in step.kmsg] == ["a word"]
    assert guest.kmsg()[0].sequence == 0
    assert record.gaps(guest.kmsg()) == []


def test_guests_restored_from_one_snapshot_are_independent(guest_factory: GuestFactory) -> None:
    one, other = guest_factory("smmuv3"), guest_factory("smmuv3")
    modules.load(one, "arm_smmu_v3")
    one.run("X=1; echo mine > /tmp/file")
    assert "arm_smmu_v3" not in other.state().modules
    assert other.run("echo $X; cat /tmp/file").out == "\n"
    later = guest_factory("smmuv3")
    assert "arm_smmu_v3" not in later.state().modules


def test_warm_up_commands_run_before_the_first_step(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", "modprobe arm-smmu-v3", "KEPT=yes")
    assert "arm_smmu_v3" in guest.state().modules
    assert guest.run("echo $KEPT").out == "yes\n"
    assert any("arm-smmu-v3" in entry.text for entry in guest.kmsg())
    assert guest.step("true").kmsg == ()


def test_guest_factory_reports_a_failed_warm_up(guest_factory: GuestFactory) -> None:
    with pytest.raises(
        UsageError, match=r"the warm-up command 'modprobe nope' fails with status 1: .*nope"
    ):
        guest_factory("smmuv3", "modprobe nope")


def test_save_and_restored_work_in_any_state_of_a_guest(guest: Guest, tmp_path: Path) -> None:
    program = guest.machine.qemu
    modules.load(guest, "iommu_client")
    guest.run("cd /sys/module; WORD=before")
    taken = snapshot.save(guest, tmp_path / "branch")
    modules.unload(guest, "iommu_client")
    assert "iommu_client" not in guest.state().modules, "the saved guest does not continue"
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        with snapshot.restored(
            snapshot.load(taken.directory, IOMMUS.values(), program), directory
        ) as fork:
            assert "iommu_client" in fork.state().modules
            assert fork.run("echo $WORD $PWD").out == "before /sys/module\n"
            deeper = tmp_path / f"deeper{number}"
            fork.run("WORD=after")
            snapshot.save(fork, deeper)
            (directory / "fork").mkdir()
            with snapshot.restored(
                snapshot.load(deeper, IOMMUS.values(), program), directory / "fork"
            ) as second:
                assert second.run("echo $WORD").out == "after\n"


def test_warm_makes_another_snapshot_for_a_changed_input(kernel: Kernel) -> None:
    usual = snapshot.warm(kernel, SMMUV3)
    assert snapshot.warm(kernel, SMMUV3).directory == usual.directory
    others = {
        snapshot.warm(kernel, SMMUV3, ["true"]).directory,
        snapshot.warm(kernel, SMMUV3, arguments="harmless").directory,
        snapshot.warm(kernel, replace(SMMUV3, memory=300)).directory,
        snapshot.warm(replace(kernel, key="another"), SMMUV3).directory,
    }
    assert len(others) == 4
    assert usual.directory not in others


@pytest.mark.parametrize("name", ["ram", "state", "snapshot.json"])
@pytest.mark.parametrize("way", ["truncated", "changed", "missing"])
def test_started_replaces_a_damaged_snapshot(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    # A warm-up of its own, because other tests use the plain snapshot at the same time.
    warm_up = [f": {way} {name}"]
    taken = snapshot.warm(kernel, SMMUV3, warm_up)
    damage(taken.directory / name, way)
    # Make the cache check the entry again, as a new process does.
    monkeypatch.setattr(cache, "_held", {})
    with snapshot.started(kernel, SMMUV3, tmp_path, warm_up) as guest:
        assert guest.run("echo on").out == "on\n"


def damage(file: Path, way: str) -> None:
    if way == "missing":
        file.unlink()
    elif way == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        with file.open("r+b") as opened:
            opened.seek(file.stat().st_size // 3)
            byte = opened.read(1)
            opened.seek(-1, os.SEEK_CUR)
            opened.write(bytes([byte[0] ^ 0xFF]))


def test_restored_rejects_a_truncated_state(guest: Guest, tmp_path: Path) -> None:
    """QEMU rejects the state: the snapshot is not a cache entry, so the cache does not check it."""
    taken = snapshot.save(guest, tmp_path / "kept")
    damage(taken.directory / "state", "truncated")
    (tmp_path / "again").mkdir()
    with pytest.raises(GuestError), snapshot.restored(taken, tmp_path / "again"):
        pass


def test_save_rejects_a_machine_that_cannot_migrate(
    guest_factory: GuestFactory, tmp_path: Path
) -> None:
    guest = guest_factory("smmuv3+nvme", "modprobe arm-smmu-v3")
    assert "-incoming" not in guest.argv
    assert "arm_smmu_v3" in guest.state().modules
    with pytest.raises(Unmigratable, match="QEMU cannot save"):
        snapshot.save(guest, tmp_path / "kept")
    assert guest.run("echo on").out == "on\n"


def test_save_rejects_a_device_that_only_qemu_knows_to_be_unmigratable(
    guest_factory: GuestFactory, tmp_path: Path
) -> None:
    rocker = replace(SMMUV3, name="rocker", devices=(EmulatedDevice("rocker"),))
    guest = guest_factory(rocker)
    assert "-incoming" not in guest.argv
    with pytest.raises(Unmigratable):
        snapshot.save(guest, tmp_path / "kept")
    assert guest.run("echo on").out == "on\n"


def test_save_loses_no_kernel_messages(guest: Guest, tmp_path: Path) -> None:
    """The snapshot includes messages logged between the last request to the guest and the moment
    the guest stops."""
    noise = "n=0; while [ $n -lt 3000 ]; do echo noise $n > /dev/kmsg; n=$((n + 1)); done"
    guest.run(f"({noise}; echo over > /dev/kmsg) &")
    for number in range(3):
        taken = snapshot.save(guest, tmp_path / f"kept{number}")
        directory = tmp_path / f"again{number}"
        directory.mkdir()
        with snapshot.restored(taken, directory, limit=30) as again:
            again.run("wait")
            words = [entry.text for entry in again.kmsg() if entry.text.startswith("noise")]
            assert words == [f"noise {n}" for n in range(3000)]


def test_save_rejects_an_existing_directory(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already exists"):
        snapshot.save(guest, tmp_path)


def test_load_ignores_the_saved_qemu_path_and_checks_versions_and_files(
    guest: Guest, tmp_path: Path
) -> None:
    taken = snapshot.save(guest, tmp_path / "kept")
    record = json.loads((taken.directory / "snapshot.json").read_text())
    record["machine"]["qemu"] = "/nowhere/evil"
    (taken.directory / "snapshot.json").write_text(json.dumps(record))
    loaded = snapshot.load(taken.directory, IOMMUS.values(), guest.machine.qemu)
    assert loaded.boot.machine.qemu == guest.machine.qemu
    assert loaded.boot.image.parent == taken.directory
    record["qemu"] = "another QEMU"
    (taken.directory / "snapshot.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="was saved with another QEMU"):
        snapshot.load(taken.directory, IOMMUS.values())
    (taken.directory / "image").unlink()
    with pytest.raises(UsageError, match="image is missing"):
        snapshot.load(taken.directory, IOMMUS.values())
    del record["protocol"]
    (taken.directory / "snapshot.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="with a different guest protocol"):
        snapshot.load(taken.directory, IOMMUS.values())


def test_load_rejects_a_directory_without_a_snapshot(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no snapshot"):
        snapshot.load(tmp_path, IOMMUS.values())
