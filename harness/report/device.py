# SPDX-License-Identifier: GPL-2.0-only
"""What a sentence says of a device's driver and group."""

import re

from harness.report.claim import Claim

_NAME = r"(?<![\w:.-])[`'\"]?(?P<device>\w[\w:.-]{0,30}?\d[\w:.-]{0,30})[`'\"]?"
_IS = r"(?:is|are|stays?|remains?|was|were) (?:(?:still|also|now) )*"

# What is not bound to one, or not in one, is another statement.
_BOUND = re.compile(
    rf"(?:{_NAME} (?:\w+ )?)?{_IS}(?:bound|attached) to (?:the )?[`'\"]?(?P<driver>[\w-]+)",
    re.IGNORECASE,
)
_GROUP = re.compile(
    rf"{_NAME} {_IS}in (?:the )?(?:IOMMU )?group (?P<group>\d{{1,4}})\b", re.IGNORECASE
)
_NO_GROUP = re.compile(rf"{_NAME} (?:still )?has no (?:IOMMU )?group\b", re.IGNORECASE)


def of(sentence: str, where: str, step: int) -> Claim | None:
    """The claim of the state after the step."""
    if match := _BOUND.search(sentence):
        name, driver = match["device"] or "", match["driver"]
        text = f"{name or 'a device'} is bound to {driver}"
        return Claim("device", text, where, step, lines=(driver,), subject=name)
    match = _GROUP.search(sentence) or _NO_GROUP.search(sentence)
    if match is None:
        return None
    group = match.groupdict().get("group")
    text = f"{match['device']} is in {f'group {group}' if group else 'no group'}"
    number = int(group) if group else None
    return Claim("device", text, where, step, number=number, subject=match["device"])
