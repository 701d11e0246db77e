# SPDX-License-Identifier: GPL-2.0-only
"""Splats: the reports that the kernel writes into its log when something is wrong."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.klog import frame
from harness.klog.frame import Chain, Frame

# fatal: the kernel or a task of it died; serious: it is wrong; notice: hardware, memory or
# an administrator may be at fault.
Severity = Literal["fatal", "serious", "notice"]


@dataclass(frozen=True, slots=True)
class Splat:
    """One report. ``kind`` is a name of the table below, ``title`` its first line
    without what changes from run to run; ``file``, ``line`` and ``function`` are
    where the kernel says that it happened ("" and 0 when it does not); ``kernel``
    is the release it prints; ``frames`` the functions of the call trace, the
    innermost first; ``text`` all of its lines."""

    kind: str
    title: str
    file: str
    line: int
    function: str
    kernel: str
    frames: tuple[str, ...]
    text: tuple[str, ...]
    opening: str = ""
    severity: Severity = "serious"
    caller: str = ""
    taint: str = ""
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    pc: Frame | None = None
    lr: Frame | None = None
    chains: tuple[Chain, ...] = ()
    panic: str = ""
    first: int = 0
    last: int = 0
    cut: bool = False
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a kind of splat opens. The pattern's named groups fill the fields."""

    name: str
    opening: re.Pattern[str]


def _kind(name: str, opening: str) -> _Kind:
    return _Kind(name, re.compile(opening))


_FILE = r"(?P<file>[\w./-]+\.[chS]):(?P<line>\d+)"

# The first that matches names a splat; so the special stand before the general.
_KINDS = (
    _kind(
        "lockdep", r"WARNING: (possible .*|inconsistent lock state|.*lock held when.*|bad unlock.*)"
    ),
    _kind("lockdep", r"WARNING: (suspicious RCU usage)"),
    # __warn, kernel/panic.c; 6.18 and later put the place first.
    _kind("WARNING", rf"WARNING: CPU: \d+ PID: \d+ at {_FILE}(?: (?P<function>[\w.]+))?"),
    _kind("WARNING", rf"WARNING: {_FILE} at (?P<function>[\w.]+)"),
    _kind("WARNING", r"WARNING: .*"),
    _kind("BUG", rf"kernel BUG at {_FILE}!"),
    _kind("KASAN", r"BUG: KASAN: .* in (?P<function>[\w.]+)"),
    _kind("KFENCE", r"BUG: KFENCE: .* in (?P<function>[\w.]+)"),
    _kind("UBSAN", rf"UBSAN: .* in {_FILE}"),
    _kind("Oops", r"Unable to handle kernel .*"),
    _kind("Oops", r"Internal error: .*"),
    # slab_bug, mm/slub.c: poison overwritten, objects left in a cache.
    _kind("SLUB", r"BUG [\w-]+(?: \(.*\))?: .*"),
    _kind("BUG", r"BUG: .*"),
    _kind("hung task", r"INFO: task .* blocked for more than \d+ seconds"),
    _kind("RCU stall", r"rcu: INFO: .*detected .*stall.*"),
    _kind("kmemleak", r"kmemleak: \d+ new suspected memory leaks"),
    # sysfs_warn_dup, fs/sysfs/dir.c, which only dumps the stack.
    _kind("sysfs", r"sysfs: cannot create duplicate filename .*"),
    _kind("panic", r"Kernel panic - not syncing: .*"),
)

# Printed between a splat's opening and its end, by what opens it.
_END = re.compile(r"---\[ end (trace|Kernel panic)")
_CUT = re.compile(r"-+\[ cut here \]-+")
_FRAME = re.compile(r"^\s*(?:\[?<[0-9a-f]+>\]?\s*)?(?P<function>[\w.]+)\+0x[0-9a-f]+/0x[0-9a-f]+")
_AT = re.compile(r"(pc|PC is at|RIP: \w+:) ?:?\s*(?P<function>[\w.]+)\+0x")
_RELEASE = re.compile(
    r"(?:Not tainted|Tainted: [A-Z ]+(?:\[.*\] )?|Tainted: .*?)\s*(\d+\.\d+\.\S+)"
)
_TRACE = re.compile(r"Call [Tt]race:|Backtrace:")
_UNSTABLE = re.compile(r"\b(CPU|PID|cpu|pid): ?\d+|\b(0x)?[0-9a-f]{8,16}\b|#\d+|/\d+\b")

