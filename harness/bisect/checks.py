# SPDX-License-Identifier: GPL-2.0-only
"""How the last of a user's commands ended, and whether that is what a search looks for."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.klog.splat import Splat


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How the last command ended: its ``status`` and ``output``, and the ``splats`` of the
    guest's whole life. ``hangs`` says where it does not end, None for one that does;
    ``panicked`` that the guest did not survive it, or one before it."""

    status: int
    output: str
    splats: tuple[Splat, ...] = ()
    hangs: str | None = None
    panicked: bool = False


# Why an end is what is looked for, "" where it is not; None where it does not tell.
Check = Callable[[CommandEnd], str | None]


def fails(end: CommandEnd) -> str | None:
    """The last command ends with another status than 0."""
    if end.hangs is not None:
        return None
    return f"status {end.status}: {line(end.output)}" if end.status else ""


def hangs(end: CommandEnd) -> str | None:
    """The last command does not end."""
    if end.panicked:
        return None
    return "" if end.hangs is None else f"it does not end: {end.hangs}"


def prints(pattern: re.Pattern[str]) -> Check:
    """The last command's output has the pattern in it."""

    def tells(end: CommandEnd) -> str | None:
        found = pattern.search(end.output)
        if found:
            return f"it prints {line(found[0])!r}"
        return "" if end.hangs is None else None

    return tells


def reports(pattern: re.Pattern[str]) -> Check:
    """The kernel reports a splat with the pattern in its kind, title or place."""

    def tells(end: CommandEnd) -> str | None:
        names = (f"{each.kind}: {each.opening} in {each.function}" for each in end.splats)
        found = next((each for each in names if pattern.search(each)), "")
        return found if found or end.hangs is None else None

    return tells


_COMPARISONS = {"above": operator.gt, "below": operator.lt}


def figure(pattern: re.Pattern[str], side: str, threshold: float) -> Check:
    """The number that the pattern's group finds in the output passes a threshold."""

    def tells(end: CommandEnd) -> str | None:
        found = pattern.search(end.output)
        if not found:
            return None
        try:
            number = float(found[1])
        except (TypeError, ValueError):
            return None
        passes = _COMPARISONS[side](number, threshold)
        return f"{number:g} is {side} {threshold:g}" if passes else ""

    return tells


def line(text: str) -> str:
    """The text in a line, cut short."""
    return " ".join(text.split())[:200]
