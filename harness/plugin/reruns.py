# SPDX-License-Identifier: GPL-2.0-only
"""Which tests are run again, and what follows from that.

One that this host has kept from an end is run once more. One that fails is run again for
each behaviour of the kernel that it went by, as if the kernel did the opposite: where it passes
then, the belief is what is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from _pytest.runner import runtestprotocol

from harness.host.text import printable
from harness.iommu.evidence import Evidence
from harness.plugin import events


@dataclass(slots=True)
class Doubts:
    """``relied`` are the behaviours that a test went by, ``doubted`` the one that it is run
    with as if the opposite held."""

    doubted: str = ""
    relied: dict[str, Evidence] = field(default_factory=dict)

    def shown(self, name: str, evidence: Evidence) -> bool:
        """Whether the test shall take it that the kernel shows the behaviour."""
        self.relied[name] = evidence
        return evidence.shown != (name == self.doubted)


DOUBTS = pytest.StashKey[Doubts]()


def run(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """The reports of the test."""
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    trouble = next(filter(events.is_host_trouble, reports), None)
    if trouble:
        reports = _again(item, nextitem, Doubts())
        for each in reports:
            text = events.gist(trouble).strip()
            each.user_properties.append((events.RETRIED, text or "the host"))
    failed = next((each for each in reports if each.failed), None)
    if failed is None or item.config.getoption("--iommu-plain-failures"):
        return reports
    if not events.is_host_trouble(failed):
        for name, evidence in _passing(item, nextitem):
            _doubt(failed, name, evidence)
    return reports


def _again(
    item: pytest.Item, nextitem: pytest.Item | None, doubts: Doubts
) -> list[pytest.TestReport]:
    """Afresh: nothing of the run before is left."""
    item.stash = pytest.Stash()
    item.stash[DOUBTS] = doubts
    item._initrequest()  # type: ignore[attr-defined]
    return runtestprotocol(item, log=False, nextitem=nextitem)


def _passing(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[tuple[str, Evidence]]:
    """The behaviours with whose opposite the test passes."""
    relied = dict(item.stash.get(DOUBTS, Doubts()).relied)
    for name, evidence in relied.items():
        if evidence.by != "user" and all(
            each.passed for each in _again(item, nextitem, Doubts(name))
        ):
            yield name, evidence


def _doubt(report: pytest.TestReport, name: str, evidence: Evidence) -> None:
    """A guess may be wrong, and says nothing then; what the source says and the guest
    contradicts is a failure."""
    word = "not to have" if evidence.shown else "to have"
    text = f"this kernel seems {word} {name}, against what is believed: {evidence.why}"
    report.longrepr = f"{printable(text)}\n\n{report.longreprtext}"
    doubtful = events.INCONCLUSIVE if evidence.guess else events.FOUND
    report.user_properties.append((doubtful, text))
