# SPDX-License-Identifier: GPL-2.0-only
"""Parse what a sentence states: a refcount, a crash, or the driver or group of a device."""

import re
from dataclasses import dataclass

from harness.klog.splat import Splat
from harness.report.claim import Claim, Kind

_NUMBER = r"(?P<number>\d{1,4}|zero|one|two|three|four)\b"
# The name of a module. An underscore or a hyphen distinguishes it from an ordinary word.
_MODULE_NAME = r"[a-z][a-z\d]{0,30}(?:[-_][a-z\d]{1,30}){1,8}"
_MODULE = rf"(?<![\w-])`?(?P<owner>{_MODULE_NAME})`?"
_REFCOUNT = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:{_MODULE} (?:\w+ )?(?:has|shows|keeps|holds) (?:an? |the )?)?"
        r"\b(?:ref(?:erence)?[ -]?(?:count(?:er|s)?|cnt)|refcnt|(?:use|usage|the|its) count)\b"
        rf"(?: (?:of|for) (?:the )?[`'\"]?(?P<module>{_MODULE_NAME})[`'\"]?)?[^.\d]{{0,60}}?"
        r"\b(?:is|are|was|stays?|remains?|still|at|shows?|to|becomes|of|=|:)[ =:]+"
        rf"(?:still |at |then )*{_NUMBER}",
        rf"(?:{_MODULE} (?:\w+ )?)?\b(?:has|have|holds?|keeps?|kept|leaves?) "
        rf"(?:still |only |just )?{_NUMBER} (?:\w+ )?references?\b",
    )
)
_NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}

HANG = re.compile(
    r"\b(?:hangs?|hung|hanging|freezes?|froze|frozen|stuck|deadlocks?|never (?:returns?|comes? "
    r"back|"
    r"ends?|finish\w*)|(?:does|did) ?n[o']t (?:return|come back|end|finish)|blocks? for ?ever)\b",
    re.IGNORECASE,
)
# A hang that ends: "hangs for two minutes", "blocks for about 30 s".
_AMOUNT = (
    r"(?P<amount>\d{1,4}|half an?|an?|one|two|three|four|five|six|seven|eight|nine|ten|fifteen|"
    r"twenty|thirty|forty|sixty|ninety)"
)
_UNIT = r"(?P<unit>s|sec|second|m|min|minute|h|hour)s?"
_DURATION = re.compile(
    rf"(?:{HANG.pattern}|\bblock(?:s|ed)?\b)(?: (?:there|here|now))?"
    r" for(?: (?:a good|about|around|almost|nearly|roughly|some|at least|more than|over))?"
    rf" ~?{_AMOUNT}[ -]?{_UNIT}\b(?! time)",
    re.IGNORECASE,
)
_AMOUNTS = {
    "half a": 0.5, "half an": 0.5, "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4,
    "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "fifteen": 15,
    "twenty": 20, "thirty": 30, "forty": 40, "sixty": 60, "ninety": 90,
}  # fmt: skip
_SECONDS = {"s": 1, "m": 60, "h": 3600}

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
_SPLAT_IN_FUNCTION = re.compile(
    r"\b(?P<kind>warn(?:ing|s)?|oops(?:es)?|null[ -]pointer dereference|bug)"
    r" (?:in|at|from) [`'\"]?(?P<function>[a-z_]\w*_\w+)",
    re.IGNORECASE,
)


# Patterns, each with the kind and the text of its claim. The first match wins.
_CRASHES: tuple[tuple[re.Pattern[str], Kind, str], ...] = (
    (HANG, "hang", "{name} hangs"),
    (_PANIC, "panic", "the kernel panics"),
    (_SPLAT_IN_FUNCTION, "splat", ""),
    (_OOPS, "splat", "the kernel oopses"),
    (_CRASH, "splat", "the kernel crashes"),
    (_KILLED, "killed", "{name} is killed"),
)
_SPLAT_KINDS = {"w": "WARNING", "b": "BUG"}

_DEVICE_NAME = r"(?<![\w:.-])[`'\"]?(?P<device>\w[\w:.-]{0,30}?\d[\w:.-]{0,30})[`'\"]?"
_REMAINS = r"(?:is|are|stays?|remains?|was|were) (?:(?:still|also|now) )*"

# "is not bound to" and "is not in" do not match: they state something different.
_BOUND = re.compile(
    rf"(?:{_DEVICE_NAME} (?:\w+ )?)?{_REMAINS}"
    r"(?:bound|attached) to (?:the )?[`'\"]?(?P<driver>[\w-]+)",
    re.IGNORECASE,
)
_GROUP = re.compile(
    rf"{_DEVICE_NAME} {_REMAINS}in (?:the )?(?:IOMMU )?group (?P<group>\d{{1,4}})\b", re.IGNORECASE
)
_NO_GROUP = re.compile(rf"{_DEVICE_NAME} (?:still )?has no (?:IOMMU )?group\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refcount:
    """The ``number`` of references to a ``module`` (with underscores; "" for the IOMMU driver)."""

    module: str
    number: int


def refcount(sentence: str) -> Refcount | None:
    """Return the refcount that the sentence states, or None if it states no refcount."""
    for pattern in _REFCOUNT:
        if match := pattern.search(sentence):
            groups = match.groupdict()
            word = match["number"].lower()
            module = groups.get("module") or groups["owner"] or ""
            number = _NUMBERS[word] if word in _NUMBERS else int(word)
            return Refcount(module.replace("-", "_"), number)
    return None


def crash(sentence: str, command: str, where: str, step: int) -> Claim | None:
    """Return the claim of a hang, a panic, an oops, a warning or a killed process, or None if the
    sentence states none of these. ``command`` is the command of the step, for messages."""
    if seconds := duration(sentence):
        return Claim("hang", f"{command} hangs for {seconds} s", where, step, number=seconds)
    for pattern, kind, text in _CRASHES:
        if match := pattern.search(sentence):
            if not text:
                return _splat_in_function(match, where, step)
            return Claim(kind, text.format(name=command), where, step)
    return None


def duration(sentence: str) -> int:
    """Return for how many seconds a command hangs according to the sentence, 0 if not stated."""
    match = _DURATION.search(sentence)
    if match is None:
        return 0
    amount = match["amount"].lower()
    number = float(amount) if amount.isdecimal() else _AMOUNTS[amount]
    return round(number * _SECONDS[match["unit"][0].lower()])


def hangs_forever(sentence: str) -> bool:
    """Whether the sentence states a hang that does not end."""
    return HANG.search(sentence) is not None and not duration(sentence)


def _splat_in_function(match: re.Match[str], where: str, step: int) -> Claim:
    kind = _SPLAT_KINDS.get(match["kind"][0].lower(), "Oops")
    title = f"{kind} in {match['function']}"
    found = Splat(kind, title, "", 0, match["function"], "", (), (match[0],))
    return Claim("splat", f"the kernel reports: {title}", where, step, splat=found)


def device(sentence: str, where: str, step: int) -> Claim | None:
    """Return the claim of a device's driver or group after the step, or None if the sentence states
    neither."""
    if match := _BOUND.search(sentence):
        name, driver = match["device"] or "", match["driver"]
        text = f"{name or 'a device'} is bound to {driver}"
        return Claim("device", text, where, step, lines=(driver,), subject=name)
    match = _GROUP.search(sentence) or _NO_GROUP.search(sentence)
    if match is None:
        return None
    group = match.groupdict().get("group")
    text = f"{match['device']} {f'is in group {group}' if group else 'has no group'}"
    number = int(group) if group else None
    return Claim("device", text, where, step, number=number, subject=match["device"])
