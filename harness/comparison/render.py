# SPDX-License-Identifier: GPL-2.0-only
"""Render a comparison as lines of at most 72 columns, to paste below a patch."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from harness.comparison.compared import Compared
from harness.comparison.difference import Difference
from harness.comparison.fact import NOT_RUN, Aspect
from harness.comparison.session import Side

Line = tuple[str, str]

_COLUMNS = 72
_TITLES: dict[Aspect, str] = {
    "status": "result",
    "output": "output",
    "state": "sysfs",
    "splat": "splats",
    "log": "kernel log",
    "trace": "trace events",
    "iommu": "commands to the IOMMU",
}
_MARKS = {"old": ("red", "-"), "new": ("green", "+")}
# The maximum number of lines of one side in one aspect of a step.
_MOST_LINES = 12


def lines(compared: Compared) -> Iterator[Line]:
    """Render the differences of each step, and a summary."""
    yield from _heading(compared)
    for number in compared.steps:
        yield "", ""
        yield from _step(compared, number)
    yield "", ""
    yield from _summary(compared)


def _heading(compared: Compared) -> Iterator[Line]:
    found = compared.comparison
    for word, side, runs in (
        ("old", compared.old, found.old),
        ("new", compared.new, found.new),
    ):
        text = f"{side.kernel.label} on {side.machine.label}, {runs} runs"
        yield from _wrapped("", f"{word}: ", text)


def _step(compared: Compared, number: int) -> Iterator[Line]:
    command = compared.request.session.texts[number - 1] if number else ""
    title = f"{number}. $ " if number else "before the first step"
    yield from _wrapped("bold", title, " ".join(command.split()))
    found = compared.of_step(number)
    if any(each.fact.text == NOT_RUN for each in found):
        found = [each for each in found if each.fact.aspect == "status"]
    for aspect, name in _TITLES.items():
        of_aspect = [each for each in found if each.fact.aspect == aspect]
        if of_aspect:
            yield "", f"   {name}:"
            yield from _aspect(of_aspect)


def _aspect(found: Sequence[Difference]) -> Iterator[Line]:
    for side, (style, mark) in _MARKS.items():
        texts = Counter(each.fact.text for each in found if each.side == side)
        first = {each.fact.text for each in found if each.fact.number == 1}
        for text in list(texts)[:_MOST_LINES]:
            yield from _wrapped(style, f" {mark}   ", text + _count(texts[text], text in first))
        if len(texts) > _MOST_LINES:
            yield style, f" {mark}   ... and {len(texts) - _MOST_LINES} more lines"


def _count(count: int, all_differ: bool) -> str:
    """How many equal lines there are, and whether the other side has fewer or none."""
    if all_differ:
        return f" ({count} times)" if count > 1 else ""
    return f" ({count} more)"


def _summary(compared: Compared) -> Iterator[Line]:
    steps, total = compared.steps, len(compared.request.session.texts)
    noise = len(compared.comparison.noise)
    if not steps:
        text = f"no difference in {total} steps"
    else:
        numbers = ", ".join(str(each) if each else "before the first" for each in steps)
        text = f"{len(steps)} of {total} steps differ{'s' * (len(steps) == 1)}: {numbers}"
    yield "bold", text
    if noise:
        words = "line differs" if noise == 1 else "lines differ"
        yield "", f"noise: {noise} {words} between runs of one side"
    if not any(_has_trace(side) for side in (compared.old, compared.new)):
        yield "", "no trace events: build with --variant trace"


def _has_trace(side: Side) -> bool:
    return bool(side.kernel.option("TRACING"))


def _wrapped(style: str, prefix: str, text: str) -> Iterator[Line]:
    indent = " " * len(prefix)
    wrapped = textwrap.wrap(
        text, _COLUMNS - len(prefix), break_long_words=False, break_on_hyphens=False
    )
    for number, line in enumerate(wrapped or [""]):
        yield style, f"{prefix if number == 0 else indent}{line}".rstrip()
