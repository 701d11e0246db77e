# SPDX-License-Identifier: GPL-2.0-only
"""Parse the frames of call traces, as each architecture prints them.

``%pS``, ``%pB`` and their variants: lib/vsprintf.c. Suffixes: arch/*/kernel/stacktrace.c and
arch/x86/kernel/dumpstack.c. ``func from caller``: arch/arm/kernel/traps.c.
"""

import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """A function in a call trace.

    ``offset`` and ``size`` are in bytes, or None if they are not in the log. ``module`` is "" for
    functions of vmlinux. ``reliable`` is false for an address that was only found on the stack
    (``? func``). ``inline`` is true for a function that a symboliser added. ``place`` is the
    ``file:line`` that a symboliser added.
    """

    function: str
    offset: int | None = None
    size: int | None = None
    module: str = ""
    build_id: str = ""
    reliable: bool = True
    inline: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A call trace, innermost frame first. ``name`` is its type, for example ``call trace``,
    ``IRQ``, ``allocation`` or ``free``."""

    name: str
    frames: tuple[Frame, ...]


_NAME = r"[A-Za-z_$.][\w$.]*"
_HEX = r"[0-9a-fA-Fx]{1,18}"
# [<ffffffff81000000>], ([<000000000010>], [c000000000001234] [c0000000000056ab]
_ADDRESSES = rf"\s*(?:\(?\[<?{_HEX}>?\]\)?\s*){{0,2}}"
_OFFSET = r"\+(?P<offset>0x[0-9a-fA-F]{1,16})(?:/(?P<size>0x[0-9a-fA-F]{1,16}))?"
_WITH_OFFSET = re.compile(
    rf"{_ADDRESSES}(?P<guess>\?\s+)?\(?(?P<name>{_NAME}){_OFFSET}\)?(?P<rest>.*)"
)
# The format of a symboliser: func file.c:1 [inline], func (file.c:1 (discriminator 2)).
_PLACE = r"(?:\.?/)*(?P<place>[\w.+/-]+\.(?:[chSs]|rs|cpp|inc):\d+)"
_WITH_PLACE = re.compile(
    rf"{_ADDRESSES}(?P<guess>\?\s+)?(?P<name>{_NAME}) +\(?{_PLACE}(?P<rest>.*)"
)
_FROM = re.compile(
    rf"{_ADDRESSES}\(?(?P<callee>{_NAME})(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?\)? from {_ADDRESSES}"
    rf"\(?(?P<name>{_NAME})(?:{_OFFSET})?\)?(?P<rest>.*)"
)
_FROM_SHORT = re.compile(rf"{_ADDRESSES}\(?(?P<callee>{_NAME})\)? from\s*$")
_MODULE = re.compile(r"\[(?P<module>[A-Za-z0-9_]+)(?:\([A-Z]+\))?(?: (?P<build>[0-9a-f]{8,64}))?\]")
_REST_PLACE = re.compile(rf"\s+\(?{_PLACE}")
# No line of a frame is longer.
_LONGEST = 400
_NO_MODULE = frozenset(("inline", "vmlinux"))


def parse(line: str) -> Frame | None:
    """Parse the frame in a line of a trace. Returns None if the line is not a frame. In a line
    ``func from caller`` of 32-bit ARM the frame is ``func``, which has no offset there."""
    if "+0x" in line or " from" in line or ":" in line:
        return _parsed(line[:_LONGEST])[0]
    return None


def caller(line: str) -> Frame | None:
    """Parse the caller in a line of a 32-bit ARM trace. Returns None for all other lines."""
    return _parsed(line[:_LONGEST])[1] if " from " in line else None


# A long log repeats the same traces.
@functools.lru_cache(maxsize=1 << 15)
def _parsed(line: str) -> tuple[Frame | None, Frame | None]:
    if " from" in line:
        if match := _FROM.match(line):
            return Frame(match["callee"]), _frame(match, "")
        if match := _FROM_SHORT.match(line):
            return Frame(match["callee"]), None
    return _plain(line), None


def _plain(line: str) -> Frame | None:
    if "+0x" in line and (match := _WITH_OFFSET.match(line)):
        place = _REST_PLACE.match(match["rest"])
        return _frame(match, place["place"] if place else "")
    if ":" in line and (match := _WITH_PLACE.match(line)) is not None:
        return _frame(match, match["place"])
    return None


def _frame(match: re.Match[str], place: str) -> Frame:
    groups, rest = match.groupdict(), match["rest"]
    module = next((m for m in _MODULE.finditer(rest) if m["module"] not in _NO_MODULE), None)
    return Frame(
        match["name"],
        _number(groups.get("offset")),
        _number(groups.get("size")),
        module["module"] if module else "",
        (module["build"] or "") if module else "",
        not groups.get("guess") and "(unreliable)" not in rest,
        "[inline]" in rest or "(inlined by)" in rest,
        place,
    )


def _number(text: str | None) -> int | None:
    return int(text, 16) if text else None
