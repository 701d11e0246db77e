# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's part of a report: splats, and single messages among other output."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.klog import log
from harness.klog.splat import Splat
from harness.report import shell

_STAMP = re.compile(
    r"(?:<\d+>)?(?:\w{3} +\d+ \d\d:\d\d:\d\d \S+ kernel: *)?"
    r"(?:\[ *\d+\.\d+\]|\[\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\])(?: ?\[ *[TC]\d+\])?:? "
    r"?(?P<text>.*)"
    r"|\w{3} +\d+ \d\d:\d\d:\d\d \S+ kernel: (?P<plain>.*)"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """Lines taken apart: the ``splats``, each with the lines that it stands on, and the
    ``rest``, each with its number."""

    splats: tuple[tuple[Splat, str], ...]
    rest: tuple[tuple[int, str], ...]


def message(line: str) -> str | None:
    """The text of a kernel message, without its stamp; None for what has none."""
    match = _STAMP.fullmatch(line.strip())
    if match is None:
        return None
    return match["text"] if match["text"] is not None else match["plain"]


def prints_log(command: str) -> bool:
    """Whether the command prints the kernel's log: what it prints is output."""
    return any(name in ("dmesg", "journalctl") for name in shell.programs(command))


_RULE = re.compile(r" *={30,} *")
_MARK = re.compile(r"-+\[ (?:cut here|end trace|end Kernel panic)\b.*")


def split(texts: Sequence[str], numbers: Sequence[int]) -> Shown:
    """The splats of some lines, and the lines that are none's; a fault that a driver logs in a
    line of its own (severity "notice") is a message among these."""
    found = log.splats(f"{text}\n".encode() for text in texts)
    serious = [each for each in found if each.severity != "notice"]
    taken = {n for each in serious for n in range(each.first - 1, each.last)}
    rest = [
        (number, text)
        for n, (number, text) in enumerate(zip(numbers, texts, strict=False))
        if n not in taken and not _MARK.search(text) and not _frames(text, n, taken)
    ]
    places = (_lines(numbers[each.first - 1], numbers[each.last - 1]) for each in serious)
    return Shown(tuple(zip(serious, places, strict=True)), tuple(rest))


def end(texts: Sequence[str]) -> int:
    """How many of the lines there are up to the end of the last splat, 0 without one."""
    return max(
        (each.last for each in log.splats(f"{text}\n".encode() for text in texts)), default=0
    )


# Lines of a splat before a blank one that are looked at: KASAN's dumps are the longest.
_MOST_LINES = 200


def goes_on(above: Sequence[str], below: Sequence[str]) -> bool:
    """Whether the lines below a blank line belong to a splat that the ones above it end
    with, as of KASAN, whose parts blank lines separate."""
    texts = [*above[-_MOST_LINES:], "", *below]
    split_at = len(texts) - len(below)
    found = log.splats(f"{text}\n".encode() for text in texts)
    return any(each.first < split_at < each.last for each in found)


def _frames(text: str, place: int, taken: set[int]) -> bool:
    """Whether the line is a rule that a splat begins or ends with."""
    return _RULE.fullmatch(message(text) or text) is not None and bool(
        {place - 1, place + 1} & taken
    )


def _lines(first: int, last: int) -> str:
    return f"line {first}" if first >= last else f"lines {first}-{last}"
