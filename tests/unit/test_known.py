# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import replace

import pytest

from harness.klog import splat
from harness.scenario import known
from harness.scenario.behaviour import Versions

WARNING = [
    "WARNING: CPU: 0 PID: 9 at drivers/iommu/iommu.c:940 iommu_group_release+0x10/0x20",
    "Call trace:",
    " iommu_group_release+0x10/0x20",
    " kobject_put+0x10/0x20",
    "---[ end trace 0000000000000000 ]---",
]


def test_every_issue_has_its_evidence_and_a_symptom() -> None:
    for name, issue in known.issues().items():
        assert name == issue.id
        assert issue.title
        assert issue.evidence
        assert issue.upstream
        assert issue.machines
        assert issue.introduced.marks
        assert issue.splats or issue.symptom


def test_an_issue_applies_between_its_versions_and_on_its_machines() -> None:
    issue = replace(
        known.issues()["virtio-iommu-unbind"],
        introduced=Versions(("6.1",)),
        fixed=Versions(("6.12.200", "7.4")),
        machines=("virtio-iommu*",),
    )
    for release, machine, applies in (
        ("5.10.1", "virtio-iommu", False),
        ("6.1.192", "virtio-iommu", True),
        ("6.12.117", "virtio-iommu+nic", True),
        ("6.12.200", "virtio-iommu", False),
        ("7.3", "virtio-iommu-acpi", True),
        ("7.4-rc1", "virtio-iommu", False),
        ("7.2", "smmuv3", False),
    ):
        assert issue.applies(release, machine) == applies, (release, machine)


@pytest.mark.parametrize(
    ("pattern", "explained"),
    [
        ("WARNING: .*iommu_group_release", True),
        ("kobject_put", True),
        (r"iommu\.c", True),
        ("iommu_group_alloc", False),
        ("^Oops", False),
    ],
)
def test_a_splat_is_known_by_kind_place_and_callers(pattern: str, explained: bool) -> None:
    (found,) = splat.find(WARNING)
    left = known.unexplained([found], [pattern], [])
    assert (left == []) == explained
    issue = replace(known.issues()["virtio-iommu-unbind"], splats=(pattern,))
    assert (known.unexplained([found], [], [issue]) == []) == explained
