# SPDX-License-Identifier: GPL-2.0-only
"""What a report shows below a reproducer as its output."""

import re
from collections.abc import Sequence
from dataclasses import replace

from harness.report import context, fact, sentences, traces
from harness.report.lines import Line
from harness.report.part import Command

_SAYS = re.compile(
    r"\b(?:outputs?|prints?|printed|results?|gives?|gave|get|got|shows?|showed|see|saw|says?|"
    r"actual\w*|observed|this is what)\b",
    re.IGNORECASE,
)
# Lines of words, and blocks, that may stand between.
_MOST_WORDS, _MOST_BLOCKS = 3, 3
_ACTUAL = re.compile(
    r"[*#_= ]*(?:actual|observed)(?: (?:results?|outputs?|behaviou?rs?|values?))?[*_ ]*[:=][*_ ]*"
    r"(?P<value>\S.*)",
    re.IGNORECASE,
)
# What a program prints, and no sentence.
_LITERAL = re.compile(r"`+(?P<code>[^`]+)`+|-?\d+|\S{0,100}?[\d/_:]\S*")
_NOTHING = re.compile(r"(?:nothing|no output|empty|\(empty\)|\(nothing\))\.?", re.IGNORECASE)

Shown = tuple[tuple[str, ...], tuple[int, ...]]


def block(lines: Sequence[Line], last: int) -> Shown | None:
    """The output in a block, fenced or indented, below the reproducer whose last line is the
    ``last``: lines and their numbers. Blocks that show what is expected are passed over. What
    the kernel logs is none, and tools' messages alone say by themselves whose they are."""
    below = [line for line in lines if line.number > last]
    for _ in range(_MOST_BLOCKS):
        start = next((n for n, line in enumerate(below) if _is_set_off(line)), len(below))
        words = [line.bare for line in below[:start] if not (line.blank or line.border)]
        shown = _stretch(below[start:])
        if len(words) > _MOST_WORDS or not shown:
            return None
        if _introduce(" ".join(words)):
            return _output(shown)
        below = below[start + len(shown) :]
    return None


def _output(shown: Sequence[Line]) -> Shown | None:
    texts = tuple(line.text[shown[0].indent :] for line in shown)
    numbers = tuple(line.number for line in shown)
    logged = traces.split(texts, numbers).splats or any(map(traces.message, texts))
    return None if logged or all(map(fact.of, texts)) else (texts, numbers)


def _introduce(words: str) -> bool:
    return not words or (_SAYS.search(words) is not None and sentences.states(words))


def _is_set_off(line: Line) -> bool:
    return not (line.blank or line.border or line.diff) and bool(line.fence or line.indent)


def _stretch(lines: Sequence[Line]) -> list[Line]:
    """The lines of the block that the first one begins."""
    end = next((n for n, line in enumerate(lines) if not _goes_on(lines[0], line)), len(lines))
    return list(lines[:end])


def _goes_on(first: Line, line: Line) -> bool:
    if (line.depth, line.fence) != (first.depth, first.fence) or line.border:
        return False
    return bool(first.fence) or (not line.blank and line.indent >= first.indent)


def of_last(lines: Sequence[Line], commands: Sequence[Command]) -> list[Command]:
    """Steps, the last with what the report says to be the actual result, where that is what a
    program prints, or with the output below, where no other step shows anything."""
    *before, last = commands
    below = (line for line in lines if line.number > last.line and not line.depth)
    found = next(((line, match) for line in below if (match := _ACTUAL.fullmatch(line.bare))), None)
    alone = not any(context.shows_state(each.text) for each in before)
    shown = _value(*found) if found else block(lines, last.line) if alone else None
    if shown is None:
        return list(commands)
    texts, numbers = shown
    return [*before, replace(last, output=texts, numbers=numbers, shown=True, ended=True)]


def _value(line: Line, match: re.Match[str]) -> Shown | None:
    value = match["value"].strip()
    if _NOTHING.fullmatch(value):
        return (), ()
    literal = _LITERAL.fullmatch(value)
    if literal is None or fact.of(value):
        return None
    return (literal["code"] or value,), (line.number,)
