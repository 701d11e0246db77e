# SPDX-License-Identifier: GPL-2.0-only
"""Splats in reports, and the text around them."""

from pathlib import Path

import pytest

from harness.report import bug_report, session_selection
from harness.repro import request
from tests.unit.claims import symptom_numbers


def test_create_finds_a_wrapped_splat_behind_quote_marks(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text(
        ">> [    7.227853] ------------[ cut here ]------------\n"
        ">> [    7.227900] WARNING: CPU: 0 PID: 9 at drivers/iommu/iommu.c:2198\n"
        ">> __iommu_group_set_domain+0xb4/0xc8\n"
        ">> [    7.227920] Modules linked in:\n"
        "\n$ modprobe arm-smmu-v3\n"
    )
    found = [each.splat for each in request.create(path).claims if each.splat]
    assert [(each.kind, each.line) for each in found] == [("WARNING", 2198)]


def test_a_splat_belongs_to_the_session_above_it(tmp_path: Path) -> None:
    warning = "[ 1.0] WARNING: CPU: 0 PID: 9 at drivers/iommu/iommu.c:2198 f+0xb4/0xc8\n"
    path = tmp_path / "report"
    path.write_text(
        f"$ rmmod a\n\n{warning}\n\nWith the patch applied there is none:\n\n$ rmmod a\n$ echo "
        f"1\n1\n"
    )
    splats = [
        [each.kind for each in request.create(path, n).claims if each.splat] for n in ("1", "2")
    ]
    assert splats == [["splat"], []]


@pytest.mark.parametrize("stamp", ["", "[   44.100000] "])
def test_the_separator_lines_of_a_splat_are_not_output(tmp_path: Path, stamp: str) -> None:
    shown = (
        "=" * 60,
        "BUG: KASAN: slab-use-after-free in iommu_group_remove_device+0x1c/0x80",
        "Read of size 8 at addr ffff000002470000 by task modprobe/77",
        "=" * 60,
    )
    path = tmp_path / "r.txt"
    path.write_text("$ rmmod a\n$ dmesg\n" + "".join(f"{stamp}{line}\n" for line in shown))
    case = session_selection.select(bug_report.read(path), None)
    assert [each.kind for each in case.claims if each.symptom] == ["splat"]


KASAN = """\
==================================================================
BUG: KASAN: slab-use-after-free in arm_smmu_release_device+0x98/0xe0
Read of size 8 at addr ffff000004a16010 by task rmmod/77

CPU: 0 UID: 0 PID: 77 Comm: rmmod Not tainted 6.12.0 #1
Hardware name: linux,dummy-virt (DT)
Call trace:
 kasan_report+0xac/0xf0
 arm_smmu_release_device+0x98/0xe0

Allocated by task 70:
 arm_smmu_probe_device+0x100/0x500

"""


@pytest.mark.parametrize(
    ("below", "shown"),
    [
        ("# echo 1\n1\n", [("splat", 1, None), ("output", 2, None)]),
        ("Is it known? I saw it twice.\n", [("splat", 1, None)]),
    ],
)
def test_an_unstamped_splat_continues_past_blank_lines(
    tmp_path: Path, below: str, shown: list[tuple[str, int | None, int | None]]
) -> None:
    assert symptom_numbers(tmp_path, f"# modprobe a\n# rmmod a\n{KASAN}{below}") == shown
    ((_, session),) = bug_report.read(tmp_path / "report").sessions
    assert len(session.commands[1].output) == len(KASAN.splitlines()) - 1
