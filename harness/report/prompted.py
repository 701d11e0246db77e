# SPDX-License-Identifier: GPL-2.0-only
"""Lines of a message, each with its prompt: of two lines, or behind output."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from harness.report import prompt
from harness.report.lines import Line
from harness.report.prompt import Prompt

_Pair = tuple[Line, Prompt | None]


def read(lines: Sequence[Line]) -> tuple[list[Line], list[Prompt | None]]:
    """The lines and their prompts. Of a prompt of two lines the second has all that the
    first names, which stands as a blank line."""
    kept: list[Line] = []
    prompts: list[Prompt | None] = []
    above: Prompt | None = None
    for line, found in _unglued([(line, _of(line)) for line in lines]):
        joined = (
            replace(found, host=above.host, directory=above.directory) if above and found else found
        )
        above = prompt.upper(line.bare)
        kept.append(replace(line, text="") if above else line)
        prompts.append(joined)
    return kept, prompts


def _of(line: Line) -> Prompt | None:
    return None if line.diff or line.border else prompt.of(line.bare)


# Shells whose prompts may stand behind output, in one message.
_MOST_SHELLS = 8


def _unglued(pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """The lines, of which one that has a prompt of the message behind output is two: what a
    program prints may end without a newline."""
    times = Counter(found.opening for _, found in pairs if found and found.host)
    openings = [opening for opening, _ in times.most_common(_MOST_SHELLS)]
    for line, found in pairs:
        # Output may look like a part of the user's name, once.
        own = found is not None and times.get(found.opening, 0) != 1
        place = 0 if own else _behind_output(line, openings)
        if place:
            yield replace(line, text=line.text[:place]), None
            rest = replace(line, text=" " * line.indent + line.text[place:])
            yield rest, _of(rest)
        else:
            yield line, found


def _behind_output(line: Line, openings: Iterable[str]) -> int:
    """Where a prompt begins behind a line's output, 0 where none does."""
    for opening in openings:
        place = line.text.find(opening, line.indent + 1)
        glued = place > 0 and re.match(r"[^\s:>|@]", line.text[place - 1])
        if glued and prompt.of(line.text[place:]):
            return place
    return 0
