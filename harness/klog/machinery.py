# SPDX-License-Identifier: GPL-2.0-only
"""Machinery: functions in call traces that are not to blame.

They detect, print and handle bugs; or are helpers that all code calls (allocators, locks,
strings, lists, reference counts); or enter the kernel. The innermost other function is to
blame. The names are in machinery.toml.
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
    """The names of tables: plain names in a set, all others as one pattern. Leading
    underscores of a function are ignored."""

    plain: frozenset[str]
    pattern: re.Pattern[str]

    def has(self, name: str) -> bool:
        known = name in self.plain or name.lstrip("_") in self.plain
        return known or self.pattern.fullmatch(name) is not None


# Compiled on first use: most commands read no splat.
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
    """The name of a function without suffixes of the compiler: ``.isra.0``,
    ``.constprop.0``, ``.part.0``, ``.cold``."""
    return function if function[:1] == "." else function.partition(".")[0]


@functools.lru_cache(maxsize=1 << 14)
def named(function: str) -> str:
    """The name to print for a function, the same on all architectures: ``sys_NAME`` for the
    wrappers of a system call, the path for a mangled name of Rust."""
    name = plain(function)
    if name[:2] == "_R":
        return demangled(name)
    if name[:2] in {"__", "Sy", "SY", "co"} and (found := _SYSCALL.fullmatch(name)):
        return f"sys_{found['name']}"
    return name


@functools.lru_cache(maxsize=1 << 14)
def is_machinery(function: str) -> bool:
    """True if the function is not to blame. Names of allocators end in ``_noprof`` since
    allocation profiling (6.10, linux/alloc_tag.h)."""
    return _names(*_MACHINERY).has(plain(function).removesuffix("_noprof"))


@functools.lru_cache(maxsize=1 << 14)
def is_modular(function: str) -> bool:
    """True for machinery that a module can contain; all other is in vmlinux only."""
    return _names(*_OF_MODULES).has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def locks(function: str) -> bool:
    """True if it only acquires or releases a lock, waits for work, or reports. For lockdep all
    other functions can be to blame, the scheduler and allocators included."""
    return _names(*_LOCKING, "flushes").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def reports(function: str) -> bool:
    """True if it detects bugs, or is a symbol without code."""
    return _names("boundaries", "reports").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def schedules(function: str) -> bool:
    """True if it schedules, waits or idles."""
    return _names("scheduler").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def prints(function: str) -> bool:
    """True if it prints a splat, or belongs to lockdep: the head of a trace that locates
    nothing."""
    return _names("printing").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def allocates(function: str) -> bool:
    """True if it is machinery or allocates: not to blame for a leak."""
    return is_machinery(function) or _names("allocators").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def locks_owned(function: str) -> bool:
    """True if it is machinery, locks a socket or waits for work: not to blame for a bug of the
    lock itself."""
    return is_machinery(function) or _names("sockets", "flushes").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def interrupts(function: str) -> bool:
    """True if the frames after it are the interrupted code."""
    return _names("interrupts").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def dispatches(function: str) -> bool:
    """True if it dispatches work to other functions."""
    return _names("dispatch").has(named(function))


@functools.lru_cache(maxsize=1 << 14)
def runs_tests(function: str) -> bool:
    """True if it runs tests; a test can have the name of a helper that it tests."""
    return _names("runners").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def faults(function: str) -> bool:
    """True if it handles page faults of user space or of the kernel."""
    return _names("faults").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def internal(function: str) -> bool:
    """True if it is called by a dispatcher and part of it, not the dispatched work."""
    return _names("internal").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def waits(function: str) -> bool:
    """True if it only acquires a lock or waits; a task hung there is blamed on the caller."""
    return _names("waits", "flushes").has(plain(function))
