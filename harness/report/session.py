# SPDX-License-Identifier: GPL-2.0-only
"""Shell sessions in the text of a message, as people paste them.

What is typed in several parts, with prose between them, is one session as long as nothing
says that the machine is another one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report import context
from harness.report.lines import Line
from harness.report.part import Command, Part, parts


@dataclass(frozen=True, slots=True)
class Session:
    """Commands that were typed one after the other; ``quoted`` in a reply. ``heading``
    is the prose above it, ``host`` what its prompts name."""

    commands: tuple[Command, ...]
    quoted: bool = False
    heading: str = ""
    host: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(command.text for command in self.commands)

    @property
    def line(self) -> int:
        return self.commands[0].line

    @property
    def last(self) -> int:
        return self.commands[-1].last


def sessions(lines: Sequence[Line]) -> list[Session]:
    """All sessions of a message, in order."""
    found: list[Part] = []
    for part in parts(lines):
        base = _continued(found, part)
        if base is None:
            found.append(part)
            continue
        if _OTHER_TERMINAL.search(part.heading):
            base.commands[-1] = replace(base.commands[-1], background=not base.commands[-1].ended)
        base.commands += part.commands
        base.host = base.host or part.host
    return [
        Session(tuple(part.commands), part.depth > 0, part.heading, part.host) for part in found
    ]


def without_repeats(found: Sequence[Session]) -> list[Session]:
    """The sessions without quotations of others, and without copies. Two that type
    the same and see something else ("with the patch") are two."""
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

# Prose after which a session is about another machine, kernel or boot.
_ANOTHER_MACHINE = re.compile(
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


def is_elsewhere(prose: str) -> bool:
    """Whether the prose is about another machine, kernel or boot than what stands above it."""
    return _ANOTHER_MACHINE.search(prose) is not None


def _continued(found: Sequence[Part], part: Part) -> Part | None:
    """The part that this one goes on with: the last, of the same quotation or one that is
    answered, unless this is about another machine or begins the same again."""
    base = found[-1] if found else None
    if base is None or not (base.depth == part.depth or _answers(base, part)):
        return None
    if base.host and part.host and base.host != part.host:
        return None
    if is_elsewhere(part.heading):
        return None
    return None if _begins_again(base, part) else base


def _answers(base: Part, part: Part) -> bool:
    """Whether it only shows more of the state that the quoted session above it has led to."""
    return part.depth < base.depth and all(context.shows_state(each.text) for each in part.commands)


def _begins_again(base: Part, part: Part) -> bool:
    """Whether it types again what the session began with."""
    texts, again = [each.text for each in base.commands], [each.text for each in part.commands]
    if texts == again:
        return True
    return len(again) > 1 and texts[: min(2, len(texts))] == again[: min(2, len(texts))]
