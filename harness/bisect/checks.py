# SPDX-License-Identifier: GPL-2.0-only
"""Checks of the last command of ``bisect --command``: does its result show the symptom?"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.klog.splat import Splat


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How the last command ended: its ``status`` and ``output``, and the ``splats`` that the
    guest has reported since it started. ``hangs`` is where the command hangs, None for one
    that ends; ``panicked`` is true if the guest died, of this command or an earlier one."""

    status: int
    output: str
    splats: tuple[Splat, ...] = ()
    hangs: str | None = None
    panicked: bool = False


# The reason why the command shows the symptom; "" if it does not, None if that cannot be
# decided.
Check = Callable[[CommandEnd], str | None]


def fails(end: CommandEnd) -> str | None:
    """The exit status is not 0."""
    if end.hangs is not None:
        return None
    return f"status {end.status}: {line(end.output)}" if end.status else ""


def hangs(end: CommandEnd) -> str | None:
    """The command does not end."""
    if end.panicked:
        return None
    return "" if end.hangs is None else f"hangs: {end.hangs}"


def prints(pattern: re.Pattern[str]) -> Check:
    """The output matches the pattern."""

    def check(end: CommandEnd) -> str | None:
        found = pattern.search(end.output)
        if found:
            return f"prints {line(found[0])!r}"
        return "" if end.hangs is None else None

    return check


def reports(pattern: re.Pattern[str]) -> Check:
    """The kernel reports a splat; the pattern matches its kind, title or function."""

    def check(end: CommandEnd) -> str | None:
        names = (f"{each.kind}: {each.opening} in {each.function}" for each in end.splats)
        found = next((each for each in names if pattern.search(each)), "")
        return found if found or end.hangs is None else None

    return check


_COMPARISONS = {"above": operator.gt, "below": operator.lt}


def figure(pattern: re.Pattern[str], side: str, threshold: float) -> Check:
    """The number that the pattern's group matches in the output is ``above`` or ``below``
    the threshold."""

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
