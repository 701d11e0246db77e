# SPDX-License-Identifier: GPL-2.0-only
"""A bug report, read: its sessions, and what each of them claims."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UsageError
from harness.host import mail
from harness.report import claim, contradiction, lines, prompt, prose, script, session, traces
from harness.report.claim import Claim
from harness.report.lines import Line
from harness.report.part import Command
from harness.report.session import Session

HOW_TO_WRITE = (
    "write what was typed and printed, each command behind '$ ' or '# ', "
    "its output below it, and [1] below that for an exit status"
)

# A session below such words shows how it should be.
_WITHOUT_THE_BUG = re.compile(
    r"\b(?:with (?:the|this|my|that|your|both|all|v\d) (?:\w+ ){0,3}(?:patch|patches|fix|series|"
    r"change|"
    r"commit)|patched|after (?:applying|the fix|the patch)|expected|should|works?|working|good|"
    r"fixed|fine|okay|no problems?|"
    r"no longer|correct\w*)\b",
    re.IGNORECASE,
)

# More sessions than a report has; a listing names the first ones.
_LISTED = 8


@dataclass(frozen=True, slots=True)
class Text:
    """A message or a text attached to it, read: its ``sessions``, and its number (from 1)
    among all messages."""

    number: int
    attached: bool
    lines: tuple[Line, ...]
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its ``texts``, and its ``sessions`` without repeats, each with the text that
    it is from."""

    name: str
    texts: tuple[Text, ...]
    sessions: tuple[tuple[Text, Session], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One session of a report with all that is claimed of it; ``notes`` say what was
    chosen for the user."""

    session: Session
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]


def read(path: Path) -> Report:
    """The report in a file, "-" for standard input. Raises UsageError as ``mail.read`` does."""
    messages = mail.read(path)
    name = "standard input" if str(path) == "-" else path.name
    texts: list[Text] = []
    for number, message in enumerate(messages, start=1):
        texts.append(_text(number, message.text, attached=False))
        texts += [
            _text(number, mail.plain_text(part), attached=True)
            for part in message.attachments
            if part.strip()
        ]
    if not any(text.sessions for text in texts):
        texts = [_with_scripts(text) for text in texts]
    kept = session.without_repeats([each for text in texts for each in text.sessions])
    pairs = ((text, each) for text in texts for each in text.sessions)
    return Report(name, tuple(texts), tuple(pair for pair in pairs if pair[1] in kept))


def _text(number: int, text: str, *, attached: bool) -> Text:
    read_lines = lines.read(text)
    return Text(number, attached, tuple(read_lines), tuple(session.sessions(read_lines)))


def _with_scripts(text: Text) -> Text:
    return replace(text, sessions=tuple(script.sessions(text.lines)))


def choose(report: Report, which: str | None) -> Case:
    """The session to replay, or several as one: ``which`` is "all" or numbers ("1,3") that
    count from 1 over ``sessions``; None takes the first that shows the bug.

    Raises UsageError, listing the sessions, when that is no answer.
    """
    found = report.sessions
    if not found:
        raise UsageError(f"no shell session in {report.name}", HOW_TO_WRITE)
    if which is None:
        text, chosen = _first(report)
        return _case(report, text, chosen, _choice_notes(report, text, chosen))
    picked = [found[number - 1] for number in _numbers(report, which)]
    text = picked[0][0]
    claims = [_shifted(report, picked, position) for position in range(len(picked))]
    commands = tuple(command for _, each in picked for command in each.commands)
    joined = replace(picked[0][1], commands=commands)
    return Case(joined, tuple(each for part in claims for each in part), ())


def _numbers(report: Report, which: str) -> list[int]:
    total = len(report.sessions)
    if which == "all":
        return list(range(1, total + 1))
    words = which.split(",")
    if not all(re.fullmatch(r" *\d{1,6} *", word) and 1 <= int(word) <= total for word in words):
        raise UsageError(
            f"no session {which} in {report.name}; it has {total} ({listing(report)})",
            "choose with --session N, --session 1,3 or --session all",
        )
    return [int(word) for word in words]


def _first(report: Report) -> tuple[Text, Session]:
    """Of the first message with any: the first session that is not quoted, shows something
    and does not show how it should be."""
    text = next(text for text in report.texts if any(t is text for t, _ in report.sessions))
    own = [each for t, each in report.sessions if t.number == text.number]

    def rank(each: Session) -> tuple[bool, bool, bool]:
        shows = claim.expects_anything([*claim.of_session(each), *_beside(report, text, each)])
        return each.quoted, not shows, _WITHOUT_THE_BUG.search(each.heading[-160:]) is not None

    best = min(own, key=rank)
    return next(pair for pair in report.sessions if pair[1] is best)


def _case(report: Report, text: Text, chosen: Session, notes: Sequence[str]) -> Case:
    claims = _claims(report, text, chosen)
    return Case(chosen, tuple(claims), tuple(notes))


def _shifted(report: Report, picked: Sequence[tuple[Text, Session]], position: int) -> list[Claim]:
    """The claims of one of several sessions that are replayed as one."""
    before = sum(len(each.commands) for _, each in picked[:position])
    return [
        each if each.step is None else replace(each, step=each.step + before)
        for each in _claims(report, *picked[position])
    ]


def _claims(report: Report, text: Text, chosen: Session) -> list[Claim]:
    """Those of the session, of the traces beside it, and of the prose where neither says
    anything."""
    own = claim.of_session(chosen)
    own = _with_words(own, [each for each in prose.of_notes(chosen) if not _is_said(each, own)])
    beside = [each for each in _beside(report, text, chosen) if not _is_known(each, own)]
    found = [*own, *beside]
    if not any(each.symptom for each in found):
        others = (each for each in report.texts if each.number != text.number)
        found += [each for other in others for each in _traces(other, other.lines, ())][:4]
    if not any(each.symptom for each in found):
        found = _with_words(found, prose.claims(text.lines, chosen))
    else:
        found += _in_words(text, chosen, found)
    if prose.is_about_taints(text.lines, chosen):
        found = [replace(each, tainted=each.kind == "refcount") for each in found]
    found = claim.with_emptiness(found, chosen)
    return [*found, *contradiction.of(_about(text, chosen), chosen, found)]


def _with_words(found: Sequence[Claim], stated: Sequence[Claim]) -> list[Claim]:
    """With what is stated in words, which is not that a command prints nothing."""
    steps = {each.step for each in stated}
    kept = [each for each in found if each.kind != "silence" or each.step not in steps]
    return [*kept, *stated]


def _is_said(one: Claim, others: Sequence[Claim]) -> bool:
    return any((one.kind, one.step) == (each.kind, each.step) for each in others)


def _in_words(text: Text, chosen: Session, found: Sequence[Claim]) -> list[Claim]:
    """What words add to symptoms that a session shows: how it ends, and a crash where it
    shows none."""
    ends = _shows_anything(chosen.commands[-1])
    stated = [] if ends else prose.of_end(text.lines, chosen)
    if any(each.kind in prose.CRASHES for each in (*found, *stated)):
        return stated
    return [*stated, *prose.of_crashes(_about(text, chosen), chosen)]


def _about(text: Text, chosen: Session) -> list[Line]:
    """The lines of a message that can be about the session: up to the next, and after the one
    before it. What a reply says is about its own kernel."""
    if chosen.quoted:
        return []
    before = [each.last for each in text.sessions if each.last < chosen.line]
    after = [each.line for each in text.sessions if each.line > chosen.last]
    lines = [
        n
        for n in text.lines
        if max(before, default=0) < n.number < min(after, default=n.number + 1)
    ]
    return _without_last_paragraph(lines) if after else lines


def _without_last_paragraph(some: Sequence[Line]) -> list[Line]:
    """It is the heading of what follows."""
    kept = list(some)
    for blank in (True, False):
        while kept and kept[-1].blank == blank:
            kept.pop()
    return kept


def _shows_anything(command: Command) -> bool:
    return bool(command.output) or command.status is not None or command.interrupted


def _is_known(one: Claim, others: Sequence[Claim]) -> bool:
    """Whether the session has the same trace: a report repeats it below."""
    return any(one.splat and each.splat and _identity(one) == _identity(each) for each in others)


def _identity(each: Claim) -> tuple[str, str]:
    assert each.splat
    return each.splat.kind, each.splat.function


def _beside(report: Report, text: Text, chosen: Session) -> list[Claim]:
    """The traces that stand nearest to this session: below it, above it where it is the
    message's first, or attached."""
    own = [each for each in text.sessions if each.quoted == chosen.quoted] or [chosen]
    place = next((n for n, each in enumerate(own) if each is chosen), 0)
    start = chosen.line if place else 0
    end = own[place + 1].line if place + 1 < len(own) else len(text.lines) + 1
    between = [line for line in text.lines if start <= line.number < end]
    found = _traces(text, between, text.sessions)
    for other in report.texts:
        if other.number == text.number and other is not text and place == 0:
            found += _traces(other, other.lines, other.sessions)
    return _distinct(found)


def _distinct(found: Sequence[Claim]) -> list[Claim]:
    kept: dict[tuple[str, str], Claim] = {}
    for each in found:
        kept.setdefault(_identity(each), each)
    return list(kept.values())


def _traces(text: Text, some: Sequence[Line], sessions: Sequence[Session]) -> list[Claim]:
    """The splats of lines that are in no session, each stretch of lines by itself."""
    inside = {
        number
        for each in sessions
        for command in each.commands
        for number in (command.line, *command.numbers)
    }
    found: list[Claim] = []
    stretch: list[Line] = []
    for line in [*some, None]:
        if line is not None and line.number not in inside and not line.diff:
            stretch.append(line)
            continue
        shown = traces.split([each.text for each in stretch], [each.number for each in stretch])
        place = "" if text.number == 1 and not text.attached else f" of message {text.number}"
        place += ", attached" if text.attached else ""
        found += [claim.of_splat(splat, where + place, None) for splat, where in shown.splats]
        stretch = []
    return found


def _choice_notes(report: Report, text: Text, chosen: Session) -> list[str]:
    notes = []
    if len(report.sessions) > 1:
        notes.append(f"the report has more sessions, see --session ({listing(report)})")
    if chosen.quoted:
        notes.append("the session is taken from a quotation")
    taken = {n for each in text.sessions for c in each.commands for n in (c.line, *c.numbers)}
    passed = [
        line.number
        for line in text.lines
        if line.number not in taken and not line.diff and prompt.looks_like_command(line.bare)
    ]
    if passed:
        many = f"{len(passed)} line{'s' * (len(passed) > 1)} that look{'s' * (len(passed) == 1)}"
        shown = ", ".join(map(str, passed[:_LISTED]))
        notes.append(f"{many} like a command was not taken (line {shown})")
    return notes


def listing(report: Report) -> str:
    """The sessions in a line, numbered as ``choose`` takes them."""
    titles = [f"{n}: {_title(each)}" for n, (_, each) in enumerate(report.sessions, start=1)]
    more = f", and {len(titles) - _LISTED} more" if len(titles) > _LISTED else ""
    return ", ".join(titles[:_LISTED]) + more


def _title(each: Session) -> str:
    count = len(each.commands)
    commands = (
        f"{count} command{'s' * (count > 1)} from '{claim.shortened(each.commands[0].text)[:40]}'"
    )
    return f"line {each.line} of its message, {commands}"
