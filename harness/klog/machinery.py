# SPDX-License-Identifier: GPL-2.0-only
"""Machinery: functions in call traces that are not to blame.

These functions detect, print and handle bugs, enter the kernel, or are helpers that all code calls
(allocators, locks, strings, lists, reference counts). The innermost other function is to blame.
The names are in machinery.toml.
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
_MACHINERY = (*_LOCKING, "entry", "scheduler", "helpers", "queues", *_OF_MODULES)


@dataclass(frozen=True, slots=True)
class _Names:
    """The names in tables: plain names in a set, and all other names as one pattern. Leading
    underscores of a function are ignored."""

    plain: frozenset[str]
    pattern: re.Pattern[str]

    def has(self, name: str) -> bool:
        known = name in self.plain or name.lstrip("_") in self.plain
        return known or self.pattern.fullmatch(name) is not None


# The patterns are compiled on first use, because most commands do not read splats.
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
    """Return the name of a function without compiler suffixes: ``.isra.0``, ``.constprop.0``,
    ``.part.0``, ``.cold``."""
    return function if function[:1] == "." else function.partition(".")[0]


@functools.lru_cache(maxsize=1 << 14)
def named(function: str) -> str:
    """Return the name to print for a function, which is the same on all architectures: ``sys_NAME``
    for the wrappers of a system call, and the path for a mangled Rust name."""
    name = plain(function)
    if name[:2] == "_R":
        return demangled(name)
    if name[:2] in {"__", "Sy", "SY", "co"} and (found := _SYSCALL.fullmatch(name)):
        return f"sys_{found['name']}"
    return name


@functools.lru_cache(maxsize=1 << 14)
def is_machinery(function: str) -> bool:
    """Whether the function is machinery, and so is not to blame. Names of allocators end in
    ``_noprof`` since allocation profiling (6.10, linux/alloc_tag.h)."""
    return _names(*_MACHINERY).has(plain(function).removesuffix("_noprof"))


@functools.lru_cache(maxsize=1 << 14)
def is_modular(function: str) -> bool:
    """Whether a module can contain this machinery. All other machinery is only in vmlinux."""
    return _names(*_OF_MODULES).has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def locks(function: str) -> bool:
    """Whether the function only acquires or releases a lock, waits for work, or reports. For
    lockdep all other functions can be to blame, including the scheduler and allocators."""
    return _names(*_LOCKING, "flushes", "drains").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def reports(function: str) -> bool:
    """Whether the function detects bugs, or is a symbol without code."""
    return _names("boundaries", "reports").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def schedules(function: str) -> bool:
    """Whether the function schedules, waits or idles."""
    return _names("scheduler").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def prints(function: str) -> bool:
    """Whether the function prints a splat or belongs to lockdep. At the head of a call trace, such
    a function does not locate the bug."""
    return _names("printing").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def allocates(function: str) -> bool:
    """Whether the function is machinery or allocates, and so is not to blame for a leak."""
    return is_machinery(function) or _names("allocators").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def waits_for_work(function: str) -> bool:
    """Whether the function is machinery or waits for work, and so is not to blame if its caller
    passes it bad work."""
    return is_machinery(function) or _names("flushes").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def locks_owned(function: str) -> bool:
    """Whether the function is machinery, locks a socket or waits for work, and so is not to blame
    for a bug in the lock itself."""
    return is_machinery(function) or _names("sockets", "flushes", "drains").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def queues(function: str) -> bool:
    """Whether the function queues work."""
    return _names("queues").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def interrupts(function: str) -> bool:
    """Whether the frames after the function are the interrupted code."""
    return _names("interrupts").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def dispatches(function: str) -> bool:
    """Whether the function dispatches work to other functions."""
    return _names("dispatch").has(named(function))


@functools.lru_cache(maxsize=1 << 14)
def runs_tests(function: str) -> bool:
    """Whether the function runs tests. A test can have the name of the helper that it tests."""
    return _names("runners").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def faults(function: str) -> bool:
    """Whether the function handles page faults of user space or of the kernel."""
    return _names("faults").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def internal(function: str) -> bool:
    """Whether a dispatcher calls the function as a part of itself, not as the dispatched work."""
    return _names("internal").has(plain(function))


@functools.lru_cache(maxsize=1 << 14)
def waits(function: str) -> bool:
    """Whether the function only acquires a lock or waits. A hang in it is blamed on the caller."""
    return _names("waits", "flushes", "drains").has(plain(function))
