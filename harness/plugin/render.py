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


@dataclass(slots=True)
class Watched:
    """A guest of a test, and what its kernel showed and had said when the test got it."""

    guest: Guest
    state: State
    records: int


def story(item: pytest.Item, number: int, watched: Watched) -> str:
    """Of the test's guest of that number, which is kept for the shell that it names."""
    guest = watched.guest
    parts = [_paragraph("what was run", guest.transcript())]
    said = [f"{each.time:12.6f} {each.text}" for each in guest.kmsg_read[watched.records :]]
    parts.append(_paragraph("what the kernel said", "\n".join(said)))
    parts.append(_paragraph("what changed", _attempt(lambda: _changes(watched))))
    parts.append(_paragraph("a shell in this state", _attempt(lambda: _keep(item, number, guest))))
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


def _keep(item: pytest.Item, number: int, guest: Guest) -> str:
    if item.config.getoption("--iommu-keep-failed"):
        directory = rundir.create(f"failed-{item.name}-{number}")
    else:
        directory = guest.directory
    snapshot.save(guest, directory / "state-at-failure")
    return f"iommu-harness shell {directory / 'state-at-failure'}"