# Kinds that the kernel follows up with "Internal error" and registers.
_WITH_OOPS = {"Oops", "BUG", "KASAN"}

# What makes and prints a report, above what the report is about: of lockdep's a trace has
# nothing else that says where (dump_stack, kernel/locking/lockdep.c).
_REPORTING = frozenset(
    (
        *("dump_backtrace", "show_stack", "dump_stack_lvl", "dump_stack"),
        *("print_circular_bug", "print_deadlock_bug", "print_usage_bug", "print_irq_inversion_bug"),
        *("check_noncircular", "check_prev_add", "check_irq_usage", "mark_lock", "mark_lock_irq"),
        *("__lock_acquire", "lock_acquire"),
    )
)

# A splat without an end mark is closed by this many lines that are none of its.
_PATIENCE = 60


def find(lines: Sequence[str]) -> list[Splat]:
    """The splats in a kernel log's lines (texts only, without time stamps)."""
    return [_splat(kind, block) for kind, block in _blocks(lines)]


def _opens(line: str) -> _Kind | None:
    return next((kind for kind in _KINDS if kind.opening.match(line)), None)


def _blocks(lines: Sequence[str]) -> Iterator[tuple[_Kind, list[str]]]:
    """Each opening with the lines up to its end. An oops inside its own report
    ("Internal error" after "Unable to handle") is one splat; a panic ends one."""
    kind: _Kind | None = None
    block: list[str] = []
    for line in lines:
        opened = _opens(line)
        starts = opened is not None and not _continues(kind, opened)
        if kind and (starts or _CUT.search(line) or len(block) > _PATIENCE):
            yield kind, block
            kind, block = None, []
        if starts and opened:
            kind, block = opened, [line]
        elif kind:
            block.append(line)
            if _END.search(line):
                yield kind, block
                kind, block = None, []
    if kind:
        yield kind, block


def _continues(current: _Kind | None, opened: _Kind) -> bool:
    return (
        current is not None and current.name in {"Oops", "BUG", "KASAN"} and opened.name == "Oops"
    )


def _splat(kind: _Kind, block: list[str]) -> Splat:
    opening = kind.opening.match(block[0])
    assert opening is not None
    place = opening.groupdict()
    frames = tuple(itertools.dropwhile(_REPORTING.__contains__, _frames(block)))
    return Splat(
        kind.name,
        _UNSTABLE.sub("", block[0]).strip(),
        place.get("file") or "",
        int(place.get("line") or 0),
        place.get("function") or _at(block) or (frames[0] if frames else ""),
        next((found[1] for line in block if (found := _RELEASE.search(line))), ""),
        frames,
        tuple(block),
        opening=_UNSTABLE.sub("", block[0]).strip(),
        pc=_register(_PC, block),
        lr=_register(_LR, block),
        chains=(Chain("call trace", tuple(filter(None, map(frame.parse, block)))),),
    )


_PC = re.compile(r"(?:pc|PC is at|RIP: \w+:) ?:?\s*(.*)")
_LR = re.compile(r"(?:lr|LR is at) ?:?\s*(.*)")


def _register(pattern: re.Pattern[str], block: Sequence[str]) -> Frame | None:
    texts = (match[1] for line in block if (match := pattern.match(line)))
    return next(filter(None, map(frame.parse, texts)), None)


def _at(block: Sequence[str]) -> str:
    """From the program counter; a mail may have wrapped the opening before it."""
    wrapped = _FRAME.match(block[1]) if len(block) > 1 else None
    if wrapped:
        return wrapped["function"]
    return next((found["function"] for line in block if (found := _AT.match(line))), "")


def _frames(block: Sequence[str]) -> Iterator[str]:
    inside = False
    for line in block:
        if _TRACE.search(line):
            inside = True
        elif inside and (match := _FRAME.match(line)):
            yield match["function"]
        elif inside and line.strip() and not line.startswith(" "):
            inside = False
