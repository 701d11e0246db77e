# SPDX-License-Identifier: GPL-2.0-only
"""Collect the claims of a report about one of its sessions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report import claim, contradiction, kernel_log, prose, prose_claims, session_claims
from harness.report.bug_report import Report, Text
from harness.report.claim import Claim
from harness.report.commands import Command
from harness.report.lines import Line
from harness.report.session import Session

# How many splats of other messages become claims.
_MAX_OTHER_SPLATS = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """What a report shows about a ``session`` in ``text``, apart from its prose.

    ``own`` are the claims of the session itself. ``beside`` are the claims of the splats near it.
    """

    text: Text
    session: Session
    own: list[Claim]
    beside: list[Claim]

    @property
    def any_symptom(self) -> bool:
        return claim.any_symptom([*self.own, *self.beside])


def shown(report: Report, text: Text, session: Session) -> Shown:
    """Return what the report shows about the session, apart from its prose."""
    return Shown(text, session, session_claims.find(session), _splats_beside(report, text, session))


def collect(report: Report, of: Shown) -> list[Claim]:
    """Return all claims about the session: what the report shows, what its prose adds, and where
    the prose contradicts the session. If the report shows a symptom, its prose adds only crashes
    and the ending of the session."""
    text, session = of.text, of.session
    whole = prose.read(text.lines, session)
    lines = _lines_about(text, session)
    near = whole if len(lines) == len(text.lines) else prose.read(lines, session)
    notes = [each for each in prose_claims.note_claims(session) if not _is_claimed(each, of.own)]
    own = _add_stated(of.own, notes)
    found = [*own, *(each for each in of.beside if not _is_repeated(each, own))]
    if not claim.any_symptom(found):
        found += _splats_of_other_messages(report, text)
    if not claim.any_symptom(found):
        found = _add_stated(found, prose_claims.find(whole, session))
    else:
        ending = _stated_ending(text, session)
        found += ending
        if not any(each.kind in prose_claims.CRASH_KINDS for each in found):
            found += prose_claims.crash_claims(near, session)
    if prose_claims.mentions_taints(whole):
        found = [replace(each, about_taints=each.kind == "refcount") for each in found]
    found = session_claims.promote_silence(found, session)
    return [*found, *contradiction.find(near, session, found)]


def _add_stated(found: Sequence[Claim], stated: Sequence[Claim]) -> list[Claim]:
    """Add claims of the prose. They replace the claim that their command prints nothing."""
    steps = {each.step for each in stated}
    kept = [each for each in found if each.kind != "silence" or each.step not in steps]
    return [*kept, *stated]


def _is_claimed(one: Claim, others: Sequence[Claim]) -> bool:
    return any((one.kind, one.step) == (each.kind, each.step) for each in others)


def _stated_ending(text: Text, session: Session) -> list[Claim]:
    """Return the claims of the prose about the last command, if the session does not show how that
    command ended."""
    last: Command = session.commands[-1]
    if last.output or last.status is not None or last.interrupted:
        return []
    return prose_claims.closing_claims(text.lines, session)


def _lines_about(text: Text, session: Session) -> list[Line]:
    """Return the lines of a message that may be about the session: from the previous session to
    the next session. A quoted session has no such lines, because a reply is about a different
    kernel."""
    if session.quoted:
        return []
    before = [each.last_line for each in text.sessions if each.last_line < session.first_line]
    after = [each.first_line for each in text.sessions if each.first_line > session.last_line]
    first, last = max(before, default=0), min(after, default=len(text.lines) + 1)
    lines = [line for line in text.lines if first < line.number < last]
    return _without_last_paragraph(lines) if after else lines


def _without_last_paragraph(lines: Sequence[Line]) -> list[Line]:
    """Return the lines without the last paragraph, which introduces the next session."""
    kept = list(lines)
    for blank in (True, False):
        while kept and kept[-1].blank == blank:
            kept.pop()
    return kept


def _is_repeated(one: Claim, others: Sequence[Claim]) -> bool:
    """Whether the session has the same splat. A report may repeat a splat below its session."""
    return any(one.splat and each.splat and _identity(one) == _identity(each) for each in others)


def _identity(each: Claim) -> tuple[str, str]:
    assert each.splat
    return each.splat.kind, each.splat.function


def _splats_beside(report: Report, text: Text, session: Session) -> list[Claim]:
    """Return the claims of the splats nearest to this session: the splats below it and, for the
    first session of a message, the splats above it and in attachments."""
    alike = [each for each in text.sessions if each.quoted == session.quoted] or [session]
    place = next((n for n, each in enumerate(alike) if each is session), 0)
    start = session.first_line if place else 0
    end = alike[place + 1].first_line if place + 1 < len(alike) else len(text.lines) + 1
    between = [line for line in text.lines if start <= line.number < end]
    found = _splats(text, between)
    if place == 0:
        attached = [each for each in report.texts if each.number == text.number]
        found += [one for each in attached if each is not text for one in _splats(each, each.lines)]
    commands = [each.text for each in session.commands]
    distinct: dict[tuple[str, str], Claim] = {}
    for each in found:
        if each.splat and not kernel_log.is_printed_by(commands, each.splat):
            distinct.setdefault(_identity(each), each)
    return list(distinct.values())


def _splats_of_other_messages(report: Report, text: Text) -> list[Claim]:
    others = [each for each in report.texts if each.number != text.number]
    found = [one for each in others for one in _splats(each, each.lines, with_sessions=True)]
    return found[:_MAX_OTHER_SPLATS]


def _splats(text: Text, lines: Sequence[Line], *, with_sessions: bool = False) -> list[Claim]:
    """Return the claims of the splats in the lines of a text. Splats in diffs are ignored, and so
    are splats in sessions unless ``with_sessions``."""
    inside = set() if with_sessions else text.command_lines
    found: list[Claim] = []
    stretch: list[Line] = []
    for line in [*lines, None]:
        if line is not None and line.number not in inside and not line.diff:
            stretch.append(line)
        elif stretch:
            numbers = [each.number for each in stretch]
            split = kernel_log.split_splats([each.text for each in stretch], numbers)
            found += [
                claim.of_splat(splat, where + text.suffix, None) for splat, where in split.splats
            ]
            stretch = []
    return found
