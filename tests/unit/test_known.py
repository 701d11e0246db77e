# SPDX-License-Identifier: GPL-2.0-only

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestHang, GuestLost, GuestPanic
from harness.iommu import behaviour, finding, known_issues
from harness.iommu.finding import Broken, Finding, Pattern
from harness.klog import splat

WARNING = [
    "WARNING: CPU: 0 PID: 9 at drivers/iommu/iommu.c:940 iommu_group_release+0x10/0x20",
    "Call trace:",
    " iommu_group_release+0x10/0x20",
    " kobject_put.part.0+0x10/0x20",
    " iommu_group_put+0x10/0x20",
    "---[ end trace 0000000000000000 ]---",
]
ISSUES = known_issues.issues()
SYMPTOMS = [(issue, each) for issue in ISSUES.values() for each in issue.symptoms]


def test_every_issue_has_its_evidence_and_symptoms() -> None:
    for name, issue in ISSUES.items():
        assert name == issue.id
        assert issue.title
        assert issue.evidence
        assert issue.upstream
        assert issue.machines
        assert issue.introduced.marks
        assert issue.symptoms
        assert all(each in behaviour.TABLE for each in issue.needs)


@pytest.mark.parametrize(("issue", "symptom"), SYMPTOMS)
def test_a_symptom_is_its_example_and_not_its_neighbour(
    issue: known_issues.KnownIssue, symptom: known_issues.Symptom
) -> None:
    assert symptom.pattern.matches(of(symptom.like))
    assert not any(each.pattern.matches(of(symptom.unlike)) for each in issue.symptoms)


@pytest.mark.parametrize(("issue", "symptom"), SYMPTOMS)
def test_no_issue_takes_a_finding_for_its_own_that_the_same_machine_has_of_another(
    issue: known_issues.KnownIssue, symptom: known_issues.Symptom
) -> None:
    """But for those that one kernel does not have together: they show the same."""
    others = {
        other.id
        for other in ISSUES.values()
        if other is not issue
        and any(each.pattern.matches(of(symptom.like)) for each in other.symptoms)
    }
    alike = (
        {"unloaded-operations-stay", "unloaded-virtio-operations-stay"},
        {"virtio-iommu-space-before-attach", "smmu-space-before-attach"},
        {"failed-probe-puts-twice", "device-outlives-driver"},
    )
    assert not others or any({issue.id, *others} <= each for each in alike)


def of(text: str) -> Finding:
    """A finding that str() shows so."""
    kind, found, chain = text.partition(" in ")
    if found:
        return Finding(kind, calls=tuple(chain.split(" < ")))
    subject, _, value = text.partition(" = ")
    rule, _, name = subject.partition(" ")
    return Finding(rule, name, value)


def test_what_follows_is_explained_only_after_a_symptom() -> None:
    issue = ISSUES["detaching-fails-for-memory"]
    cause, poison = of(issue.symptoms[0].like), of("SLUB in __free_slab < kernfs_fop_release")
    assert issue.explained([cause, poison]) == [cause, poison]
    assert issue.explained([poison, cause]) == [cause]
    assert issue.explained([poison]) == []


def test_a_neighbour_is_not_explained_with_it() -> None:
    for issue in ISSUES.values():
        for symptom in issue.symptoms:
            own, neighbour = of(symptom.like), of(symptom.unlike)
            found = issue.explained([own, neighbour])
            follows = any(each.matches(neighbour) for each in issue.follows)
            assert found == ([own, neighbour] if follows else [own]), issue.id


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("WARNING in iommu_group_release", True),
        ("WARNING in iommu_group_release < kobject_put", True),
        ("WARNING in iommu_group_release < kobject_put < iommu_group_put", True),
        ("WARNING in iommu_group_release < ... < iommu_group_put", True),
        ("WARNING in iommu_group_release < iommu_group_put", False),
        ("WARNING in iommu_*", True),
        ("WARNING in other|iommu_group_release", True),
        ("* in *", True),
        ("Oops|WARNING in *", True),
        ("Oops in iommu_group_release", False),
        ("WARNING in kobject_put", False),
        ("WARNING in iommu_group_alloc", False),
        ("WARNING", False),
        ("refcount", False),
    ],
)
def test_a_splat_is_known_by_kind_function_and_callers(pattern: str, matches: bool) -> None:
    (found,) = splat.find(WARNING)
    assert Pattern(pattern).matches(finding.of_splat(found)) == matches


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("refcount virtio_iommu = -1", True),
        ("refcount * = -1", True),
        ("refcount virtio_iommu", True),
        ("refcount", True),
        ("refcount virtio_iommu = 1", False),
        ("refcount arm_smmu_v3 = -1", False),
        ("refcount-leak virtio_iommu = -1", False),
        ("WARNING in refcount", False),
    ],
)
def test_a_rule_is_known_by_name_subject_and_value(pattern: str, matches: bool) -> None:
    found = Finding("refcount", "virtio_iommu", "-1", "any words in it")
    assert Pattern(pattern).matches(found) == matches


def test_what_ended_a_scenario() -> None:
    panic = finding.of_error(GuestPanic("Fatal exception in interrupt"))
    assert [str(each) for each in panic] == ["panic = Fatal exception in interrupt"]
    assert Pattern("panic").matches(panic[0])
    assert [each.rule for each in finding.of_error(GuestHang("no answer"))] == ["hang"]
    assert [each.rule for each in finding.of_error(GuestLost("gone"))] == ["lost"]
    assert [each.rule for each in finding.of_error(AssertionError("refcount -1"))] == ["assertion"]
    wrong = Finding("refcount", "virtio_iommu", "2", "virtio_iommu has refcount 2")
    with pytest.raises(Broken, match="with 3: virtio_iommu has refcount 2") as caught:
        finding.none_of([wrong], "with 3")
    assert finding.of_error(caught.value) == [wrong]


@given(st.text(), st.text(), st.text())
def test_patterns_and_findings_are_any_text(pattern: str, rule: str, subject: str) -> None:
    assert Pattern(pattern).matches(Finding(rule, subject)) in (True, False)


def test_a_command_is_no_splat_whatever_words_it_has() -> None:
    found = Finding("killed", "for d in virtio*; do echo $d > unbind; done")
    assert Pattern("killed").matches(found)
    assert not Pattern("* in *").matches(found)
