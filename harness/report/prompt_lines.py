# SPDX-License-Identifier: GPL-2.0-only
"""Find the prompts in a message, including two-line prompts and prompts after output."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from harness.report import prompt
from harness.report.lines import Line
from harness.report.prompt import Prompt

_Pair = tuple[Line, Prompt | None]

# How many different shells of a message may have prompts after output.
_MAX_SHELLS = 8


def parse(lines: Sequence[Line]) -> tuple[list[Line], list[Prompt | None]]:
    """Return the lines, and for each line its prompt or None.

    A line with output before its prompt is split in two. The first line of a two-line prompt
    becomes blank, and the prompt in the second line gets its host and directory.
    """
    kept: list[Line] = []
    prompts: list[Prompt | None] = []
    upper: Prompt | None = None
    for line, found in _split_after_output([(line, _parse_line(line)) for line in lines]):
        joined = (
            replace(found, host=upper.host, directory=upper.directory) if upper and found else found
        )
        upper = prompt.parse_upper_line(line.stripped)
        kept.append(replace(line, text="") if upper else line)
        prompts.append(joined)
    return kept, prompts


def _parse_line(line: Line) -> Prompt | None:
    return None if line.diff or line.separator else prompt.parse(line.stripped)


def _split_after_output(pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """Split each line in which a prompt follows output, because a program printed no newline at
    the end."""
    times = Counter(found.prefix for _, found in pairs if found and found.host)
    prefixes = [prefix for prefix, _ in times.most_common(_MAX_SHELLS)]
    for line, found in pairs:
        # A prefix that appears only once may be output followed by a user name.
        is_prompt = found is not None and times.get(found.prefix, 0) != 1
        place = 0 if is_prompt else _prompt_after_output(line, prefixes)
        if place:
            yield replace(line, text=line.text[:place]), None
            rest = replace(line, text=" " * line.indent + line.text[place:])
            yield rest, _parse_line(rest)
        else:
            yield line, found


def _prompt_after_output(line: Line, prefixes: Iterable[str]) -> int:
    """The index at which a prompt begins after output, 0 if there is none."""
    for prefix in prefixes:
        place = line.text.find(prefix, line.indent + 1)
        glued = place > 0 and re.match(r"[^\s:>|@]", line.text[place - 1])
        if glued and prompt.parse(line.text[place:]):
            return place
    return 0
