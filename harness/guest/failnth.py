# SPDX-License-Identifier: GPL-2.0-only
"""Make allocations in a guest's kernel fail, one at a time
(Documentation/fault-injection/fault-injection.rst).

The guest's command ``failnth`` (guest-scripts/commands/failnth.c) runs an operation in a child
process and makes its Nth allocation fail. An operation is ("write", PATH, TEXT), ("vfio", ...)
with the arguments of the guest's command ``vfio``, or ("sh", COMMAND). For a shell command, only
allocations of the shell's own task count, including a program that replaces it with ``exec``.
Allocations do not fail while the process exits and releases its resources. If the operation
succeeds, the caller must undo it.

``exclude`` is a kernel function below which allocations of objects do not fail. It has no effect
if the kernel does not have the function, or cannot exclude it (6.12 and 7.2 can, 5.10 and 6.1
cannot).
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GuestError, UsageError
from harness.guest.guest import Guest

_FAULTS = ("failslab", "fail_page_alloc")
_DEBUGFS = "/sys/kernel/debug"

# A function to exclude. In 6.12 its error path frees what it could not allocate
# (iova_magazine_free; 6.1 calls kfree there, and 7.2 checks first). This oopses with the group's
# mutex held, which hides the error paths around it.
RCACHES = "iova_domain_init_rcaches"

# The function that allocates the pages of a new slab when the current one is used up. When that
# happens does not depend on the operation, so these allocations must not be numbered. In 6.12
# they are not, because this function is excluded. 5.10 and 6.1 count an allocation before they
# check the excluded range, and 7.2 also has sheaves of objects, which are used up too. The
# allocation of the object itself still fails, by failslab.
_REFILL = "new_slab"

# More allocations than any operation makes.
_MAX_ALLOCATIONS = 3000


@dataclass(frozen=True, slots=True)
class Failure:
    """A run of the operation in which one allocation failed.

    ``number`` is the number of the allocation, from 1. ``status`` is the exit status of the
    process. It may be 0, because the operation may succeed without that allocation."""

    number: int
    status: int


def fail_each(guest: Guest, *what: str, exclude: str = "", step: int = 1) -> Iterator[Failure]:
    """Run the operation once for each of its allocations, or only for every ``step``th allocation,
    with that allocation failing, and yield each Failure. The last run is without a failure, and
    must succeed.

    Raises UsageError for a kernel without fault injection (prebuilt kernels often lack it), and
    GuestError if the last run fails, or if the operation makes more than 3000 allocations."""
    arm(guest, exclude)
    for number in range(1, _MAX_ALLOCATIONS, step):
        failure = fail_nth(guest, number, *what)
        if failure is None:
            return
        yield failure
    raise GuestError(f"{shlex.join(what)} makes more than {_MAX_ALLOCATIONS} allocations")


def fail_nth(guest: Guest, number: int, *what: str) -> Failure | None:
    """Run the operation with its ``number``th allocation failing. Returns None if the operation
    makes fewer allocations."""
    (line,) = _run(guest, str(number), *what)
    return _failure(number, line, what)


def fail_all(guest: Guest, *what: str, exclude: str = "") -> list[Failure]:
    """As ``fail_each``, but with all runs in one guest command, which is ten times as fast. Returns
    all failures."""
    arm(guest, exclude)
    lines = _run(guest, "all", *what)
    found = [_failure(number, line, what) for number, line in enumerate(lines, start=1)]
    return [each for each in found if each]


def _run(guest: Guest, *words: str) -> list[str]:
    result = guest.run(f"failnth {shlex.join(words)}")
    if result.status != 0:
        raise GuestError(f"failnth {shlex.join(words)} exited with status {result.status}")
    return result.out.splitlines()


def _failure(number: int, line: str, what: Sequence[str]) -> Failure | None:
    """Parse a line that the command ``failnth`` prints. Returns None for the run without a
    failure. Raises GuestError if that run failed."""
    how, status = line.split()
    if how == "injected":
        return Failure(number, int(status))
    if int(status) != 0:
        raise GuestError(
            f"{shlex.join(what)} exited with status {status}, although no allocation failed"
        )
    return None


def arm(guest: Guest, exclude: str = "") -> None:
    """Configure fault injection such that each allocation that ``failnth`` counts can fail. Raises
    UsageError for a kernel without fault injection."""
    lines = [f"echo N > {_DEBUGFS}/{each}/ignore-gfp-wait" for each in _FAULTS]
    lines.append(f"echo 0 > {_DEBUGFS}/fail_page_alloc/min-order")
    if guest.run(" && ".join(lines)).status != 0:
        raise UsageError(
            "this kernel has no fault injection for allocations",
            "build it with CONFIG_FAULT_INJECTION_DEBUG_FS, CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC"
            " and CONFIG_FAULT_INJECTION_STACKTRACE_FILTER",
        )
    # Each kind of fault has one range of excluded addresses.
    for each, function in zip(_FAULTS, (exclude, _REFILL), strict=True):
        first, end = _extent(guest, function) if function else (0, 0)
        directory = f"{_DEBUGFS}/{each}"
        guest.run(f"echo {first} > {directory}/reject-start; echo {end} > {directory}/reject-end")


# The keys are a kernel's image, its start address (which KASLR changes in each boot) and a
# function. The cache is needed because reading all symbols takes a guest 0.1 s.
_EXTENTS: dict[tuple[Path, str, str], tuple[int, int]] = {}


def _extent(guest: Guest, function: str) -> tuple[int, int]:
    """The addresses of a kernel function and of the function after it; (0, 0) if the kernel does
    not have the function."""
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
