# SPDX-License-Identifier: GPL-2.0-only
"""Render the sections about guests in the report of a failed test: the commands, the kernel's log,
the state changes, and how to open a shell in the final state."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from harness.errors import HarnessError
from harness.guest import snapshot
from harness.guest.guest import Guest
from harness.guest.state import State, changes
from harness.host import rundir
from harness.host.text import printable
from harness.plugin import events, reruns
from harness.plugin.events import Property
from harness.plugin.reruns import Assumptions


@dataclass(slots=True)
class StartedGuest:
    """A guest of a test, with its state and the number of its kernel-log records when the guest
    was started."""

    guest: Guest
    state: State
    records: int


def section(
    item: pytest.Item, report: pytest.TestReport, number: int, started: StartedGuest
) -> str:
    """Save a guest of the test, and render the section about it. With --iommu-keep-failed, the
    guest is saved to a directory that is kept, and the path is added to the report as a
    property."""
    guest = started.guest
    log = [f"{each.time:12.6f} {each.text}" for each in guest.kmsg_read[started.records :]]
    return "\n".join(
        (
            _paragraph("commands", guest.transcript()),
            _paragraph("kernel log", "\n".join(log)),
            _paragraph("changes", _attempt(lambda: _changes(started))),
            _paragraph(
                "a shell in this state", _attempt(lambda: _save(item, report, number, guest))
            ),
        )
    )


def _paragraph(title: str, text: str) -> str:
    return f"-- {title}\n{printable(text) if text else 'none'}"


def _attempt(work: Callable[[], str]) -> str:
    """Call ``work`` and return its result, or its error as text, because the guest may have
    failed."""
    try:
        return work()
    except (HarnessError, OSError) as error:
        return f"not available: {error}"


def _changes(started: StartedGuest) -> str:
    return "\n".join(changes(started.state, started.guest.state()))


def _save(item: pytest.Item, report: pytest.TestReport, number: int, guest: Guest) -> str:
    assumptions = item.stash.get(reruns.ASSUMPTIONS, Assumptions())
    kept = item.config.getoption("--iommu-keep-failed") and not assumptions.inverted
    parent = rundir.create(f"failed-{item.name}-{number}") if kept else guest.directory
    state = parent / "state-at-failure"
    snapshot.save(guest, state)
    if kept:
        events.add_property(report, Property.KEPT, str(state))
    return f"iommu-harness shell {state}"
