# SPDX-License-Identifier: GPL-2.0-only
"""Claims in the prose of a report."""

from pathlib import Path

import pytest

from harness.report import bug_report
from tests.unit.claims import symptom_steps, symptoms

LOADED = "# modprobe arm-smmu-v3\n# modprobe e1000e\n"


@pytest.mark.parametrize(
    ("prose", "found"),
    [
        ("The last one prints nothing.", [("silence", 1)]),
        ("Of the second command I get no output.", [("silence", 1)]),
        ("The first one shows nothing.", [("silence", 0)]),
        ("The last one should print nothing.", []),
        ("dmesg has nothing.", []),
    ],
)
def test_prose_claims_that_a_command_prints_nothing(
    tmp_path: Path, prose: str, found: list[tuple[str, int | None]]
) -> None:
    session = "# modprobe e1000e\n# ls /sys/kernel/iommu_groups\n"
    assert symptom_steps(tmp_path, f"{session}\n{prose}\n") == found


MESSAGE = "e1000e 0000:00:01.0: Adding to iommu group 0"


@pytest.mark.parametrize(
    ("prose", "is_claim"),
    [
        (f"and then dmesg says `{MESSAGE}`.", True),
        (f'The kernel logs "[   12.345678] {MESSAGE}" then.', True),
        (f"The log does not have `{MESSAGE}`.", False),
        (f"The log should have `{MESSAGE}`.", False),
        ("Fine so far. I use the kernel command line `iommu.passthrough=1`.", False),
    ],
)
def test_prose_claims_a_quoted_kernel_message(tmp_path: Path, prose: str, is_claim: bool) -> None:
    found = symptoms(tmp_path, f"{LOADED}\n{prose}\n")
    assert [(each.kind, each.step, each.lines) for each in found] == [
        ("message", None, (MESSAGE,))
    ] * is_claim


def test_prose_claims_a_splat_in_backticks(tmp_path: Path) -> None:
    place = "drivers/iommu/iommu.c:634 iommu_group_release+0x70/0xa8"
    prose = f"dmesg shows `WARNING: CPU: 0 PID: 35 at {place}`."
    (found,) = symptoms(tmp_path, f"{LOADED}\n{prose}\n")
    assert found.splat is not None
    assert found.splat.function == "iommu_group_release"


@pytest.mark.parametrize(
    ("prose", "subject", "lines", "number"),
    [
        ("0000:00:01.0 is still bound to e1000e.", "0000:00:01.0", ("e1000e",), None),
        ("The device stays bound to vfio-pci.", "", ("vfio-pci",), None),
        ("After that `00:01.0` is in IOMMU group 3.", "00:01.0", (), 3),
        ("b000000.client0 has no group.", "b000000.client0", (), None),
    ],
)
def test_prose_claims_the_driver_or_group_of_a_device(
    tmp_path: Path, prose: str, subject: str, lines: tuple[str, ...], number: int | None
) -> None:
    (found,) = symptoms(tmp_path, f"{LOADED}\n{prose}\n")
    assert (found.kind, found.step) == ("device", 1)
    assert (found.subject, found.lines, found.number) == (subject, lines, number)


@pytest.mark.parametrize(
    "prose", ["0000:00:01.0 is not bound to e1000e.", "It should be bound to e1000e.", "Bound to."]
)
def test_prose_ignores_a_negated_expected_or_incomplete_binding(tmp_path: Path, prose: str) -> None:
    assert symptom_steps(tmp_path, f"{LOADED}\n{prose}\n") == []


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("rmmod e1000e       <- hangs here", [("hang", 2)]),
        ("rmmod e1000e   # <-- never returns", [("hang", 2)]),
        ("rmmod e1000e  # fails with EBUSY", [("error", 2)]),
        ("rmmod e1000e  # should not hang", []),
        ("rmmod e1000e  # the driver of the NIC", []),
    ],
)
def test_a_note_after_a_command_claims_a_hang_or_a_failure(
    tmp_path: Path, command: str, found: list[tuple[str, int | None]]
) -> None:
    assert symptom_steps(tmp_path, f"{LOADED}# {command}\n") == found


def test_an_arrow_note_is_removed_from_the_command(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# modprobe a <-- hangs\n# cat <<- END\nx\nEND\n")
    ((_, session),) = bug_report.read(tmp_path / "r.txt").sessions
    assert session.texts == ("modprobe a", "cat <<- END\nx\nEND")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("rmmod arm_smmu_v3 && echo ok", [("silence", 2)]),
        ("rmmod arm_smmu_v3 || echo failed", []),
        ("rmmod arm_smmu_v3 && echo ok > /tmp/x", []),
    ],
)
def test_a_missing_success_message_is_a_symptom(
    tmp_path: Path, command: str, found: list[tuple[str, int | None]]
) -> None:
    assert symptom_steps(tmp_path, f"{LOADED}# {command}\n#\n") == found
    assert symptom_steps(tmp_path, f"{LOADED}# {command}\n") == []


@pytest.mark.parametrize(
    ("prose", "subject", "number"),
    [
        ("arm_smmu_v3 still has a reference count of 1.", "arm_smmu_v3", 1),
        ("arm_smmu_v3 keeps two references.", "arm_smmu_v3", 2),
        ("After that it has 3 references.", "", 3),
        ("It has no references.", "", None),
    ],
)
def test_prose_claims_a_reference_count(
    tmp_path: Path, prose: str, subject: str, number: int | None
) -> None:
    found = symptoms(tmp_path, f"{LOADED}# rmmod e1000e\n\n{prose}\n")
    counts = [(each.subject, each.number) for each in found if each.kind == "refcount"]
    assert counts == ([] if number is None else [(subject, number)])


def test_prose_cannot_be_unloaded_is_a_claim_only_after_rmmod_of_that_module(
    tmp_path: Path,
) -> None:
    session = f"{LOADED}# rmmod e1000e\n"
    assert symptom_steps(tmp_path, f"{session}\narm-smmu-v3 cannot be unloaded.\n") == []
    assert symptom_steps(tmp_path, f"{session}\nrmmod: e1000e cannot be unloaded.\n") == [
        ("error", 2)
    ]


@pytest.mark.parametrize(
    ("prose", "function"),
    [
        ("I get a WARNING in __iommu_group_free_device.", "__iommu_group_free_device"),
        ("It oopses in `iommu_group_release`.", "iommu_group_release"),
        ("The machine reboots.", None),
        ("This crashes my box.", None),
    ],
)
def test_prose_claims_a_splat_and_its_function(
    tmp_path: Path, prose: str, function: str | None
) -> None:
    (found,) = symptoms(tmp_path, f"{LOADED}\n{prose}\n")
    assert (found.kind, found.splat.function if found.splat else None) == ("splat", function)


@pytest.mark.parametrize("prose", ["After a reboot the module is there.", "My editor crashed."])
def test_prose_about_reboots_or_crashes_of_programs_claims_no_splat(
    tmp_path: Path, prose: str
) -> None:
    assert symptom_steps(tmp_path, f"{LOADED}\n{prose}\n") == []


@pytest.mark.parametrize(("times", "found"), [(1, 1), (5, 5), (6, 0)])
def test_up_to_five_stamped_lines_become_message_claims(
    tmp_path: Path, times: int, found: int
) -> None:
    log = "".join(f"[    {n}.000000] e1000e 0000:00:01.0: {n}\n" for n in range(times))
    claims = symptoms(tmp_path, f"I run\n\n    modprobe e1000e\n\nand see\n\n{log}")
    assert [each.kind for each in claims] == ["message"] * found
