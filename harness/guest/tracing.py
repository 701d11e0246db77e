# SPDX-License-Identifier: GPL-2.0-only
"""Dynamic debug and trace events of a guest's kernel."""

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
    """Apply a dynamic-debug query, as ``func iommu_group_release +p``. Raises UsageError if
    the kernel rejects it."""
    control = "/sys/kernel/debug/dynamic_debug/control"
    reply = guest.run(f"echo {shlex.quote(query)} > {control}")
    if reply.status != 0:
        raise UsageError(f"the kernel rejects the dynamic-debug query {query!r}")


@dataclass(frozen=True, slots=True)
class Event:
    """A trace event: its ``task`` and PID, its ``time`` in seconds since boot, its ``name`` and
    the ``text`` that the kernel prints after the name."""

    task: str
    pid: int
    time: float
    name: str
    text: str


class Trace:
    """The events of a guest while ``tracing`` is active; ``read`` removes them from the buffer."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def read(self) -> list[Event]:
        """The events since the previous read, oldest first."""
        out = self._guest.run(f"cat {_TRACING}/trace; : > {_TRACING}/trace").out
        lines = out.splitlines()
        matches = (_EVENT.fullmatch(line) for line in lines if not line.startswith("#"))
        return [Event(m[1], int(m[2]), float(m[3]), m[4], m[5]) for m in matches if m]


@contextlib.contextmanager
def tracing(guest: Guest, *events: str) -> Iterator[Trace]:
    """Enable trace events of the guest's kernel, as ``module:module_get`` or ``iommu:map``, while
    the context is active. Raises UsageError for a kernel without the variant "trace", and for
    an unknown event."""
    mounted = guest.run(f"test -d {_TRACING}/events || mount -t tracefs tracefs {_TRACING}")
    if mounted.status != 0:
        raise UsageError("this kernel has no trace events", "build it with --variant trace")
    paths = [f"{_TRACING}/events/{event.replace(':', '/')}/enable" for event in events]
    for event, path in zip(events, paths, strict=True):
        if guest.run(f"echo 1 > {shlex.quote(path)}").status != 0:
            raise UsageError(f"this kernel has no trace event {event!r}")
    guest.run(f": > {_TRACING}/trace")
    try:
        yield Trace(guest)
    finally:
        # If the guest has died, the error that ended the context names the reason.
        with contextlib.suppress(GuestError):
            guest.run("; ".join(f"echo 0 > {shlex.quote(path)}" for path in paths))
