# SPDX-License-Identifier: GPL-2.0-only
"""What QEMUs do differently: the host's, or the one that --qemu names, and the newest that
Debian has."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HostError, Unmigratable, UsageError
from harness.guest import modules, snapshot
from harness.guest.guest import Guest
from harness.iommu import machines
from harness.iommu.drivers import IOMMUS
from harness.machine import qemu
from harness.machine.device import Device
from harness.plugin.plugin import GuestFactory
from tests import newest_qemu

SMMUV3 = machines.named("smmuv3")

# Bits of arm-smmu-v3's "features" (arm-smmu-v3.h, ARM_SMMU_FEAT_TRANS_S1 and _S2).
FEATURES = {"1": {9}, "2": {10}, "nested": {9, 10}}


@pytest.fixture(params=["this", "newest"])
def program(request: pytest.FixtureRequest) -> str:
    named: str = request.config.getoption("--qemu")
    return newest_qemu.path() if request.param == "newest" else named


@pytest.fixture(scope="module")
def newest() -> str:
    return newest_qemu.path()


def holds(guest: Guest, file: Path) -> bool:
    """Whether the guest's QEMU has the file open."""
    descriptors = Path(f"/proc/{guest.pid}/fd").iterdir()
    return any(each.readlink() == file for each in descriptors)


def test_the_newest_is_another_than_that_of_debian_12(newest: str) -> None:
    assert int(qemu.version(newest).split()[3].split(".")[0]) >= 11


def test_a_guest_goes_on_where_it_was_saved(
    guest_factory: GuestFactory, program: str, tmp_path: Path
) -> None:
    """QEMU 11 takes no file by "fd:" any more, 7.2 knows no "file:"."""
    guest = guest_factory(replace(SMMUV3, qemu=program))
    assert "-incoming" in guest.argv, "restored, and not booted"
    modules.load(guest, "iommu_client")
    guest.run("WORD=before")
    taken = snapshot.save(guest, tmp_path / "kept")
    modules.unload(guest, "iommu_client")
    with pytest.raises(UsageError, match="is there already"):
        snapshot.save(guest, tmp_path / "kept")
    (tmp_path / "again").mkdir()
    with snapshot.restored(
        snapshot.load(taken.directory, IOMMUS.values(), program), tmp_path / "again"
    ) as again:
        assert "iommu_client" in again.state().modules
        assert again.run("echo $WORD").out == b"before\n"
        snapshot.save(again, tmp_path / "deeper")
    assert not holds(guest, tmp_path / "kept/state"), "QEMU has closed what it was given"


def test_what_qemu_cannot_save_is_named(
    guest_factory: GuestFactory, program: str, tmp_path: Path
) -> None:
    rocker = replace(SMMUV3, name="rocker", devices=(Device("rocker"),), qemu=program)
    guest = guest_factory(rocker)
    assert "-incoming" not in guest.argv
    with pytest.raises(Unmigratable, match="non-migratable"):
        snapshot.save(guest, tmp_path / "kept")
    assert guest.run("echo on").out == b"on\n"


def test_a_state_is_refused_in_qemus_words(guest_factory: GuestFactory) -> None:
    """A second one, here, into a guest that runs."""
    guest = guest_factory(replace(SMMUV3, qemu=newest_qemu.path()))
    with pytest.raises(HostError, match=r"QEMU refuses migrate-incoming: .*already been started"):
        guest.monitor.load(guest.directory / "console-kernel.log")


@pytest.mark.parametrize("stage", FEATURES)
def test_the_guest_has_the_stage_that_its_machine_has(
    guest_factory: GuestFactory, newest: str, stage: str
) -> None:
    """Not the one that QEMU's newest boards set."""
    guest = guest_factory(replace(SMMUV3, name=f"stage{stage}", stage=stage, qemu=newest))
    modules.load(guest, "arm_smmu_v3")
    (word,) = (
        entry.text.rpartition("(features 0x")[2].rstrip(")")
        for entry in guest.kmsg()
        if "(features 0x" in entry.text
    )
    assert {bit for bit in FEATURES["nested"] if int(word, 16) >> bit & 1} == FEATURES[stage]


def test_a_stage_that_qemu_does_not_give_is_refused(
    guest_factory: GuestFactory, newest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a QEMU that has dropped its old boards."""
    monkeypatch.setattr(qemu, "_STAGES", "virt-0.0")
    machine = replace(SMMUV3, name="mine", stage="1", qemu=newest)
    with pytest.raises(UsageError, match=r"mine has stage '1', and QEMU .* gives .* 'nested'"):
        guest_factory(machine)
