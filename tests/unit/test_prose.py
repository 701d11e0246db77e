# SPDX-License-Identifier: GPL-2.0-only
"""What reports claim in words."""

from pathlib import Path

import pytest

from harness.report import reading
from tests.unit.claimed import claimed, symptoms

LOADED = "# modprobe arm-smmu-v3\n# modprobe e1000e\n"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("The last one prints nothing.", [("silence", 1)]),
        ("Of the second command I get no output.", [("silence", 1)]),
        ("The first one shows nothing.", [("silence", 0)]),
        ("The last one should print nothing.", []),
        ("dmesg has nothing.", []),
    ],
)
def test_that_a_command_prints_nothing(
    tmp_path: Path, said: str, found: list[tuple[str, int | None]]
) -> None:
    session = "# modprobe e1000e\n# ls /sys/kernel/iommu_groups\n"
    assert claimed(tmp_path, f"{session}\n{said}\n") == found


MESSAGE = "e1000e 0000:00:01.0: Adding to iommu group 0"


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (f"and then dmesg says `{MESSAGE}`.", True),
        (f'The kernel logs "[   12.345678] {MESSAGE}" then.', True),
        (f"The log does not have `{MESSAGE}`.", False),
        (f"The log should have `{MESSAGE}`.", False),
        ("Fine so far. I use the kernel command line `iommu.passthrough=1`.", False),
    ],
)
def test_a_message_in_quotes(tmp_path: Path, said: str, seen: bool) -> None:
    found = symptoms(tmp_path, f"{LOADED}\n{said}\n")
    assert [(each.kind, each.step, each.lines) for each in found] == [
        ("message", None, (MESSAGE,))
    ] * seen


def test_a_warning_in_quotes_is_a_splat(tmp_path: Path) -> None:
    place = "drivers/iommu/iommu.c:634 iommu_group_release+0x70/0xa8"
    said = f"dmesg shows `WARNING: CPU: 0 PID: 35 at {place}`."
    (found,) = symptoms(tmp_path, f"{LOADED}\n{said}\n")
    assert found.splat is not None
    assert found.splat.function == "iommu_group_release"


@pytest.mark.parametrize(
    ("said", "subject", "lines", "number"),
    [
        ("0000:00:01.0 is still bound to e1000e.", "0000:00:01.0", ("e1000e",), None),
        ("The device stays bound to vfio-pci.", "", ("vfio-pci",), None),
        ("After that `00:01.0` is in IOMMU group 3.", "00:01.0", (), 3),
        ("b000000.client0 has no group.", "b000000.client0", (), None),
    ],
)
def test_where_a_device_is(
    tmp_path: Path, said: str, subject: str, lines: tuple[str, ...], number: int | None
) -> None:
    (found,) = symptoms(tmp_path, f"{LOADED}\n{said}\n")
    assert (found.kind, found.step) == ("device", 1)
    assert (found.subject, found.lines, found.number) == (subject, lines, number)


@pytest.mark.parametrize(
    "said", ["0000:00:01.0 is not bound to e1000e.", "It should be bound to e1000e.", "Bound to."]
)
def test_where_a_device_is_not(tmp_path: Path, said: str) -> None:
    assert claimed(tmp_path, f"{LOADED}\n{said}\n") == []


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("rmmod e1000e       <- hangs here", [("hang", 2)]),
        ("rmmod e1000e   # <-- never returns", [("hang", 2)]),
        ("rmmod e1000e  # fails with EBUSY", [("fact", 2)]),
        ("rmmod e1000e  # should not hang", []),
        ("rmmod e1000e  # the driver of the NIC", []),
    ],
)
def test_a_note_behind_a_command(
    tmp_path: Path, command: str, found: list[tuple[str, int | None]]
) -> None:
    assert claimed(tmp_path, f"{LOADED}# {command}\n") == found


def test_an_arrow_is_no_part_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("# modprobe a <-- hangs\n# cat <<- END\nx\nEND\n")
    ((_, session),) = reading.read(tmp_path / "r.txt").sessions
    assert session.texts == ("modprobe a", "cat <<- END\nx\nEND")


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("rmmod arm_smmu_v3 && echo ok", [("silence", 2)]),
        ("rmmod arm_smmu_v3 || echo failed", []),
        ("rmmod arm_smmu_v3 && echo ok > /tmp/x", []),
    ],
)
def test_that_no_success_is_printed_is_a_failure(
    tmp_path: Path, command: str, found: list[tuple[str, int | None]]
) -> None:
    assert claimed(tmp_path, f"{LOADED}# {command}\n#\n") == found
    assert claimed(tmp_path, f"{LOADED}# {command}\n") == []


@pytest.mark.parametrize(
    ("said", "subject", "number"),
    [
        ("arm_smmu_v3 still has a reference count of 1.", "arm_smmu_v3", 1),
        ("arm_smmu_v3 keeps two references.", "arm_smmu_v3", 2),
        ("After that it has 3 references.", "", 3),
        ("It has no references.", "", None),
    ],
)
def test_references(tmp_path: Path, said: str, subject: str, number: int | None) -> None:
    found = symptoms(tmp_path, f"{LOADED}# rmmod e1000e\n\n{said}\n")
    counts = [(each.subject, each.number) for each in found if each.kind == "refcount"]
    assert counts == ([] if number is None else [(subject, number)])


def test_who_cannot_be_unloaded(tmp_path: Path) -> None:
    session = f"{LOADED}# rmmod e1000e\n"
    assert claimed(tmp_path, f"{session}\narm-smmu-v3 cannot be unloaded.\n") == []
    assert claimed(tmp_path, f"{session}\nrmmod: e1000e cannot be unloaded.\n") == [("fact", 2)]


@pytest.mark.parametrize(
    ("said", "function"),
    [
        ("I get a WARNING in __iommu_group_free_device.", "__iommu_group_free_device"),
        ("It oopses in `iommu_group_release`.", "iommu_group_release"),
        ("The machine reboots.", None),
        ("This crashes my box.", None),
    ],
)
def test_a_crash(tmp_path: Path, said: str, function: str | None) -> None:
    (found,) = symptoms(tmp_path, f"{LOADED}\n{said}\n")
    assert (found.kind, found.splat.function if found.splat else None) == ("splat", function)


@pytest.mark.parametrize("said", ["After a reboot the module is there.", "My editor crashed."])
def test_no_crash(tmp_path: Path, said: str) -> None:
    assert claimed(tmp_path, f"{LOADED}\n{said}\n") == []


@pytest.mark.parametrize(("times", "found"), [(1, 1), (5, 5), (6, 0)])
def test_a_few_messages_in_lines_of_their_own(tmp_path: Path, times: int, found: int) -> None:
    log = "".join(f"[    {n}.000000] e1000e 0000:00:01.0: {n}\n" for n in range(times))
    seen = symptoms(tmp_path, f"I run\n\n    modprobe e1000e\n\nand see\n\n{log}")
    assert [each.kind for each in seen] == ["message"] * found
