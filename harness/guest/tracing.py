# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's kernel tells beyond its log: dynamic debug, trace events, and
allocations that fail on demand."""

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GuestError, UsageError
from harness.guest.guest import Guest

_TRACING = "/sys/kernel/tracing"
# "  sh-33  [000] .....  1.234567: module_get: e1000e call_site=load_module refcnt=2"
_EVENT = re.compile(r"\s*(.+)-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+): (.*)")


def debug(guest: Guest, query: str) -> None:
    """Dynamic debug: ``func iommu_group_release +p``. Raises UsageError for a query that
    the kernel does not take."""
    control = "/sys/kernel/debug/dynamic_debug/control"
    reply = guest.run(f"echo {shlex.quote(query)} > {control}")
    if reply.status != 0:
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
        lines = out.splitlines()
        matches = (_EVENT.fullmatch(line) for line in lines if not line.startswith("#"))
        return [Event(m[1], int(m[2]), float(m[3]), m[4], m[5]) for m in matches if m]


@contextlib.contextmanager
def tracing(guest: Guest, *events: str) -> Iterator[Trace]:
    """Trace events of the guest's kernel, named ``module:module_get`` or ``iommu:map``;
    off again afterwards. Raises UsageError for a kernel without the variant "trace" and
    for an event that it does not have."""
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
        # A guest that has died meanwhile is told by what killed it.
        with contextlib.suppress(GuestError):
            guest.run("; ".join(f"echo 0 > {shlex.quote(path)}" for path in paths))


_FAULTS = ("failslab", "fail_page_alloc")
_DEBUGFS = "/sys/kernel/debug"

# For ``exclude``. Its error path frees what it could not get (iova_magazine_free of 6.12; 6.1
# has a kfree there, and 7.2 looks first): an oops that holds the group's mutex for ever, and
# shows of the paths around it nothing.
RCACHES = "iova_domain_init_rcaches"

# Gets the pages of a slab that has run out. Whether one has is nobody's doing here, and the
# number of an allocation should not depend on it: 6.12's does not any more. 5.10 and 6.1 count
# before they look where they are, and 7.2 has sheaves of objects that run out as well. The
# allocation itself fails by failslab.
_REFILL = "new_slab"

# More than anything makes.
_ENDLESS = 3000


@dataclass(frozen=True, slots=True)
class Failure:
    """A process whose ``number``th allocation failed, and its exit ``status``: it may well
    have got on without."""

    number: int
    status: int


def failures(guest: Guest, *what: str, exclude: str = "", step: int = 1) -> Iterator[Failure]:
    """Does something once for each allocation that it makes, or each ``step``th, with that
    one failing (Documentation/fault-injection), and ends with one time when all are made,
    which has to succeed. Whoever asks undoes what was done; what a process holds when it ends
    is let go without failures.

    ``what`` is ("write", PATH, TEXT), ("vfio", ...) as of the guest's command, or ("sh",
    COMMAND), of which only allocations of the shell's own task count and those of a program
    that it becomes with ``exec``. Objects that are allocated below the kernel function
    ``exclude`` do not fail, where it exists and the kernel heeds that (6.12 and 7.2 do, 5.10
    and 6.1 do not). Raises UsageError for a kernel without fault injection, as a prebuilt one
    may be, and GuestError where the end is no success or does not come."""
    arm(guest, exclude)
    for number in range(1, _ENDLESS, step):
        failure = fail(guest, number, *what)
        if failure is None:
            return
        yield failure
    raise GuestError(f"{shlex.join(what)} makes more than {_ENDLESS} allocations")


def fail(guest: Guest, number: int, *what: str) -> Failure | None:
    """The same, once more for the ``number``th; None where there are not so many."""
    (line,) = _told(guest, str(number), *what)
    return _failure(number, line, what)


def all_failures(guest: Guest, *what: str, exclude: str = "") -> list[Failure]:
    """The same, with nothing done between one and the next: ten times as fast."""
    arm(guest, exclude)
    lines = _told(guest, "all", *what)
    found = [_failure(number, line, what) for number, line in enumerate(lines, start=1)]
    return [each for each in found if each]


def _told(guest: Guest, *words: str) -> list[str]:
    reply = guest.run(f"failnth {shlex.join(words)}")
    if reply.status != 0:
        raise GuestError(f"failnth {shlex.join(words)} ends with status {reply.status}")
    return reply.out.splitlines()


def _failure(number: int, line: str, what: Sequence[str]) -> Failure | None:
    """None for the one that made all of its allocations."""
    how, status = line.split()
    if how == "injected":
        return Failure(number, int(status))
    if int(status) != 0:
        told = f"with no allocation failing {shlex.join(what)} ends with status {status}"
        raise GuestError(told)
    return None


def arm(guest: Guest, exclude: str = "") -> None:
    """Has all allocations that ``failnth`` of the guest counts be able to fail; see
    ``failures``."""
    lines = [f"echo N > {_DEBUGFS}/{each}/ignore-gfp-wait" for each in _FAULTS]
    lines.append(f"echo 0 > {_DEBUGFS}/fail_page_alloc/min-order")
    if guest.run(" && ".join(lines)).status != 0:
        raise UsageError("this kernel cannot have allocations fail", "build it with FAILSLAB")
    # Each has one range of functions to spare.
    for each, spared in zip(_FAULTS, (exclude, _REFILL), strict=True):
        first, end = _extent(guest, spared) if spared else (0, 0)
        directory = f"{_DEBUGFS}/{each}"
        guest.run(f"echo {first} > {directory}/reject-start; echo {end} > {directory}/reject-end")


# By a kernel's image, the address at which it begins (with KASLR each boot has its own) and
# a function. All symbols are a tenth of a second of a guest's.
_EXTENTS: dict[tuple[Path, str, str], tuple[int, int]] = {}


def _extent(guest: Guest, function: str) -> tuple[int, int]:
    """Where a function of the kernel begins, and where the next one does."""
    key = guest.boot.image, guest.run("head -n 1 /proc/kallsyms").out, function
    if key in _EXTENTS:
        return _EXTENTS[key]
    # Sorted by address; names of one address follow one another.
    found = guest.run(f"grep -A9 -w {shlex.quote(function)} /proc/kallsyms").out
    symbols = [line.split() for line in found.splitlines() if line != "--"]
    places = [(int(words[0], 16), words[3:]) for words in symbols if words[2] == function]
    if not places:
        return 0, 0
    start, module = places[0]
    addresses = (int(words[0], 16) for words in symbols)
    extent = start, next((address for address in addresses if address > start > 0), 0)
    if not module:
        _EXTENTS[key] = extent
    return extent
