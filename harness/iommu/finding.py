# SPDX-License-Identifier: GPL-2.0-only
"""Findings: rules that do not hold, and splats. A known issue is matched against the rule, subject,
value and calls of a finding, never against its ``text``.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.errors import CommandFailed, GuestError, GuestHang, GuestPanic
from harness.klog.splat import Splat

# Rules that neither a scenario nor the audit defines: a failed assertion without a rule; a panic,
# a hang or the loss of a guest; a command that an oops killed; a command that failed.
ASSERTION, PANIC, HANG, LOST, KILLED = "assertion", "panic", "hang", "lost", "killed"
COMMAND_FAILED = "command-failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold, or a splat.

    ``subject`` is for example a device or a module, ``value`` is the observed value, and ``text``
    describes the finding to the user. For a splat, ``rule`` is its kind, and ``calls`` are the
    guilty function and its callers, innermost first."""

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
    """Findings that make a scenario fail. ``where`` begins the message."""

    def __init__(self, findings: Sequence[Finding], where: str = "") -> None:
        text = "; ".join(each.text for each in findings)
        super().__init__(f"{where}: {text}" if where else text)
        self.findings = tuple(findings)


def require_none(findings: Iterable[Finding], where: str = "") -> None:
    """Raise RuleViolation if there are any findings. ``where`` begins its message."""
    found = list(findings)
    if found:
        raise RuleViolation(found, where)


def require(condition: object, rule: str, subject: str = "", value: object = "") -> None:
    """Raise RuleViolation for the rule if the condition is false."""
    if not condition:
        found = Finding(rule, subject, str(value))
        raise RuleViolation([Finding(rule, subject, str(value), str(found))])


def from_splat(splat: Splat) -> Finding:
    """Convert a splat to a finding."""
    return Finding(splat.kind, text=splat.title, calls=calls(splat), splat=splat)


def from_error(error: BaseException) -> list[Finding]:
    """Convert the exception that ended a scenario to findings."""
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
    """The guilty function of a splat and its callers, innermost first, without the suffixes that
    compilers add."""
    names = [_SUFFIX.sub("", name) for name in splat.frames]
    function = _SUFFIX.sub("", splat.function) or "?"
    if function in names:
        return tuple(names[names.index(function) :])
    caller = [splat.caller] if splat.caller not in ("", *names[:1]) else []
    return (function, *caller, *names)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern for findings.

    For splats it is "KIND in FUNCTION < CALLER < ... < CALLER", where "..." matches any number of
    callers. For rules it is "RULE SUBJECT = VALUE", where omitted parts match anything. In a name,
    "*" matches any characters, and "|" separates alternatives."""

    text: str

    def matches(self, finding: Finding) -> bool:
        """Whether the finding matches the pattern."""
        kind, separator, chain = self.text.partition(" in ")
        if separator:
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


def _follow(names: Sequence[str], calls: Sequence[str]) -> bool:
    """Whether the names match the calls, starting with the first call."""
    if not names:
        return True
    if names[0] == "...":
        return any(_follow(names[1:], calls[at:]) for at in range(len(calls)))
    return bool(calls) and _one_of(names[0], calls[0]) and _follow(names[1:], calls[1:])


def _one_of(alternatives: str, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in alternatives.split("|"))
