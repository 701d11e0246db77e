# SPDX-License-Identifier: GPL-2.0-only
"""Make allocations of a guest's kernel fail, one at a time
(Documentation/fault-injection/fault-injection.rst).

The command ``failnth`` of the guest (guest-scripts/commands/failnth.c) runs an operation whose
Nth allocation fails. An operation is ("write", PATH, TEXT), ("vfio", ...) with the arguments of
the guest's command, or ("sh", COMMAND), of which only the allocations of the shell's own task
count, and those of a program that it becomes with ``exec``. What a process holds when it exits
is released without failures. The caller undoes an operation that succeeded.

Objects allocated below the kernel function ``exclude`` do not fail, if the kernel has that
function and supports this (6.12 and 7.2 do, 5.10 and 6.1 do not).
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GuestError, UsageError
from harness.guest.guest import Guest

_FAULTS = ("failslab", "fail_page_alloc")
_DEBUGFS = "/sys/kernel/debug"

# For ``exclude``. Its error path frees what it could not allocate (iova_magazine_free of 6.12;
# 6.1 has a kfree there, and 7.2 checks first): an oops that holds the group's mutex, and hides
# the error paths around it.
RCACHES = "iova_domain_init_rcaches"

# Allocates the pages of a slab that has run out. Whether one has run out does not depend on the
# operation, and so neither should the number of an allocation: in 6.12, with this function
# excluded, it does not. 5.10 and 6.1 count an allocation before they check the excluded range,
# and 7.2 has sheaves of objects that run out as well. The allocation of the object itself fails
# by failslab.
_REFILL = "new_slab"

# More allocations than any operation makes.
_ENDLESS = 3000


@dataclass(frozen=True, slots=True)
class Failure:
    """A process whose ``number``th allocation failed, and its exit ``status``, which may be 0:
    the operation may succeed without that allocation."""

    number: int
    status: int


def fail_each(guest: Guest, *what: str, exclude: str = "", step: int = 1) -> Iterator[Failure]:
    """Run the operation once for each of its allocations, or each ``step``th, with that one
    failing, and finally once without a failure, which must succeed. Raises UsageError for a
    kernel without fault injection, as a prebuilt one may be, and GuestError if the last run
    fails or never happens."""
    arm(guest, exclude)
    for number in range(1, _ENDLESS, step):
        failure = fail_nth(guest, number, *what)
        if failure is None:
            return
        yield failure
    raise GuestError(f"{shlex.join(what)} makes more than {_ENDLESS} allocations")


def fail_nth(guest: Guest, number: int, *what: str) -> Failure | None:
    """Run the operation with its ``number``th allocation failing; None if it makes fewer."""
    (line,) = _run(guest, str(number), *what)
    return _failure(number, line, what)


def fail_all(guest: Guest, *what: str, exclude: str = "") -> list[Failure]:
    """As ``fail_each``, without returning to the caller between the runs: ten times as fast."""
    arm(guest, exclude)
    lines = _run(guest, "all", *what)
    found = [_failure(number, line, what) for number, line in enumerate(lines, start=1)]
    return [each for each in found if each]


def _run(guest: Guest, *words: str) -> list[str]:
    result = guest.run(f"failnth {shlex.join(words)}")
    if result.status != 0:
        raise GuestError(f"failnth {shlex.join(words)} exits with status {result.status}")
    return result.out.splitlines()


def _failure(number: int, line: str, what: Sequence[str]) -> Failure | None:
    """None for the run without a failure."""
    how, status = line.split()
    if how == "injected":
        return Failure(number, int(status))
    if int(status) != 0:
        text = f"with no allocation failing {shlex.join(what)} exits with status {status}"
        raise GuestError(text)
    return None


def arm(guest: Guest, exclude: str = "") -> None:
    """Configure the kernel so that all allocations that ``failnth`` counts can fail."""
    lines = [f"echo N > {_DEBUGFS}/{each}/ignore-gfp-wait" for each in _FAULTS]
    lines.append(f"echo 0 > {_DEBUGFS}/fail_page_alloc/min-order")
    if guest.run(" && ".join(lines)).status != 0:
        raise UsageError("this kernel cannot make allocations fail", "build it with FAILSLAB")
    # Each kind has one range of excluded addresses.
    for each, function in zip(_FAULTS, (exclude, _REFILL), strict=True):
        first, end = _extent(guest, function) if function else (0, 0)
        directory = f"{_DEBUGFS}/{each}"
        guest.run(f"echo {first} > {directory}/reject-start; echo {end} > {directory}/reject-end")


# By a kernel's image, its start address (with KASLR each boot has another) and a function.
# Reading all symbols takes a guest a tenth of a second.
_EXTENTS: dict[tuple[Path, str, str], tuple[int, int]] = {}


def _extent(guest: Guest, function: str) -> tuple[int, int]:
    """The address of a function of the kernel, and that of the next function."""
    key = guest.boot.image, guest.run("head -n 1 /proc/kallsyms").out, function
    if key in _EXTENTS:
        return _EXTENTS[key]
    # The symbols are sorted by address, and several may share one.
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
