# SPDX-License-Identifier: GPL-2.0-only
"""Use dynamic debug and trace events in a guest's kernel."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import GuestError, UsageError
from harness.guest.guest import Guest

_TRACING = "/sys/kernel/tracing"
# "  sh-33  [000] .....  1.234567: module_get: e1000e call_site=load_module refcnt=2"
_EVENT = re.compile(r"\s*(.+)-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+): (.*)")


def debug(guest: Guest, query: str) -> None:
    """Apply a dynamic-debug query such as ``func iommu_group_release +p``. Raises UsageError if
    the kernel rejects the query."""
    control = "/sys/kernel/debug/dynamic_debug/control"
    reply = guest.run(f"echo {shlex.quote(query)} > {control}")
    if reply.status != 0:
        raise UsageError(
            f"cannot apply the dynamic-debug query {query!r}: {reply.err.strip()}",
            "the kernel needs CONFIG_DYNAMIC_DEBUG and debugfs",
        )


@dataclass(frozen=True, slots=True)
class Event:
    """A trace event.

    ``task`` and ``pid`` identify the current task. ``time`` is in seconds since boot. ``text`` is
    what the kernel prints after the event's ``name``."""

    task: str
    pid: int
    time: float
    name: str
    text: str


class Trace:
    """The trace buffer of a guest's kernel, while ``tracing`` is active."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def read(self) -> list[Event]:
        """Return the events since the previous read, oldest first, and clear the buffer."""
        out = self._guest.query(f"cat {_TRACING}/trace; : > {_TRACING}/trace")
        lines = out.splitlines()
        matches = (_EVENT.fullmatch(line) for line in lines if not line.startswith("#"))
        return [Event(m[1], int(m[2]), float(m[3]), m[4], m[5]) for m in matches if m]


def supported(guest: Guest) -> bool:
    """Whether the guest's kernel has trace events."""
    return guest.query(f"test -d {_TRACING} && echo yes") != ""


@contextlib.contextmanager
def tracing(guest: Guest, *events: str) -> Iterator[Trace]:
    """Enable trace events in the guest's kernel, such as ``module:module_get``, or all events of a
    system such as ``iommu``, and disable them when the block ends. Raises UsageError for a kernel
    without the variant "trace", and for an unknown event."""
    mounted = guest.run(f"test -d {_TRACING}/events || mount -t tracefs tracefs {_TRACING}")
    if mounted.status != 0:
        raise UsageError("this kernel has no trace events", "build it with --variant trace")
    paths = [f"{_TRACING}/events/{event.replace(':', '/')}/enable" for event in events]
    for event, path in zip(events, paths, strict=True):
        if guest.run(f"echo 1 > {shlex.quote(path)}").status != 0:
            raise UsageError(
                f"unknown trace event {event!r}", f"see {_TRACING}/available_events in the guest"
            )
    guest.run(f": > {_TRACING}/trace")
    try:
        yield Trace(guest)
    finally:
        # If the guest has died, the error that ended the block states the reason.
        with contextlib.suppress(GuestError):
            guest.run("; ".join(f"echo 0 > {shlex.quote(path)}" for path in paths))
