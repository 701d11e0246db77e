# SPDX-License-Identifier: GPL-2.0-only
"""Select the session of a report to replay, with its claims."""

import re
from dataclasses import dataclass, replace

from harness.errors import UsageError
from harness.report import prompt, report_claims
from harness.report.bug_report import Report, Text
from harness.report.claim import Claim, one_line
from harness.report.report_claims import Shown
from harness.report.session import Session

_FORMAT_HINT = (
    "write each command after '$ ' or '# ', its output below it, "
    "and a nonzero exit status below the output, for example [1]"
)

# Words in the heading of a session that shows correct behaviour.
_WITHOUT_THE_BUG = re.compile(
    r"\b(?:with (?:the|this|my|that|your|both|all|v\d) (?:\w+ ){0,3}(?:patch|patches|fix|series|"
    r"change|"
    r"commit)|patched|after (?:applying|the fix|the patch)|expected|should|works?|working|good|"
    r"fixed|fine|okay|no problems?|"
    r"no longer|correct\w*)\b",
    re.IGNORECASE,
)

# How many characters of a heading, before the session, are searched for these words.
_HEADING_LENGTH = 160

# The maximum number of sessions or lines that a message lists.
_MAX_LISTED = 8


@dataclass(frozen=True, slots=True)
class Selection:
    """A session to replay, with all claims about it. ``notes`` describe the choices that were made
    for the user."""

    session: Session
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]


def select(report: Report, which: str | None) -> Selection:
    """Select the session to replay.

    ``which`` is "all" or the numbers of sessions, from 1 ("1,3"). Several sessions are joined into
    one. None selects the first session that shows the bug. Raises UsageError if the report does
    not have the requested sessions.
    """
    if not report.sessions:
        raise UsageError(f"{report.name} contains no shell session", _FORMAT_HINT)
    if which is None:
        shown = _first_with_bug(report)
        notes = _notes(report, shown)
        return Selection(shown.session, tuple(report_claims.collect(report, shown)), tuple(notes))
    picked = [report.sessions[number - 1] for number in _numbers(report, which)]
    claims: list[Claim] = []
    steps = 0
    for text, session in picked:
        found = report_claims.collect(report, report_claims.shown(report, text, session))
        claims += [
            each if each.step is None else replace(each, step=each.step + steps) for each in found
        ]
        steps += len(session.commands)
    commands = tuple(command for _, each in picked for command in each.commands)
    return Selection(replace(picked[0][1], commands=commands), tuple(claims), ())


def _numbers(report: Report, which: str) -> list[int]:
    total = len(report.sessions)
    if which == "all":
        return list(range(1, total + 1))
    words = which.split(",")
    if not all(re.fullmatch(r" *\d{1,6} *", word) and 1 <= int(word) <= total for word in words):
        raise UsageError(
            f"{report.name} has no session {which}; its sessions are {_listing(report)}",
            "use --session N, --session 1,3 or --session all",
        )
    return [int(word) for word in words]


def _first_with_bug(report: Report) -> Shown:
    """Return the first of the best sessions in the first message with sessions. A session is better
    if it is not quoted, if it shows a symptom, and if its heading does not announce correct
    behaviour, in this order of importance."""
    number = report.sessions[0][0].number
    candidates = [
        report_claims.shown(report, text, session)
        for text, session in report.sessions
        if text.number == number
    ]

    def rank(each: Shown) -> tuple[bool, bool, bool]:
        heading = each.session.heading[-_HEADING_LENGTH:]
        fine = _WITHOUT_THE_BUG.search(heading) is not None
        return each.session.quoted, not each.any_symptom, fine

    return min(candidates, key=rank)


def _notes(report: Report, shown: Shown) -> list[str]:
    notes = []
    if len(report.sessions) > 1:
        notes.append(f"choose a different session with --session N: {_listing(report)}")
    if shown.session.quoted:
        notes.append("the session is in quoted text")
    skipped = _skipped_commands(shown.text)
    if skipped:
        numbers = ", ".join(map(str, skipped[:_MAX_LISTED]))
        notes.append(f"skipped possible commands of unknown programs in lines {numbers}")
    return notes


def _skipped_commands(text: Text) -> list[int]:
    """The numbers of the lines that may be commands of unknown programs."""
    inside = text.command_lines
    return [
        line.number
        for line in text.lines
        if line.number not in inside and not line.diff and prompt.looks_like_command(line.stripped)
    ]


def _listing(report: Report) -> str:
    """List the sessions in one line, with the numbers that ``select`` accepts."""
    titles = [f"{n} ({_title(*pair)})" for n, pair in enumerate(report.sessions, start=1)]
    more = f", and {len(titles) - _MAX_LISTED} more" if len(titles) > _MAX_LISTED else ""
    return ", ".join(titles[:_MAX_LISTED]) + more


def _title(text: Text, each: Session) -> str:
    count = len(each.commands)
    first = one_line(each.commands[0].text)[:40]
    return f"line {each.first_line}{text.suffix}, {count} command{'s' * (count > 1)} from '{first}'"
