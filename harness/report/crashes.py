# SPDX-License-Identifier: GPL-2.0-only
"""What a sentence says of a hang, a panic, an oops, a warning or a death."""

import re

from harness.klog.splat import Splat
from harness.report.claim import Claim, Kind

HANG = re.compile(
    r"\b(?:hangs?|hung|hanging|freezes?|froze|frozen|stuck|deadlocks?|never (?:returns?|comes? "
    r"back|"
    r"ends?|finish\w*)|(?:does|did) ?n[o']t (?:return|come back|end|finish)|blocks? for ?ever)\b",
    re.IGNORECASE,
)
_PANIC = re.compile(r"\b(?:panics|panicked|kernel panic)\b", re.IGNORECASE)
_OOPS = re.compile(
    r"\b(?:oopses|oopsed|kernel oops|an oops|null[ -]pointer (?:dereference|deref))\b",
    re.IGNORECASE,
)
_MACHINE = r"(?:kernel|box|board|machine|system|host|vm|guest|everything|computer|laptop|server)"
_CRASH = re.compile(
    r"^(?!.*\b(?:fine|ok|okay|cleanly|normally)\b).*\b(?:"
    rf"{_MACHINE} (?:\w+ )?(?:crashe[sd]|crashing|reboots|rebooted|resets|dies|died)"
    rf"|crash(?:es|ed) (?:the|my|our|this) (?:\w+ )?{_MACHINE})\b",
    re.IGNORECASE,
)
_KILLED = re.compile(
    r"\b(?:seg(?:mentation)?[ -]?faults?|segfaulted|is killed|gets killed)\b", re.IGNORECASE
)
_IN_FUNCTION = re.compile(
    r"\b(?P<kind>warn(?:ing|s)?|oops(?:es)?|null[ -]pointer dereference|bug)"
    r" (?:in|at|from) [`'\"]?(?P<function>[a-z_]\w*_\w+)",
    re.IGNORECASE,
)


# The kind of claim, and its words, of a sentence with any of these: the first.
_WORDINGS: tuple[tuple[re.Pattern[str], Kind, str], ...] = (
    (HANG, "hang", "{name} does not end"),
    (_PANIC, "panic", "the kernel panics"),
    (_IN_FUNCTION, "splat", ""),
    (_OOPS, "splat", "the kernel oopses"),
    (_CRASH, "splat", "the kernel crashes"),
    (_KILLED, "killed", "{name} is killed"),
)


def of(sentence: str, name: str, where: str, step: int) -> Claim | None:
    """The claim of a sentence about the command of that ``name`` and ``step``."""
    for pattern, kind, text in _WORDINGS:
        if match := pattern.search(sentence):
            said = Claim(kind, text.format(name=name), where, step)
            return said if text else _in_function(match, where, step)
    return None


_KINDS = {"w": "WARNING", "b": "BUG"}


def _in_function(match: re.Match[str], where: str, step: int) -> Claim:
    kind = _KINDS.get(match["kind"][0].lower(), "Oops")
    title = f"{kind} in {match['function']}"
    found = Splat(kind, title, "", 0, match["function"], "", (), (match[0],))
    return Claim("splat", f"the kernel reports: {title}", where, step, splat=found)
