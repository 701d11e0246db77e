# SPDX-License-Identifier: GPL-2.0-only
"""What is wrong, one thing at a time: a rule that does not hold, or a splat. Known issues
explain findings by these facts, and never by how they are rendered.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.errors import CommandFailed, GuestError, GuestHang, GuestPanic
from harness.klog.splat import Splat

# The rules that are not scenarios' or the audit's own: an assertion that names no rule; a
# guest that ends, and a command that an oops ends.
ASSERTION, PANIC, HANG, LOST, KILLED = "assertion", "panic", "hang", "lost", "killed"
COMMAND_FAILED = "command-failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The ``rule`` that does not hold, the device, module or the like that it is about, and
    what was seen instead; ``text`` says that to people. Of a splat the rule is its kind, and
    ``calls`` are the guilty function and who called it, the innermost first."""

    rule: str
    subject: str = ""
    value: str = ""
    text: str = field(default="", compare=False)
    calls: tuple[str, ...] = ()
    splat: Splat | None = field(default=None, compare=False)

    def __str__(self) -> str:
        if self.calls:
            return f"{self.rule} in {' < '.join(self.calls)}"
        value = f" = {self.value}" if self.value else ""
        return f"{self.rule} {self.subject}".rstrip() + value


class RuleViolation(AssertionError):
    """Rules that do not hold."""

    def __init__(self, findings: Sequence[Finding], where: str = "") -> None:
        text = "; ".join(each.text for each in findings)
        super().__init__(f"{where}: {text}" if where else text)
        self.findings = tuple(findings)


def require_none(findings: Iterable[Finding], where: str = "") -> None:
    """Raises RuleViolation where there are any; ``where`` says in which case."""
    found = list(findings)
    if found:
        raise RuleViolation(found, where)


def require(condition: object, rule: str, subject: str = "", value: object = "") -> None:
    """Raises RuleViolation where the condition does not hold."""
    if not condition:
        found = Finding(rule, subject, str(value))
        raise RuleViolation([Finding(rule, subject, str(value), str(found))])


def from_splat(splat: Splat) -> Finding:
    return Finding(splat.kind, text=splat.title, calls=calls(splat), splat=splat)


def from_error(error: BaseException) -> list[Finding]:
    """What ended a scenario: its own findings, or what became of the guest."""
    if isinstance(error, RuleViolation):
        return list(error.findings)
    text = str(error).strip()
    if isinstance(error, GuestPanic):
        return [Finding(PANIC, value=error.text, text=text)]
    if isinstance(error, GuestHang):
        return [Finding(HANG, text=text)]
    if isinstance(error, CommandFailed):
        return [Finding(COMMAND_FAILED, error.command, str(error.status), text)]
    if isinstance(error, GuestError):
        return [Finding(LOST, text=text)]
    return [Finding(ASSERTION, text=text)]


_SUFFIX = re.compile(r"\.(?:constprop|isra|part|cold|llvm)\b.*")


def calls(splat: Splat) -> tuple[str, ...]:
    """The guilty function and who called it, the innermost first, without what compilers
    append to names."""
    names = [_SUFFIX.sub("", name) for name in splat.frames]
    function = _SUFFIX.sub("", splat.function) or "?"
    if function in names:
        return tuple(names[names.index(function) :])
    caller = [splat.caller] if splat.caller not in ("", *names[:1]) else []
    return (function, *caller, *names)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Findings by their facts: "KIND in FUNCTION < CALLER < ... < CALLER", each caller the
    next one outward unless "..." stands between; or "RULE SUBJECT = VALUE", where what is
    left out may be anything. "*" in a name stands for anything, "|" between names for one of
    them."""

    text: str

    def matches(self, finding: Finding) -> bool:
        """Whether the finding is of this kind."""
        kind, found, chain = self.text.partition(" in ")
        if found:
            is_kind = _one_of(kind, finding.rule)
            return bool(finding.calls) and is_kind and _follow(_names(chain), finding.calls)
        subject, _, value = self.text.partition(" = ")
        rule, _, name = subject.partition(" ")
        return (
            not finding.calls
            and rule == finding.rule
            and _one_of(name or "*", finding.subject)
            and _one_of(value or "*", finding.value)
        )


def _names(chain: str) -> list[str]:
    return [name.strip() for name in chain.split("<")]


def _follow(wanted: Sequence[str], calls: Sequence[str]) -> bool:
    """Whether the wanted names follow from the first call on."""
    if not wanted:
        return True
    if wanted[0] == "...":
        return any(_follow(wanted[1:], calls[at:]) for at in range(len(calls)))
    return bool(calls) and _one_of(wanted[0], calls[0]) and _follow(wanted[1:], calls[1:])


def _one_of(alternatives: str, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in alternatives.split("|"))
