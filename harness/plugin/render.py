# SPDX-License-Identifier: GPL-2.0-only
"""What a failing test's report tells of a guest: what was run, said and changed, and how to
get into that state."""

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


@dataclass(slots=True)
class Watched:
    """A guest of a test, and what its kernel showed and had said when the test got it."""

    guest: Guest
    state: State
    records: int


def story(item: pytest.Item, report: pytest.TestReport, number: int, watched: Watched) -> str:
    """Of the test's guest of that number, which is saved for the shell that it names. With
    --iommu-keep-failed the report has the directory as the property KEPT."""
    guest = watched.guest
    parts = [_paragraph("what was run", guest.transcript())]
    said = [f"{each.time:12.6f} {each.text}" for each in guest.kmsg_read[watched.records :]]
    parts.append(_paragraph("what the kernel said", "\n".join(said)))
    parts.append(_paragraph("what changed", _attempt(lambda: _changes(watched))))
    shell = _attempt(lambda: _save(item, report, number, guest))
    parts.append(_paragraph("a shell in this state", shell))
    return "\n".join(parts)


def _paragraph(title: str, text: str) -> str:
    return f"-- {title}\n{printable(text) if text else 'nothing'}"


def _attempt(work: Callable[[], str]) -> str:
    """What it says, or why it cannot: the guest may be what has failed."""
    try:
        return work()
    except (HarnessError, OSError) as error:
        return f"not to be had: {error}"


def _changes(watched: Watched) -> str:
    return "\n".join(changes(watched.state, watched.guest.state()))


def _save(item: pytest.Item, report: pytest.TestReport, number: int, guest: Guest) -> str:
    doubted = item.stash[reruns.DOUBTS].doubted if reruns.DOUBTS in item.stash else ""
    kept = item.config.getoption("--iommu-keep-failed") and not doubted
    parent = rundir.create(f"failed-{item.name}-{number}") if kept else guest.directory
    state = parent / "state-at-failure"
    snapshot.save(guest, state)
    if kept:
        report.user_properties.append((events.KEPT, str(state)))
    return f"iommu-harness shell {state}"
