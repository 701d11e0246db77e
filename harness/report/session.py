# SPDX-License-Identifier: GPL-2.0-only
"""Find the shell sessions in the text of a message.

Segments with prose between them are one session, unless the prose is about a different machine,
kernel or boot.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report import commands, segment
from harness.report.commands import Command
from harness.report.lines import Line
from harness.report.segment import Segment


@dataclass(frozen=True, slots=True)
class Session:
    """A shell session: commands that were typed one after the other.

    ``quoted``: the session is a quotation in a reply. ``heading`` is the prose above the session.
    ``host`` is the host name in its prompts.
    """

    commands: tuple[Command, ...]
    quoted: bool = False
    heading: str = ""
    host: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(command.text for command in self.commands)

    @property
    def first_line(self) -> int:
        return self.commands[0].line

    @property
    def last_line(self) -> int:
        return self.commands[-1].last_line

    @property
    def last_step(self) -> int:
        """The number of the last command, from 0."""
        return len(self.commands) - 1


def find(lines: Sequence[Line]) -> list[Session]:
    """Return all sessions of a message, in order."""
    found: list[Segment] = []
    for each in segment.find(lines):
        base = _continued_by(each, found)
        if base is None:
            found.append(each)
            continue
        if _OTHER_TERMINAL.search(each.heading):
            base.commands[-1] = replace(base.commands[-1], background=not base.commands[-1].ended)
        base.commands += each.commands
        base.host = base.host or each.host
    return [
        Session(tuple(each.commands), each.depth > 0, each.heading, each.host) for each in found
    ]


def drop_repeats(found: Sequence[Session]) -> list[Session]:
    """Return the sessions without quotations and copies of other sessions. Two sessions with the
    same commands but different output ("with the patch") are both kept."""
    unquoted = {session.texts for session in found if not session.quoted}
    kept: list[Session] = []
    for session in found:
        repeats = [each for each in kept if each.texts == session.texts]
        quotes = session.quoted and (session.texts in unquoted or repeats)
        if not quotes and not any(_same_output(session, each) for each in repeats):
            kept.append(session)
    return kept


def _same_output(one: Session, other: Session) -> bool:
    return all(
        (a.output, a.status) == (b.output, b.status)
        for a, b in zip(one.commands, other.commands, strict=True)
    )


_OTHER_TERMINAL = re.compile(
    r"\b(?:(?:second|other|another|2nd|different|new) (?:terminal|shell|console|window|tty|xterm|"
    r"ssh|session|tab)|terminal ?(?:#? ?)?[2B]|shell ?(?:#? ?)?[2B]|meanwhile|in parallel)\b",
    re.IGNORECASE,
)

# Prose after which a session is about a different machine, kernel or boot.
_OTHER_MACHINE = re.compile(
    r"\b(?:with(?:out)? (?:the|this|that|my|your|his|her|v\d|both|these|all)?\b.{0,40}\b"
    r"(?:patch|patches|fix|series|change|commit|revert)|(?:after|before|when|once)"
    r" (?:applying|reverting|the patch|the fix|patching)|patched|unpatched|revert(?:ed|ing)|"
    r"expected|should (?:be|look|print|give)|after (?:a |the |another )?(?:reboot|fresh boot|"
    r"power)|"
    r"rebooted|fresh boot|(?:on|with|under|in) (?:an? |the )?(?:old|older|other|another|different|"
    r"previous|newer?|good|working|bad|second|vanilla|stable|lts|distro) "
    r"(?:kernel|machine|board|host|box|version|boot|vm|guest|release|system)|"
    r"(?:on|with|under|in) (?:linux |kernel |v)?\d\.\d+(?:\.\d+)?(?:-rc\d+)?\b|"
    r"for comparison|for reference|in contrast|by contrast|whereas|compare|"
    r"instead of|alternatively|another way|same (?:thing|steps|test|commands|sequence) )",
    re.IGNORECASE,
)


def mentions_other_machine(prose: str) -> bool:
    """Whether the prose is about a different machine, kernel or boot than the text above it."""
    return _OTHER_MACHINE.search(prose) is not None


def _continued_by(new: Segment, found: Sequence[Segment]) -> Segment | None:
    """Return the segment that the new segment continues, or None if it begins a session.

    Only the last segment can be continued, at the same quotation depth or by a reply to it. A
    segment about a different machine, and one that repeats the first commands, begins a session.
    """
    base = found[-1] if found else None
    if base is None or not (base.depth == new.depth or _answers(base, new)):
        return None
    if base.host and new.host and base.host != new.host:
        return None
    if mentions_other_machine(new.heading):
        return None
    return None if _begins_again(base, new) else base


def _answers(base: Segment, new: Segment) -> bool:
    """Whether the new segment is a reply to a quoted session that only shows more state."""
    if new.depth >= base.depth:
        return False
    return all(commands.shows_state(each.text) for each in new.commands)


def _begins_again(base: Segment, new: Segment) -> bool:
    """Whether the new segment repeats the first commands of the session."""
    texts, again = [each.text for each in base.commands], [each.text for each in new.commands]
    if texts == again:
        return True
    return len(again) > 1 and texts[: min(2, len(texts))] == again[: min(2, len(texts))]
