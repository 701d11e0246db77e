# SPDX-License-Identifier: GPL-2.0-only
"""Checks for the symptom in the result of the last ``bisect --command``."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.klog.splat import Splat


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How the last command ended.

    ``status``: its exit status.
    ``output``: its standard output and standard error.
    ``splats``: the splats that the kernel has reported since boot.
    ``hangs``: where the command hangs, None if it exits.
    ``panicked``: whether the kernel panicked during this command or an earlier one.
    """

    status: int
    output: str
    splats: tuple[Splat, ...] = ()
    hangs: str | None = None
    panicked: bool = False


# A check returns the reason why the command shows the symptom, "" if the command does not
# show it, and None if that cannot be decided.
Check = Callable[[CommandEnd], str | None]


def fails(end: CommandEnd) -> str | None:
    """Check for an exit status other than 0."""
    if end.hangs is not None:
        return None
    return f"status {end.status}: {line(end.output)}" if end.status else ""


def hangs(end: CommandEnd) -> str | None:
    """Check for a hang of the command."""
    if end.panicked:
        return None
    return "" if end.hangs is None else f"hangs: {end.hangs}"


def prints(pattern: re.Pattern[str]) -> Check:
    """Return a check for output that matches the pattern."""

    def check(end: CommandEnd) -> str | None:
        found = pattern.search(end.output)
        if found:
            return f"prints {line(found[0])!r}"
        return "" if end.hangs is None else None

    return check


def reports(pattern: re.Pattern[str]) -> Check:
    """Return a check for a splat that matches the pattern. The pattern is searched for in "KIND:
    OPENING LINE in FUNCTION"."""

    def check(end: CommandEnd) -> str | None:
        names = (f"{each.kind}: {each.opening} in {each.function}" for each in end.splats)
        found = next((each for each in names if pattern.search(each)), "")
        return found if found or end.hangs is None else None

    return check


_COMPARISONS = {"above": operator.gt, "below": operator.lt}


def figure(pattern: re.Pattern[str], side: str, threshold: float) -> Check:
    """Return a check for a number above or below the threshold (``side``). The pattern's capture
    group matches the number in the output. Without a match, the check cannot decide."""

    def check(end: CommandEnd) -> str | None:
        found = pattern.search(end.output)
        if not found:
            return None
        try:
            number = float(found[1])
        except (TypeError, ValueError):
            return None
        passes = _COMPARISONS[side](number, threshold)
        return f"{number:g} is {side} {threshold:g}" if passes else ""

    return check


def line(text: str) -> str:
    """The text in one line of at most 200 characters."""
    return " ".join(text.split())[:200]
