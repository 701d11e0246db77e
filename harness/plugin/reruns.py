# SPDX-License-Identifier: GPL-2.0-only
"""Rerun failed tests.

A test that ended with an error on this host is rerun once. A test that fails is rerun for each
behaviour of the kernel that it used, as if the kernel had the opposite behaviour. If the test then
passes, the evidence for that behaviour is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from _pytest.runner import runtestprotocol

from harness.host.text import printable
from harness.iommu.evidence import Evidence
from harness.plugin import events
from harness.plugin.events import Property


@dataclass(slots=True)
class Assumptions:
    """What a test assumes about its kernel.

    ``used`` has the evidence for each behaviour that the test used. ``inverted`` is the behaviour
    for which a rerun assumes the opposite, or ""."""

    inverted: str = ""
    used: dict[str, Evidence] = field(default_factory=dict)

    def shown(self, name: str, evidence: Evidence) -> bool:
        """Record that the test uses the behaviour, and return whether it must assume that the
        kernel has it."""
        self.used[name] = evidence
        return evidence.shown != (name == self.inverted)


ASSUMPTIONS = pytest.StashKey[Assumptions]()


def run(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Run the test, rerun it if it fails, and return its reports."""
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    trouble = next(filter(events.is_host_trouble, reports), None)
    if trouble:
        reports = _again(item, nextitem, Assumptions())
        for each in reports:
            text = events.summary(trouble).strip()
            events.add_property(each, Property.RETRIED, text or "an error on this host")
    failed = next((each for each in reports if each.failed), None)
    if failed is None or item.config.getoption("--iommu-plain-failures"):
        return reports
    if not events.is_host_trouble(failed):
        for name, evidence in _contradicted(item, nextitem):
            _add_contradiction(failed, name, evidence)
    return reports


def _again(
    item: pytest.Item, nextitem: pytest.Item | None, assumptions: Assumptions
) -> list[pytest.TestReport]:
    """Rerun the test without any state of its previous run."""
    item.stash = pytest.Stash()
    item.stash[ASSUMPTIONS] = assumptions
    item._initrequest()  # type: ignore[attr-defined]
    return runtestprotocol(item, log=False, nextitem=nextitem)


def _contradicted(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Iterator[tuple[str, Evidence]]:
    """Yield the behaviours that the guest contradicts: the test passes if the opposite is
    assumed."""
    used = dict(item.stash.get(ASSUMPTIONS, Assumptions()).used)
    for name, evidence in used.items():
        if evidence.by != "user" and all(
            each.passed for each in _again(item, nextitem, Assumptions(name))
        ):
            yield name, evidence


def _add_contradiction(report: pytest.TestReport, name: str, evidence: Evidence) -> None:
    """Add a contradiction to the report. A wrong guess makes the test inconclusive. A contradiction
    between the source and the guest is a failure."""
    word = "not to have" if evidence.shown else "to have"
    text = f"this kernel seems {word} {name}, contrary to the evidence: {evidence.why}"
    report.longrepr = f"{printable(text)}\n\n{report.longreprtext}"
    kind = Property.WRONG_GUESS if evidence.guess else Property.FINDING
    events.add_property(report, kind, text)
