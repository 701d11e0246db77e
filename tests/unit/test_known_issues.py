# SPDX-License-Identifier: GPL-2.0-only

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestHang, GuestLost, GuestPanic, UsageError
from harness.iommu import behaviour, finding, known_issues
from harness.iommu.finding import Finding, Pattern, RuleViolation
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


def test_every_issue_has_evidence_and_symptoms() -> None:
    for name, issue in ISSUES.items():
        assert name == issue.id
        assert issue.title
        assert issue.evidence
        assert issue.upstream
        assert issue.machines
        assert issue.introduced.marks
        assert issue.symptoms
        assert all(each in behaviour.TABLE for each in issue.needs)


MINE = """
[[issue]]
id = "mine"
title = "a WARNING of my driver"
symptoms = [{ is = "WARNING in my_probe" }]
introduced = ["6.1"]
"""


def test_issues_adds_the_issues_of_a_users_file(tmp_path: Path) -> None:
    """An issue requires an id, a title, symptoms, and one of needs, signs and introduced."""
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    found = known_issues.issues((file,))
    assert found.keys() == {*ISSUES, "mine"}
    assert found["mine"].explained([parsed("WARNING in my_probe < really_probe")])
    assert found["mine"].affects("smmuv3")
    assert not found["mine"].may_affect("test_pinning.py::test_x")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("pinning::test_x", True), ("pinning::*", True), ("*", True), ("groups::test_x", False)],
)
def test_an_issue_may_affect_only_scenarios_that_match_its_patterns(
    tmp_path: Path, pattern: str, matches: bool
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"{MINE}scenarios = ['{pattern}']\n")
    issue = known_issues.issues((file,))["mine"]
    assert issue.may_affect("test_pinning.py::test_x") == matches
    assert issue.may_affect("test_pinning.py::test_x[cdev]") == matches


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[issue]]", "[[issue", "is not valid TOML: "),
        ("[[issue]]", "[issue]", ": issue must be of type list"),
        (MINE, "", ": requires issue"),
        (MINE, "[[bug]]", ": unknown key 'bug'"),
        ('"mine"', '""', ": known issue '': requires id"),
        ('"mine"', "1", ": known issue 1: id must be of type str, not 1"),
        ('"mine"', '"smmu-reload-leaks"', ": known issue 'smmu-reload-leaks' already exists"),
        ("title", "titel", ": known issue 'mine': unknown key 'titel'; did you mean title?"),
        ("{ is", "{ has", ": known issue 'mine': unknown key 'has'"),
        ('[{ is = "WARNING in my_probe" }]', "[]", ": known issue 'mine': requires symptoms"),
        ('[{ is = "WARNING in my_probe" }]', "[1]", "symptoms must be a list of tables, not [1]"),
        ('introduced = ["6.1"]', "", "requires needs, signs or introduced"),
        (
            '["6.1"]',
            '["v6.1"]',
            "introduced must be kernel versions such as 6.12 or 6.12.111, not 'v6.1'",
        ),
        ('["6.1"]', "[6.1]", "introduced must be a list of strings, not [6.1]"),
        ('introduced = ["6.1"]', 'needs = ["dma-owner"]', "needs unknown behaviour 'dma-owner'"),
        ('introduced = ["6.1"]', 'signs = [{ file = "x.c" }]', "requires code"),
        ('introduced = ["6.1"]', 'signs = [{ code = "x" }]', "a sign requires file or option"),
        (
            'introduced = ["6.1"]',
            'signs = [{ file = "x.c", code = "(" }]',
            "code '(' is not a regular expression: ",
        ),
        (
            'introduced = ["6.1"]',
            'signs = [{ file = "x.c", code = "x", shown = "no" }]',
            "shown must be of type bool, not 'no'",
        ),
    ],
)
def test_issues_reports_an_invalid_file_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        known_issues.issues((file,))
    text = str(caught.value)
    assert text.startswith(str(file))
    assert message in text
    assert "\n" not in text


def test_issues_rejects_a_missing_file() -> None:
    with pytest.raises(UsageError, match=r"^cannot read /nowhere/x.toml: No such file"):
        known_issues.issues((Path("/nowhere/x.toml"),))


