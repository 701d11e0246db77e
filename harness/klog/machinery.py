# SPDX-License-Identifier: GPL-2.0-only
"""Functions that a report shows and that are not what it is about.

What detects, prints and handles trouble, what everything calls (allocators, locks,
strings, lists, reference counts), and what enters the kernel. A report is about the
innermost function that is none of these. The names are in machinery.toml.
"""

import functools
import re
import tomllib
from pathlib import Path

_TABLES: dict[str, str] = tomllib.loads(Path(__file__).with_name("machinery.toml").read_text())
_MACHINERY = ("boundaries", "reports", "entry", "scheduler", "helpers", "transforms")


# Compiled when a report is read, which most commands do not.
@functools.cache
def _pattern(*tables: str) -> re.Pattern[str]:
    names = (name for table in tables for name in _TABLES[table].split())
    return re.compile("|".join(f"(?:{name})" for name in names))


# An inner form of what is machinery, with leading underscores, is machinery as well.
@functools.cache
def _machinery() -> re.Pattern[str]:
    return re.compile(f"_*(?:{_pattern(*_MACHINERY).pattern})")


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
    each of a system call's wrappers."""
    name = plain(function)
    if name[:2] in {"__", "Sy", "SY", "co"} and (found := _SYSCALL.fullmatch(name)):
        return f"sys_{found['name']}"
    return name


@functools.lru_cache(maxsize=1 << 14)
def is_machinery(function: str) -> bool:
    """Whether a report that shows the function is about some other. ``_noprof`` ends the
    names of allocators since they are profiled (6.10, linux/alloc_tag.h)."""
    return _machinery().fullmatch(plain(function).removesuffix("_noprof")) is not None


@functools.lru_cache(maxsize=1 << 14)
def prints(function: str) -> bool:
    """Whether it is what prints a report, at the head of its trace, or lockdep's own
    functions, without which such a trace says nothing of where."""
    return _pattern("printing").fullmatch(plain(function)) is not None


@functools.lru_cache(maxsize=1 << 14)
def interrupts(function: str) -> bool:
    """Whether what it has interrupted is what follows in a trace."""
    return _pattern("interrupts").fullmatch(plain(function)) is not None


@functools.lru_cache(maxsize=1 << 14)
def dispatches(function: str) -> bool:
    """Whether it hands work to what does it."""
    return _pattern("dispatch").fullmatch(named(function)) is not None


@functools.lru_cache(maxsize=1 << 14)
def waits(function: str) -> bool:
    """Whether it only takes a lock, so that a task that hangs there is about its caller."""
    return _pattern("waits").fullmatch(plain(function)) is not None
