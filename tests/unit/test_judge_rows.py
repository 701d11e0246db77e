# SPDX-License-Identifier: GPL-2.0-only
"""Judging claims about rows of lsmod and /proc/modules."""

from dataclasses import replace

import pytest

from harness.guest.state import Module, State
from harness.report import session_claims
from harness.report.commands import Command
from harness.report.session import Session
from tests.unit.judging import command, difference, judged, step

REMOVED = [command(text="rmmod arm_smmu_v3 2>&-"), command("one 4096 0", text="lsmod")]


@pytest.mark.parametrize(("refcount", "expected"), [(None, True), (1, False)])
def test_lsmod_output_without_a_removed_module_claims_that_it_is_not_loaded(
    refcount: int | None, expected: bool
) -> None:
    found = judged(REMOVED, [step(1), step(refcount=refcount)])
    (absence,) = [each for each in found if "does not show" in each.claim.text]
    assert absence.claim.symptom
    assert absence.held is expected


@pytest.mark.parametrize(
    "commands",
    [
        [command("one 4096 0", text="lsmod")],
        [REMOVED[0], command("one 4096 0", text="lsmod | head -2")],
        [REMOVED[0], command("one 4096 0", "...", text="lsmod")],
        [REMOVED[0], command(text="modprobe arm-smmu-v3"), REMOVED[1]],
    ],
)
def test_partial_or_later_lsmod_output_makes_no_claim_about_other_modules(
    commands: list[Command],
) -> None:
    texts = [each.text for each in session_claims.find(Session(tuple(commands)))]
    assert not any("does not show" in text for text in texts)


@pytest.mark.parametrize(
    ("reported", "same"),
    [
        ("arm_smmu_v3            77824  2", True),
        # Additional holders depend on the configuration.
        ("vfio                   45056  3 vfio_pci,vfio_iommu_type1", True),
        ("vfio                   45056  4 vfio_pci,vfio_iommu_type1", False),
        ("arm_smmu_v3            77824  1", False),
        ("arm_smmu_v3            77824  2 e1000e", False),
    ],
)
def test_lsmod_rows_match_by_refcount_and_holders(reported: str, same: bool) -> None:
    state = State(
        modules={
            "arm_smmu_v3": Module("arm_smmu_v3", "live", 2, ()),
            "vfio": Module("vfio", "live", 4, ("vfio_iommu_type1", "vfio_pci", "vfio_pci_core")),
        }
    )
    done = replace(step(0), command="lsmod", after=state)
    assert (difference(command(reported, text="lsmod"), done) is None) is same


def test_rows_of_other_tables_must_match_exactly() -> None:
    """A row of slabinfo resembles a row of lsmod."""
    assert difference(command("kmalloc-64 1234 5"), step(out="kmalloc-64 1235 5\n"))


@pytest.mark.parametrize(
    ("reported", "same"),
    [
        ("arm_smmu_v3 40960 2 - Live 0xffff80007a6b0000", True),
        ("arm_smmu_v3 40960 2 - Unloading 0xffff80007a6b0000", False),
        ("arm_smmu_v3 40960 2 [permanent], Live 0xffff80007a6b0000", False),
        ("arm_smmu_v3 45056  2", True),
        ("arm_smmu_v3 45056  2 [permanent]", False),
    ],
)
def test_proc_modules_rows_match_by_refcount_state_and_flags(reported: str, same: bool) -> None:
    row = "arm_smmu_v3 40960 2 - Live 0xffff800078620000\n"
    shown = command(reported, text="grep smmu /proc/modules")
    assert (difference(shown, step(out=row, refcount=2)) is None) is same


@pytest.mark.parametrize(
    ("row", "about", "same"),
    [
        ("arm_smmu_v3 40960 2 - Live 0xffff80007a6b0000 (O)", True, True),
        ("arm_smmu_v3 40960 2 - Live 0xffff80007a6b0000 (OE)", True, False),
        ("arm_smmu_v3 40960 2 - Live 0xffff80007a6b0000", True, False),
        ("arm_smmu_v3 40960 2 - Live 0xffff80007a6b0000 (OE)", False, True),
        ("arm_smmu_v3 45056  2", True, True),
    ],
)
def test_module_taints_must_match_only_if_the_report_is_about_taints(
    row: str, about: bool, same: bool
) -> None:
    shown = command(row, text="grep smmu /proc/modules")
    claims = [replace(each, about_taints=about) for each in session_claims.find(Session((shown,)))]
    done = step(out="arm_smmu_v3 40960 2 - Live 0xffff800078620000 (O)\n", refcount=2)
    (found,) = judged([shown], [done], claims=claims)
    assert found.held is same
