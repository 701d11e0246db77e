# SPDX-License-Identifier: GPL-2.0-only
"""The prompts of a message's lines: also those of two lines, and those behind output."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from harness.report import prompt
from harness.report.lines import Line
from harness.report.prompt import Prompt

_Pair = tuple[Line, Prompt | None]

# The most shells of one message that may have prompts behind output.
_MOST_SHELLS = 8


def parse(lines: Sequence[Line]) -> tuple[list[Line], list[Prompt | None]]:
    """Return the lines, and the prompt of each or None.

    A line that has a prompt behind output is split in two. Of a prompt of two lines the first
    becomes a blank line, and the second gets the host and directory that the first names.
    """
    kept: list[Line] = []
    prompts: list[Prompt | None] = []
    upper: Prompt | None = None
    for line, found in _split_behind_output([(line, _parse_line(line)) for line in lines]):
        joined = (
            replace(found, host=upper.host, directory=upper.directory) if upper and found else found
        )
        upper = prompt.parse_upper_line(line.stripped)
        kept.append(replace(line, text="") if upper else line)
        prompts.append(joined)
    return kept, prompts


def _parse_line(line: Line) -> Prompt | None:
    return None if line.diff or line.separator else prompt.parse(line.stripped)


def _split_behind_output(pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """Split each line that has a prompt of this message behind output: a program may print no
    newline at its end."""
    times = Counter(found.prefix for _, found in pairs if found and found.host)
    prefixes = [prefix for prefix, _ in times.most_common(_MOST_SHELLS)]
    for line, found in pairs:
        # A prefix that appears once may be output glued to a user's name.
        is_prompt = found is not None and times.get(found.prefix, 0) != 1
        place = 0 if is_prompt else _prompt_behind_output(line, prefixes)
        if place:
            yield replace(line, text=line.text[:place]), None
            rest = replace(line, text=" " * line.indent + line.text[place:])
            yield rest, _parse_line(rest)
        else:
            yield line, found


def _prompt_behind_output(line: Line, prefixes: Iterable[str]) -> int:
    """The place where a prompt begins behind output, 0 without one."""
    for prefix in prefixes:
        place = line.text.find(prefix, line.indent + 1)
        glued = place > 0 and re.match(r"[^\s:>|@]", line.text[place - 1])
        if glued and prompt.parse(line.text[place:]):
            return place
    return 0
