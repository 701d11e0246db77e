# SPDX-License-Identifier: GPL-2.0-only
"""Functions that a report shows and that are not what it is about.

What detects, prints and handles trouble, what everything calls (allocators, locks,
strings, lists, reference counts), and what enters the kernel. A report is about the
innermost function that is none of these. The names are in machinery.toml.
"""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.klog.rust import demangled

_TABLES: dict[str, str] = tomllib.loads(Path(__file__).with_name("machinery.toml").read_text())
_LOCKING = ("boundaries", "reports", "locks", "messages")
_OF_MODULES = ("drivers", "inlines", "transforms")
_MACHINERY = (*_LOCKING, "entry", "scheduler", "helpers", *_OF_MODULES)


@dataclass(frozen=True, slots=True)
class _Names:
    """Those of tables: the plain as they are, the others as a pattern. An inner form of one,
    with leading underscores, is one as well."""

    plain: frozenset[str]
    pattern: re.Pattern[str]

    def has(self, name: str) -> bool:
        known = name in self.plain or name.lstrip("_") in self.plain
        return known or self.pattern.fullmatch(name) is not None


# Compiled when a report is read, which most commands do not.
@functools.cache
def _names(*tables: str) -> _Names:
    names = [name for table in tables for name in _TABLES[table].split()]
    patterns = (f"(?:{name})" for name in names if not name.isidentifier())
    return _Names(
        frozenset(filter(str.isidentifier, names)), re.compile(f"_*(?:{'|'.join(patterns)})")
    )


_SYSCALL = re.compile(
    r"(?:__(?:x64|ia32|x32|arm64|riscv|s390x?|powerpc|se|do)_(?:compat_)?sys_|SyS_|SYSC_"
    r"|compat_SyS_)(?P<name>\w+)"
)


def plain(function: str) -> str:
    """A function's name without what the compiler appended to it: ``.isra.0``,
    ``.constprop.0``, ``.part.0``, ``.cold``."""
    return function if function[:1] == "." else function.partition(".")[0]


@functools.lru_cache(maxsize=1 << 14)
def named(function: str) -> str:
    """The name to call a function by, the same on every architecture: ``sys_NAME`` for
    each of a system call's wrappers, the path of what Rust has mangled."""
    name = plain(function)
    if name[:2] == "_R":
        return demangled(name)
    if name[:2] in {"__", "Sy", "SY", "co"} and (found := _SYSCALL.fullmatch(name)):
        return f"sys_{found['name']}"
    return name


@functools.lru_cache(maxsize=1 << 14)
def is_machinery(function: str) -> bool:
    """Whether a report that shows the function is about some other. ``_noprof`` ends the
    names of allocators since they are profiled (6.10, linux/alloc_tag.h)."""
    return _names(*_MACHINERY).has(plain(function).removesuffix("_noprof"))


@functools.lru_cache(maxsize=1 << 14)
def of_modules(function: str) -> bool:
    """Whether it is machinery that a module can have; the rest is the kernel's own."""
    return _names(*_OF_MODULES).has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def locks(function: str) -> bool:
    """Whether it only takes or gives back a lock, or reports: of what lockdep finds, all
    others that take the lock can be to blame, the scheduler and allocators among them."""
    return _names(*_LOCKING).has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def reports(function: str) -> bool:
    """Whether it finds that there is something to report, or is no code at all."""
    return _names("boundaries", "reports").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def schedules(function: str) -> bool:
    """Whether it is part of the scheduler, waits, or is idle."""
    return _names("scheduler").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def prints(function: str) -> bool:
    """Whether it is what prints a report, at the head of its trace, or lockdep's own
    functions, without which such a trace says nothing of where."""
    return _names("printing").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def interrupts(function: str) -> bool:
    """Whether what it has interrupted is what follows in a trace."""
    return _names("interrupts").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def dispatches(function: str) -> bool:
    """Whether it hands work to what does it."""
    return _names("dispatch").has(named(function))


@functools.lru_cache(maxsize=1 << 14)
def runs_tests(function: str) -> bool:
    """Whether it calls a test, which can have the name of what it tests."""
    return _names("runners").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def faults(function: str) -> bool:
    """Whether it handles a page fault, of user space or of the kernel's access to it."""
    return _names("faults").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def internal(function: str) -> bool:
    """Whether it is part of what dispatches, in spite of being inside of it."""
    return _names("internal").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def waits(function: str) -> bool:
    """Whether it only takes a lock, so that a task that hangs there is about its caller."""
    return _names("waits").has(plain(function))
