# SPDX-License-Identifier: GPL-2.0-only
"""The kernel log in a report: splats, and single messages among other output."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.klog import log
from harness.klog.splat import Splat
from harness.report.lines import place

_STAMP = re.compile(
    r"(?:<\d+>)?(?:\w{3} +\d+ \d\d:\d\d:\d\d \S+ kernel: *)?"
    r"(?:\[ *\d+\.\d+\]|\[\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\])(?: ?\[ *[TC]\d+\])?:? "
    r"?(?P<text>.*)"
    r"|\w{3} +\d+ \d\d:\d\d:\d\d \S+ kernel: (?P<plain>.*)"
)
_BEGINS_AS_KERNEL = re.compile(
    r"(?:<\d+>)?\[(?: *\d+\.\d+|\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})\]"
    r"|\w{3} +\d+ \d\d:\d\d:\d\d \S+ kernel:|-{6,}\[ cut here \]"
)
_RULE = re.compile(r" *={30,} *")
_MARK = re.compile(r"-+\[ (?:cut here|end trace|end Kernel panic)\b.*")

# How many lines of a splat are read before a blank line. KASAN's reports are the longest.
_MAX_LINES = 200


@dataclass(frozen=True, slots=True)
class SplitLog:
    """Lines split into ``splats``, each with its location ("lines 3-5"), and the lines of the
    ``rest``, each with its number."""

    splats: tuple[tuple[Splat, str], ...]
    rest: tuple[tuple[int, str], ...]


def message_text(line: str) -> str | None:
    """Return a kernel message without its stamp, or None if the line has no stamp."""
    match = _STAMP.fullmatch(line.strip())
    if match is None:
        return None
    return match["text"] if match["text"] is not None else match["plain"]


def is_kernel_message(line: str) -> bool:
    """Whether the line begins with the stamp of a kernel message ("[    1.234567]" or "[Mon Jan  5
    10:00:00 2026]"), a syslog prefix ("... kernel:"), or the line "------------[ cut here ]"."""
    return _BEGINS_AS_KERNEL.match(line) is not None


def split_splats(texts: Sequence[str], numbers: Sequence[int]) -> SplitLog:
    """Split ``texts``, the lines with these ``numbers``, into splats and the rest. A fault that a
    driver logs in one line (severity "notice") stays in the rest as a message."""
    found = [each for each in _splats(texts) if each.severity != "notice"]
    inside = {n for each in found for n in range(each.first - 1, each.last)}
    rest = [
        (number, text)
        for n, (number, text) in enumerate(zip(numbers, texts, strict=False))
        if n not in inside and not _MARK.search(text) and not _frames_splat(text, n, inside)
    ]
    places = (place(numbers[each.first - 1], numbers[each.last - 1]) for each in found)
    return SplitLog(tuple(zip(found, places, strict=True)), tuple(rest))


def is_printed_by(commands: Sequence[str], splat: Splat) -> bool:
    """Whether the text of the splat is in one of the commands, as in ``echo "BUG: leaked"``."""
    (first, *more) = splat.text
    return not more and any(first.strip() in each for each in commands)


def end_of_last_splat(texts: Sequence[str]) -> int:
    """The number of lines up to the end of the last splat, 0 if there is no splat."""
    return max((each.last for each in _splats(texts)), default=0)


def splat_continues(above: Sequence[str], below: Sequence[str]) -> bool:
    """Whether the lines ``below`` a blank line belong to the splat at the end of the lines
    ``above`` it. KASAN separates the parts of a report by blank lines."""
    texts = [*above[-_MAX_LINES:], "", *below]
    split_at = len(texts) - len(below)
    return any(each.first < split_at < each.last for each in _splats(texts))


def _splats(texts: Sequence[str]) -> list[Splat]:
    return list(log.splats(f"{text}\n".encode() for text in texts))


def _frames_splat(text: str, number: int, inside: set[int]) -> bool:
    """Whether the line is the rule of "=" before or after a splat."""
    is_rule = _RULE.fullmatch(message_text(text) or text) is not None
    return is_rule and bool({number - 1, number + 1} & inside)
