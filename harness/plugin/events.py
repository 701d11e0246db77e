# SPDX-License-Identifier: GPL-2.0-only
"""What became of each test, as JSON lines: for jobs that run pytest underneath."""

from pathlib import Path

import pytest

from harness.host import rundir
from harness.host.text import printable
from harness.kernel.spec import KernelSpec

NOT_APPLICABLE = "not applicable: "

# Properties of a report: where the test ran, what is wrong with it beside what it asserts
# itself, and what else than the kernel may be to blame: this host, or what is believed of it.
FACTS, FOUND, INCONCLUSIVE, HOST = "facts", "found", "inconclusive", "host"

# Why the test has been run once more: what the host has done to it the first time; and which
# known issue it has run into.
RETRIED, ISSUE = "retried", "issue"

# The directory of a guest of a failed test that was kept; one for each guest.
KEPT = "kept"

# What xdist calls the part of a test in which its worker died (handle_crashitem), of which
# nothing else is known: it may be that the host has no memory left.
_WORKER_DIED = "???"


class Events:
    """Writes down what became of each test, as it happens."""

    def __init__(self, path: Path) -> None:
        self._lines = rundir.JsonLines(path)
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            if report.nodeid in self._failed:
                return  # its teardown fails too
            if report.failed:
                self._failed.add(report.nodeid)
            self._lines.add(_event(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            facts = {"scenario": report.nodeid, "kernel": "", "machine": "", "seconds": 0.0}
            text = printable(report.longreprtext)
            reason = text.splitlines()[-1] if text else "cannot be collected"
            self._lines.add(facts | {"result": "failed", "reason": reason, "story": text})

    def pytest_unconfigure(self) -> None:
        self._lines.close()


def facts(item: pytest.Item) -> dict[str, str]:
    """Which scenario it is, and where it runs; nothing of a test that has no kernel."""
    callspec = getattr(item, "callspec", None)
    spec = callspec.params.get("kernel_spec") if callspec else None
    if callspec is None or not isinstance(spec, KernelSpec):
        return {}
    machine = callspec.params.get("machine")
    return {
        "scenario": scenario(item),
        "kernel": " + ".join([f"{spec.kind}:{spec.where}", *spec.changes]),
        "machine": machine.name if machine else "",
    }


def scenario(item: pytest.Item) -> str:
    """Its file and name, with its own parameters and not where it runs."""
    name = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return name
    spec, machine = callspec.params.get("kernel_spec"), callspec.params.get("machine")
    if not isinstance(spec, KernelSpec):
        return name
    where = f"{spec.where}-{machine.name}" if machine else spec.where
    own = str(callspec.id).removeprefix(where).strip("-")
    return f"{name}[{own}]" if own else name


def _event(report: pytest.TestReport) -> dict[str, object]:
    facts = next((value for name, value in report.user_properties if name == FACTS), None)
    result, reason = _result(report)
    return {
        **(facts if isinstance(facts, dict) else _unknown(report)),
        "result": result,
        "reason": printable(reason),
        "seconds": round(report.duration, 3),
        "story": printable(report.longreprtext) if report.failed else "",
        "retried": printable(_property(report, RETRIED)),
        "issue": _property(report, ISSUE),
        "kept": [str(value) for name, value in report.user_properties if name == KEPT],
    }


def _property(report: pytest.TestReport, wanted: str) -> str:
    found = (str(value) for name, value in report.user_properties if name == wanted)
    return next(found, "")


def is_host_trouble(report: pytest.TestReport) -> bool:
    """Whether this host is to blame for what the report says."""
    names = {name for name, _ in report.user_properties}
    return report.failed and HOST in names and FOUND not in names


def _unknown(report: pytest.TestReport) -> dict[str, str]:
    """Of a test that has no kernel."""
    return {"scenario": report.nodeid, "kernel": "", "machine": ""}


def _result(report: pytest.TestReport) -> tuple[str, str]:
    """What became of a test, in the words of the matrix, and why."""
    if hasattr(report, "wasxfail"):
        return "known", report.wasxfail
    if report.passed:
        return "passed", ""
    if report.when == _WORKER_DIED:
        return "inconclusive", report.longreprtext
    if report.failed:
        names = {name for name, _ in report.user_properties}
        # What the kernel itself reports stands, whatever else went wrong.
        inconclusive = bool(names & {INCONCLUSIVE, HOST}) and FOUND not in names
        return "inconclusive" if inconclusive else "failed", gist(report)
    # ("file", line, "Skipped: reason")
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    reason = reason.removeprefix("Skipped: ")
    if reason.startswith(NOT_APPLICABLE):
        return "not-applicable", reason.removeprefix(NOT_APPLICABLE)
    return "skipped", reason


def gist(report: pytest.TestReport) -> str:
    """The lines of a failure that say what was wrong: the kernel's, then the test's."""
    properties = report.user_properties
    texts = [str(text) for name, text in properties if name in (FOUND, INCONCLUSIVE)]
    lines = report.longreprtext.splitlines()
    return "\n".join([*texts, *(line[1:].strip() for line in lines if line.startswith("E  "))])
