# SPDX-License-Identifier: GPL-2.0-only
"""Prose that contradicts the session of its report."""

from pathlib import Path

import pytest

from tests.unit.claims import symptom_steps

LOAD = "# modprobe arm-smmu-v3\n# modprobe e1000e\n"
REFUSED = f"{LOAD}# rmmod arm_smmu_v3\nrmmod: ERROR: Module arm_smmu_v3 is in use\n"
DONE = f"{LOAD}# rmmod arm_smmu_v3\n# lsmod | grep -c smmu\n0\n"
COUNTED = (
    f"{LOAD}# cat /sys/module/arm_smmu_v3/refcnt\n1\n# rmmod e1000e\n"
    "# cat /sys/module/arm_smmu_v3/refcnt\n0\n"
)


def kinds(tmp_path: Path, text: str) -> list[str]:
    return [kind for kind, _ in symptom_steps(tmp_path, text)]


@pytest.mark.parametrize(
    ("prose", "session", "contradicts"),
    [
        ("With a client rmmod arm_smmu_v3 succeeds.", REFUSED, True),
        ("Unloading the IOMMU driver works without any complaint.", REFUSED, True),
        ("rmmod succeeds, nothing keeps the module.", REFUSED, True),
        ("rmmod does not succeed.", REFUSED, False),
        ("rmmod of a NIC works, that of arm_smmu_v3 does not.", REFUSED, False),
        ("rmmod is refused.", REFUSED, False),
        ("rmmod works before a client is loaded.", REFUSED, False),
        ("rmmod works in 6.1.", REFUSED, False),
        ("rmmod works. With a client it does not.", REFUSED, False),
        ("I expect that rmmod works.", REFUSED, False),
        ("modprobe works.", REFUSED, False),
        ("A client that is unloaded keeps a reference.", REFUSED, False),
        ("rmmod fails with EBUSY.", DONE, True),
        ("rmmod hangs.", DONE, True),
        ("rmmod works.", DONE, False),
        ("rmmod fails.", DONE.replace("v3\n# ls", "v3 2>/dev/null\n# ls"), False),
        ("rmmod hangs.", DONE.replace("rmmod arm_smmu_v3", "rmmod arm_smmu_v3 &"), False),
        ("The count stays at 1.", COUNTED, True),
        ("The refcount is 3.", COUNTED, True),
        ("The refcount is 1 with a client.", COUNTED, False),
        ("The count stays at 0. Before it was 7.", COUNTED, False),
        ("The refcount is 3.", f"{COUNTED}# rmmod arm_smmu_v3\nno\n", False),
    ],
)
@pytest.mark.parametrize("prose_first", [True, False])
def test_prose_that_the_session_refutes_becomes_a_contradiction(
    tmp_path: Path, prose: str, session: str, contradicts: bool, prose_first: bool
) -> None:
    text = f"{prose}\n\n{session}" if prose_first else f"{session}#\n\n{prose}\n"
    assert ("contradiction" in kinds(tmp_path, text)) is contradicts


def test_prose_that_another_session_confirms_is_not_a_contradiction(tmp_path: Path) -> None:
    text = f"Mine:\n\n{REFUSED}\nWith the patch rmmod works:\n\n{DONE}\nrmmod succeeds.\n"
    assert kinds(tmp_path, text) == ["error"]


def test_prose_that_replies_to_a_quoted_session_is_not_a_contradiction(tmp_path: Path) -> None:
    quoted = "".join(f"> {line}\n" for line in REFUSED.splitlines())
    assert kinds(tmp_path, f"{quoted}\nHere rmmod works.\n") == ["error"]


@pytest.mark.parametrize(
    ("prose", "kind"),
    [
        ("The kernel oopses.", "splat"),
        ("The kernel panics then.", "panic"),
        ("rmmod hangs.", "hang"),
        ("The kernel might oops.", None),
        ("I was afraid that it panics.", None),
        ("On another board a kernel panic made me look.", None),
        ("The box reboots.", "splat"),
        ("The box still reboots fine.", None),
        ("It never hangs or oopses, it should not.", None),
    ],
)
def test_prose_claims_a_crash_that_the_session_does_not_show(
    tmp_path: Path, prose: str, kind: str | None
) -> None:
    session = f"{LOAD}# cat /sys/module/arm_smmu_v3/refcnt\n1\n# rmmod e1000e\n"
    expected = ["output", kind] if kind else ["output"]
    assert kinds(tmp_path, f"{prose}\n\n{session}") == expected
