# SPDX-License-Identifier: GPL-2.0-only
"""Find the output that a report shows below a reproducer without prompts."""

import re
from collections.abc import Sequence
from dataclasses import replace

from harness.report import commands, error_message, kernel_log, prose
from harness.report.commands import Command
from harness.report.lines import Line

_INTRODUCES_OUTPUT = re.compile(
    r"\b(?:outputs?|prints?|printed|results?|gives?|gave|get|got|shows?|showed|see|saw|says?|"
    r"actual\w*|observed|this is what)\b",
    re.IGNORECASE,
)
# How many lines of prose may precede a block, and how many blocks below a reproducer are searched
# for its output.
_MAX_PROSE, _MAX_BLOCKS = 3, 3
_ACTUAL = re.compile(
    r"[*#_= ]*(?:actual|observed)(?: (?:results?|outputs?|behaviou?rs?|values?))?[*_ ]*[:=][*_ ]*"
    r"(?P<value>\S.*)",
    re.IGNORECASE,
)
# Text that a program prints, as opposed to a sentence.
_LITERAL = re.compile(r"`+(?P<code>[^`]+)`+|-?\d+|\S{0,100}?[\d/_:]\S*")
_NOTHING = re.compile(r"(?:nothing|no output|empty|\(empty\)|\(nothing\))\.?", re.IGNORECASE)

# Lines of output, and their numbers.
Output = tuple[tuple[str, ...], tuple[int, ...]]


def find_block(lines: Sequence[Line], last: int, reproducer: Sequence[str] = ()) -> Output | None:
    """Return the output in a fenced or indented block below the ``reproducer`` that ends in line
    ``last``, or None if there is no such block.

    Blocks that show what is expected are skipped. A block with kernel messages is not output. A
    block that contains only error messages of tools is ignored here, because they are claims
    wherever they appear.
    """
    below = [line for line in lines if line.number > last]
    for _ in range(_MAX_BLOCKS):
        start = next((n for n, line in enumerate(below) if _is_set_off(line)), len(below))
        words = [line.stripped for line in below[:start] if not (line.blank or line.separator)]
        block = _block(below[start:])
        if len(words) > _MAX_PROSE or not block:
            return None
        if _introduces_output(" ".join(words)):
            return _output(block, reproducer)
        below = below[start + len(block) :]
    return None


def _output(block: Sequence[Line], reproducer: Sequence[str]) -> Output | None:
    texts = tuple(line.text[block[0].indent :] for line in block)
    numbers = tuple(line.number for line in block)
    splats = [splat for splat, _ in kernel_log.split_splats(texts, numbers).splats]
    if any(not kernel_log.is_printed_by(reproducer, each) for each in splats):
        return None
    if any(map(kernel_log.message_text, texts)):
        return None
    return None if all(map(error_message.parse, texts)) else (texts, numbers)


def _introduces_output(words: str) -> bool:
    return not words or (_INTRODUCES_OUTPUT.search(words) is not None and prose.states_fact(words))


def _is_set_off(line: Line) -> bool:
    return not (line.blank or line.separator or line.diff) and bool(line.fence or line.indent)


def _block(lines: Sequence[Line]) -> list[Line]:
    """Return the block that begins with the first of the lines."""
    end = next((n for n, line in enumerate(lines) if not _continues(lines[0], line)), len(lines))
    return list(lines[:end])


def _continues(first: Line, line: Line) -> bool:
    if not first.same_block(line):
        return False
    return bool(first.fence) or (not line.blank and line.indent >= first.indent)


def attach_to_last_step(lines: Sequence[Line], steps: Sequence[Command]) -> list[Command]:
    """Return the steps, the last of them with its output.

    The output is the actual result in the report, if it looks like the output of a program. A
    report without an actual result may show it in a block below, if no earlier step shows state.
    """
    *before, last = steps
    below = (line for line in lines if line.number > last.line and not line.depth)
    found = next(
        ((line, match) for line in below if (match := _ACTUAL.fullmatch(line.stripped))), None
    )
    alone = not any(commands.shows_state(each.text) for each in before)
    shown = (
        _actual(*found)
        if found
        else find_block(lines, last.line, [each.text for each in steps])
        if alone
        else None
    )
    if shown is None:
        return list(steps)
    output, numbers = shown
    return [*before, replace(last, output=output, numbers=numbers, output_known=True, ended=True)]


def _actual(line: Line, match: re.Match[str]) -> Output | None:
    value = match["value"].strip()
    if _NOTHING.fullmatch(value):
        return (), ()
    literal = _LITERAL.fullmatch(value)
    if literal is None or error_message.parse(value):
        return None
    return (literal["code"] or value,), (line.number,)