@pytest.mark.parametrize(("issue", "symptom"), SYMPTOMS)
def test_a_symptom_matches_its_example_but_not_its_counterexample(
    issue: known_issues.KnownIssue, symptom: known_issues.Symptom
) -> None:
    assert symptom.pattern.matches(parsed(symptom.like))
    assert not any(each.pattern.matches(parsed(symptom.unlike)) for each in issue.symptoms)


@pytest.mark.parametrize(("issue", "symptom"), SYMPTOMS)
def test_an_example_matches_only_its_own_issue(
    issue: known_issues.KnownIssue, symptom: known_issues.Symptom
) -> None:
    """Issues with the same symptom are exempt if no kernel has both."""
    others = {
        other.id
        for other in ISSUES.values()
        if other is not issue
        and any(each.pattern.matches(parsed(symptom.like)) for each in other.symptoms)
    }
    alike = (
        {"unloaded-operations-stay", "unloaded-virtio-operations-stay"},
        {"virtio-iommu-space-before-attach", "smmu-space-before-attach"},
        {"failed-probe-puts-twice", "device-outlives-driver"},
    )
    assert not others or any({issue.id, *others} <= each for each in alike)


def parsed(text: str) -> Finding:
    """Return the finding that is printed as ``text``."""
    kind, found, chain = text.partition(" in ")
    if found:
        return Finding(kind, calls=tuple(chain.split(" < ")))
    subject, _, value = text.partition(" = ")
    rule, _, name = subject.partition(" ")
    return Finding(rule, name, value)


def test_a_consequence_is_explained_only_after_a_symptom() -> None:
    issue = ISSUES["detaching-fails-for-memory"]
    cause, poison = (
        parsed(issue.symptoms[0].like),
        parsed("SLUB in __free_slab < kernfs_fop_release"),
    )
    assert issue.explained([cause, poison]) == [cause, poison]
    assert issue.explained([poison, cause]) == [cause]
    assert issue.explained([poison]) == []


def test_a_counterexample_is_explained_only_as_a_consequence() -> None:
    for issue in ISSUES.values():
        for symptom in issue.symptoms:
            own, other = parsed(symptom.like), parsed(symptom.unlike)
            found = issue.explained([own, other])
            follows = any(each.matches(other) for each in issue.follows)
            assert found == ([own, other] if follows else [own]), issue.id


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
def test_a_pattern_matches_a_splat_by_kind_function_and_callers(
    pattern: str, matches: bool
) -> None:
    (found,) = splat.find(WARNING)
    assert Pattern(pattern).matches(finding.from_splat(found)) == matches


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
def test_a_pattern_matches_a_finding_by_rule_subject_and_value(pattern: str, matches: bool) -> None:
    found = Finding("refcount", "virtio_iommu", "-1", "any text")
    assert Pattern(pattern).matches(found) == matches


def test_from_error_returns_the_findings_that_ended_a_scenario() -> None:
    panic = finding.from_error(GuestPanic("Fatal exception in interrupt"))
    assert [str(each) for each in panic] == ["panic = Fatal exception in interrupt"]
    assert Pattern("panic").matches(panic[0])
    assert [each.rule for each in finding.from_error(GuestHang("no answer"))] == ["hang"]
    assert [each.rule for each in finding.from_error(GuestLost("gone"))] == ["lost"]
    assert [each.rule for each in finding.from_error(AssertionError("refcount -1"))] == [
        "assertion"
    ]
    wrong = Finding("refcount", "virtio_iommu", "2", "virtio_iommu has refcount 2")
    with pytest.raises(RuleViolation, match="with 3: virtio_iommu has refcount 2") as caught:
        finding.require_none([wrong], "with 3")
    assert finding.from_error(caught.value) == [wrong]


@given(st.text(), st.text(), st.text())
def test_patterns_accept_any_text(pattern: str, rule: str, subject: str) -> None:
    assert Pattern(pattern).matches(Finding(rule, subject)) in (True, False)


def test_a_splat_pattern_does_not_match_the_command_of_a_finding() -> None:
    found = Finding("killed", "for d in virtio*; do echo $d > unbind; done")
    assert Pattern("killed").matches(found)
    assert not Pattern("* in *").matches(found)
