# SPDX-License-Identifier: GPL-2.0-only
"""Write the results of tests as JSON lines, for jobs that run pytest. Each line also has the number
of collected tests, to show the progress of the job."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from harness.host import rundir
from harness.host.text import printable
from harness.kernel.spec import KernelSpec
from harness.suite.scenario_result import ScenarioResult

# The phase that xdist reports for a test whose worker died (handle_crashitem). The cause is
# unknown: the host may have run out of memory.
_WORKER_DIED = "???"


class Property(StrEnum):
    """The names of the user properties in the report of a test."""

    FACTS = "facts"
    """The scenario, its file, kernel and machine."""
    FINDING = "finding"
    """A finding that is not from the test's own assertions."""
    WRONG_GUESS = "wrong-guess"
    """A behaviour that was guessed from the version, and that the guest contradicts."""
    HOST_TROUBLE = "host-trouble"
    """An error on this host ended the test."""
    RETRIED = "retried"
    """The error on this host that ended the first run of the test."""
    ISSUE = "issue"
    """The known issue that the test ran into."""
    KEPT = "kept"
    """The directory of one of the test's saved guests. There is one property for each guest."""
    NOT_APPLICABLE = "not-applicable"
    """The kernel or machine cannot show what the test checks."""


class Events:
    """A pytest plugin that writes the result of each test to a file when the test ends."""

    def __init__(self, path: Path) -> None:
        self._lines = rundir.JsonLines(path)
        self._failed: set[str] = set()
        self._collected = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Count the tests that one worker has collected. Every worker collects all tests."""
        self._collected = len(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            if report.nodeid in self._failed:
                return  # the teardown failed too
            if report.failed:
                self._failed.add(report.nodeid)
            self._add(_event(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            facts = _NO_FACTS | {"scenario": report.nodeid, "seconds": 0.0}
            text = printable(report.longreprtext)
            reason = text.splitlines()[-1] if text else "pytest cannot collect the file"
            result = ScenarioResult.FAILED
            self._add(facts | {"result": result, "reason": reason, "details": text})

    def _add(self, event: dict[str, object]) -> None:
        self._lines.add(event | {"collected": self._collected})

    def pytest_unconfigure(self) -> None:
        self._lines.close()


_NO_FACTS = {"scenario": "", "file": "", "kernel": "", "machine": ""}


# Part of a test's id before the number of its trial, with --iommu-trials.
TRIAL = "-trial-"
_TRIAL = re.compile(rf"^{TRIAL}\d+")


def facts(item: pytest.Item) -> dict[str, str]:
    """The scenario, its file, kernel and machine. The result is empty for a test without a
    kernel."""
    callspec = getattr(item, "callspec", None)
    spec = callspec.params.get("kernel_spec") if callspec else None
    if callspec is None or not isinstance(spec, KernelSpec):
        return {}
    machine = callspec.params.get("machine")
    return {
        "scenario": scenario(item),
        "file": str(item.path),
        "kernel": " + ".join([f"{spec.kind}:{spec.where}", *spec.changes]),
        "machine": machine.label if machine else "",
    }


def scenario(item: pytest.Item) -> str:
    """The name of a scenario: its file, its function, and its parameters except the kernel and
    machine."""
    name = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return name
    spec, machine = callspec.params.get("kernel_spec"), callspec.params.get("machine")
    if not isinstance(spec, KernelSpec):
        return name
    where = f"{spec.where}-{machine.label}" if machine else spec.where
    # A parametrized fixture that is defined before the kernel's has its parameter before it.
    before, _, after = str(callspec.id).partition(where)
    own = (before + _TRIAL.sub("", after).lstrip("-")).strip("-")
    return f"{name}[{own}]" if own else name


def _event(report: pytest.TestReport) -> dict[str, object]:
    properties = _properties(report)
    result, reason = _result(report)
    return {
        **properties.get(Property.FACTS, _NO_FACTS | {"scenario": report.nodeid}),
        "result": result,
        "reason": printable(reason),
        "seconds": round(report.duration, 3),
        "details": printable(report.longreprtext) if report.failed else "",
        "retried": printable(str(properties.get(Property.RETRIED, ""))),
        "issue": properties.get(Property.ISSUE, ""),
        "kept": [str(value) for name, value in report.user_properties if name == Property.KEPT],
    }


def add_property(report: pytest.TestReport, name: Property, value: object) -> None:
    """Add a user property to the report. xdist transfers only plain strings, not enums."""
    report.user_properties.append((name.value, value))


def _properties(report: pytest.TestReport) -> dict[str, Any]:
    """The first value of each property."""
    return dict(reversed(report.user_properties))


def is_host_trouble(report: pytest.TestReport) -> bool:
    """Whether the test failed because of this host, and not because of the kernel."""
    properties = _properties(report)
    in_trouble = Property.HOST_TROUBLE in properties
    return report.failed and in_trouble and Property.FINDING not in properties


def _result(report: pytest.TestReport) -> tuple[ScenarioResult, str]:
    """The result of a test, and the reason for it."""
    properties = _properties(report)
    if hasattr(report, "wasxfail"):
        return ScenarioResult.KNOWN_ISSUE, report.wasxfail
    if report.passed:
        return ScenarioResult.PASSED, ""
    if report.when == _WORKER_DIED:
        return ScenarioResult.INCONCLUSIVE, report.longreprtext
    if report.failed:
        # A splat of the kernel is a failure, even if the host had trouble too.
        doubtful = bool(properties.keys() & {Property.WRONG_GUESS, Property.HOST_TROUBLE})
        inconclusive = doubtful and Property.FINDING not in properties
        result = ScenarioResult.INCONCLUSIVE if inconclusive else ScenarioResult.FAILED
        return result, summary(report)
    # The longrepr of a skipped test is ("file", line, "Skipped: reason").
    is_applicable = Property.NOT_APPLICABLE not in properties
    result = ScenarioResult.SKIPPED if is_applicable else ScenarioResult.NOT_APPLICABLE
    if isinstance(report.longrepr, tuple):
        return result, report.longrepr[2].partition(": ")[2]
    return result, report.longreprtext


def summary(report: pytest.TestReport) -> str:
    """The lines of a failure that describe the error: the findings, then pytest's error lines."""
    found = (Property.FINDING, Property.WRONG_GUESS)
    texts = [str(text) for name, text in report.user_properties if name in found]
    lines = report.longreprtext.splitlines()
    return "\n".join([*texts, *(line[1:].strip() for line in lines if line.startswith("E  "))])
