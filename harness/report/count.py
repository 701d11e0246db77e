# SPDX-License-Identifier: GPL-2.0-only
"""What a sentence says of a module's references."""

import re
from dataclasses import dataclass

_NUMBER = r"(?P<number>\d{1,4}|zero|one|two|three|four)\b"
# A module by its name, and no other word.
_NAME = r"[a-z][a-z\d]{0,30}(?:[-_][a-z\d]{1,30}){1,8}"
_MODULE = rf"(?<![\w-])`?(?P<owner>{_NAME})`?"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:{_MODULE} (?:\w+ )?(?:has|shows|keeps|holds) (?:an? |the )?)?"
        r"\b(?:ref(?:erence)?[ -]?(?:count(?:er|s)?|cnt)|refcnt|(?:use|usage|the|its) count)\b"
        rf"(?: (?:of|for) (?:the )?[`'\"]?(?P<module>{_NAME})[`'\"]?)?[^.\d]{{0,60}}?"
        r"\b(?:is|are|was|stays?|remains?|still|at|shows?|to|becomes|of|=|:)[ =:]+"
        rf"(?:still |at |then )*{_NUMBER}",
        rf"(?:{_MODULE} (?:\w+ )?)?\b(?:has|have|holds?|keeps?|kept|leaves?) "
        rf"(?:still |only |just )?{_NUMBER} (?:\w+ )?references?\b",
    )
)
_NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}


@dataclass(frozen=True, slots=True)
class Count:
    """A ``number`` of references to a ``module`` (with underscores, "" where none is named)."""

    module: str
    number: int


def of(sentence: str) -> Count | None:
    """What the sentence states, None for nothing of this kind."""
    for pattern in _PATTERNS:
        if match := pattern.search(sentence):
            groups = match.groupdict()
            word = match["number"].lower()
            module = groups.get("module") or groups["owner"] or ""
            number = _NUMBERS[word] if word in _NUMBERS else int(word)
            return Count(module.replace("-", "_"), number)
    return None
