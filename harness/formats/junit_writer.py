# SPDX-License-Identifier: GPL-2.0-only
"""Write JUnit XML, in the dialect that Jenkins, GitLab and GitHub Actions read."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from harness.formats.case import Case, Group

# Characters that XML 1.0 cannot contain, not even escaped.
_INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_ELEMENTS = {
    "failed": "failure",
    "inconclusive": "error",
    "skipped": "skipped",
    "known": "skipped",
}


def text(groups: Sequence[Group]) -> str:
    """The document: a test suite for each group. A case that a known issue explains is skipped,
    with the issue in its message, and an inconclusive case is an error."""
    root = ET.Element("testsuites", _counts([case for each in groups for case in each.cases]))
    for group in groups:
        _add(root, group)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add(root: ET.Element, group: Group) -> None:
    suite = ET.SubElement(root, "testsuite", {"name": _clean(group.name)} | _counts(group.cases))
    if group.properties:
        properties = ET.SubElement(suite, "properties")
        for name, value in group.properties:
            ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for case in group.cases:
        _add_case(suite, group, case)


def _add_case(suite: ET.Element, group: Group, case: Case) -> None:
    attributes = {
        "classname": _clean(group.name),
        "name": _clean(case.name),
        "time": f"{case.seconds:.3f}",
    }
    element = ET.SubElement(suite, "testcase", attributes)
    kind = _ELEMENTS.get(case.result)
    if kind:
        message = f"known issue: {case.reason}" if case.result == "known" else case.reason
        why = ET.SubElement(element, kind, {"message": _clean(message)})
        if case.details and kind != "skipped":
            why.text = _clean(case.details)


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    kinds = [_ELEMENTS.get(each.result) for each in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(each.seconds for each in cases):.3f}",
    }


def _clean(value: str) -> str:
    return _INVALID.sub("?", value)
