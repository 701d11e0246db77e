# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's kernel tells beyond its log: dynamic debug, trace events, and
allocations that fail on demand."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import GuestError, UsageError
from harness.guest.guest import Guest, Step

_TRACING = "/sys/kernel/tracing"
# "  sh-33  [000] .....  1.234567: module_get: e1000e call_site=load_module refcnt=2"
_EVENT = re.compile(r"\s*(.+)-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+): (.*)")


def debug(guest: Guest, query: str) -> None:
    """Dynamic debug: ``func iommu_group_release +p``. Raises UsageError for a query that
    the kernel does not take."""
    control = "/sys/kernel/debug/dynamic_debug/control"
    reply = guest.run(f"echo {shlex.quote(query)} > {control}")
    if reply.number != 0:
        raise UsageError(f"the kernel takes no dynamic-debug query {query!r}")


@dataclass(frozen=True, slots=True)
class Event:
    """A trace event: of which ``task`` and process, at which ``time`` since boot, its
    ``name`` and what the kernel prints after it."""

    task: str
    pid: int
    time: float
    name: str
    text: str


class Trace:
    """The events of a guest while ``tracing`` is on; ``read`` takes them out."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def read(self) -> list[Event]:
        """The events since the last read, oldest first."""
        out = self._guest.run(f"cat {_TRACING}/trace; : > {_TRACING}/trace").out
        lines = out.decode(errors="replace").splitlines()
        matches = (_EVENT.fullmatch(line) for line in lines if not line.startswith("#"))
        return [Event(m[1], int(m[2]), float(m[3]), m[4], m[5]) for m in matches if m]


@contextlib.contextmanager
def tracing(guest: Guest, *events: str) -> Iterator[Trace]:
    """Trace events of the guest's kernel, named ``module:module_get`` or ``iommu:map``;
    off again afterwards. Raises UsageError for a kernel without the variant "trace" and
    for an event that it does not have."""
    mounted = guest.run(f"test -d {_TRACING}/events || mount -t tracefs tracefs {_TRACING}")
    if mounted.number != 0:
        raise UsageError("this kernel has no trace events", "build it with --variant trace")
    paths = [f"{_TRACING}/events/{event.replace(':', '/')}/enable" for event in events]
    for event, path in zip(events, paths, strict=True):
        if guest.run(f"echo 1 > {shlex.quote(path)}").number != 0:
            raise UsageError(f"this kernel has no trace event {event!r}")
    guest.run(f": > {_TRACING}/trace")
    try:
        yield Trace(guest)
    finally:
        # A guest that has died meanwhile is told by what killed it.
        with contextlib.suppress(GuestError):
            guest.run("; ".join(f"echo 0 > {shlex.quote(path)}" for path in paths))


_FAULTS = ("failslab", "fail_page_alloc")

# What the command printed, and how it went in the last line; guest-scripts/failnth.c.
_FAIL_NTH = "/run/fail-nth"


def fail_nth(guest: Guest, number: int, command: str) -> tuple[Step, bool]:
    """Runs a command whose ``number``th allocation fails, and says whether it made that
    many (Documentation/fault-injection). Only those of the shell's own task count: of
    what it does itself, as ``echo`` into sysfs, and of a program that it becomes with
    ``exec``. The step has no standard output. Raises UsageError for a kernel without the
    variant "fault-injection"."""
    settings = "; ".join(f"echo N > /sys/kernel/debug/{each}/ignore-gfp-wait" for each in _FAULTS)
    armed = guest.run(f"{settings}; echo 0 > /sys/kernel/debug/fail_page_alloc/min-order")
    if armed.number != 0:
        raise UsageError(
            "this kernel cannot have allocations fail", "build it with --variant fault-injection"
        )
    step = guest.step(f"failnth {number} {shlex.quote(command)} > {_FAIL_NTH}")
    return step, guest.run(f"cat {_FAIL_NTH}").out.endswith(b"injected\n")
