# SPDX-License-Identifier: GPL-2.0-only
"""Results as KTAP and JUnit XML, and the option --output."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import formatted
from harness.errors import UsageError
from harness.formats import junit_writer, ktap_writer
from harness.formats.case import Case, Group
from harness.suite.run import ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult

CASES = [
    Case("passes", "passed", seconds=0.5),
    Case("fails # here", "failed", "it\nleaks", "line 1\nnot ok 9 x\n1..3"),
    Case("known", "known", "device-outlives-driver"),
    Case("skipped", "skipped", "requires ACPI"),
    Case("lost", "inconclusive", "QEMU was killed"),
]
GROUP = Group("debian:6.12 on smmuv3", CASES, (("kernel", "debian:6.12"),))

RESULT = re.compile(r"^( *)(ok|not ok) (\d+) ([^#]*)(?: # (\w+).*)?$", re.MULTILINE)


def test_ktap_has_a_subtest_for_each_case() -> None:
    text = ktap_writer.text([GROUP])
    assert text.startswith("KTAP version 1\n1..1\n    KTAP version 1\n")
    assert "\n    1..5\n" in text
    found = [(match[2], match[4].strip(), match[5]) for match in RESULT.finditer(text)]
    assert found == [
        ("ok", "passes", "time"),
        ("not ok", "fails _ here", "time"),
        ("ok", "known", "XFAIL"),
        ("ok", "skipped", "SKIP"),
        ("not ok", "lost", "ERROR"),
        ("not ok", "debian:6.12 on smmuv3", None),
    ]
    assert "    # not ok 9 x\n    # 1..3\n" in text


def test_ktap_group_passes_if_no_case_fails() -> None:
    assert ktap_writer.text([Group("g", CASES[2:4])]).endswith("\nok 1 g\n")


def test_junit_counts_each_result() -> None:
    root = ET.fromstring(junit_writer.text([GROUP]))
    (suite,) = root
    for element in (root, suite):
        counts = [element.get(name) for name in ("tests", "failures", "errors", "skipped")]
        assert counts == ["5", "1", "1", "2"]
    assert [each.get("name") for each in suite.iter("testcase")] == [each.name for each in CASES]
    (failure,) = root.iter("failure")
    assert failure.text == CASES[1].details
    known = next(each for each in root.iter("skipped"))
    assert known.get("message") == "known issue: device-outlives-driver"
    (kernel,) = root.iter("property")
    assert kernel.attrib == {"name": "kernel", "value": "debian:6.12"}


RESULTS = st.sampled_from(["passed", "failed", "known", "skipped", "inconclusive"])
ANY_CASE = st.builds(Case, st.text(), RESULTS, st.text(), st.text())


@given(st.lists(ANY_CASE, max_size=5))
def test_junit_of_any_text_is_valid_xml(cases: list[Case]) -> None:
    root = ET.fromstring(junit_writer.text([Group("g", cases)]))
    assert len(list(root.iter("testcase"))) == len(cases)


@given(st.lists(ANY_CASE, max_size=5))
def test_ktap_of_any_text_has_one_result_for_each_case(cases: list[Case]) -> None:
    lines = ktap_writer.text([Group("g", cases)]).split("\n")
    results = [line for line in lines if re.match(r" *(not )?ok \d", line)]
    assert len(results) == len(cases) + 1
    assert sum(line.startswith("    1..") for line in lines) == 1


def outcome(kernel: str, result: ScenarioResult, reason: str = "") -> ScenarioOutcome:
    return ScenarioOutcome("test_x.py::test_y", kernel, "smmuv3", result, reason, 1.0, "")


def test_outcomes_are_grouped_by_kernel_and_machine() -> None:
    outcomes = [
        outcome("debian:6.12", ScenarioResult.PASSED),
        outcome("debian:7.2", ScenarioResult.NOT_APPLICABLE, "requires X\nmore"),
        outcome("debian:6.12", ScenarioResult.KNOWN_ISSUE),
    ]
    rows = ((each.scenario, each, each.details) for each in outcomes)
    found = formatted.groups(rows, {"qemu": "7.2"})
    assert [each.name for each in found] == ["debian:6.12 on smmuv3", "debian:7.2 on smmuv3"]
    assert [each.result for each in found[0].cases] == ["passed", "known"]
    assert found[1].cases[0].reason == "requires X"
    assert ("qemu", "7.2") in found[0].properties


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["jnuit=x"], "unknown format 'jnuit'; did you mean junit?"),
        (["junit"], "--output junit has no file; for example junit=results.junit"),
        (["ktap="], "--output ktap has no file"),
        (["ktap=/nope/x"], "cannot write /nope/x: No such file or directory"),
        (["ktap=-", "junit=-"], "only one format can be printed"),
    ],
)
def test_parse_rejects_an_output_that_cannot_be_written(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        formatted.parse(texts, as_json=False)
    assert str(caught.value).startswith(message)


def test_an_output_is_written_to_its_file(tmp_path: Path) -> None:
    file = tmp_path / "results.ktap"
    outputs = formatted.parse([f"ktap={file}"], as_json=True)
    assert not formatted.is_printed(outputs)
    formatted.write(outputs, [GROUP])
    assert file.read_text() == ktap_writer.text([GROUP])
