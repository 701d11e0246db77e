# SPDX-License-Identifier: GPL-2.0-only
"""The prose of a message, and the sentences in it that state what happened."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.report import error_message, shell_syntax
from harness.report.lines import Line, place
from harness.report.session import Session, mentions_other_machine

# Words in a sentence about what should happen, or about what does not happen.
_NOT_A_CLAIM = re.compile(
    r"\b(?:should|expect\w*|would|could|may|might|must|afraid|fear\w*|worr\w+|perhaps|maybe|"
    r"probably|possibly|"
    r"not? (?:longer|more)|never (?:saw|seen|happen\w*)|"
    r"can ?not reproduce|can't reproduce|unable to reproduce|fix(?:es|ed)?|with (?:the|this|my) "
    r"patch|"
    r"patched|if|instead of|supposed|ideally|does(?:n't| not) (?:hang|happen|crash|oops|panic)|"
    r"did(?:n't| not) (?:hang|happen|crash|oops|panic)|without (?:a |any )?(?:hang|crash|oops|"
    r"panic))\b",
    re.IGNORECASE,
)
# The end of a sentence that first states what happens and then adds what was expected.
_EXPECTATION = re.compile(
    r"(?: instead of| rather than|,?(?: and| but)? not) (?:the (?:expected|usual) )?"
    r"(?:\d{1,4}|zero|one)\b"
    r"| \((?:I |we )?(?:would (?:have )?|should |was |were )?(?:expect\w*|be)\b[^()]*\)"
    r"|,? (?:as |but |while |where |whereas |although |though |and )?(?:I|we|one) "
    r"(?:had |would (?:have )?)?expect\w*\b.*",
    re.IGNORECASE,
)
# Words in a sentence about a different case than the session.
_OTHER_CASE = re.compile(
    r"\b(?:without (?:a|any|the|its) (?:client|device|module|driver|patch\w*|nic)s?|unless|"
    r"otherwise|once|until|before|only|first|"
    r"sometimes|usually|normally|used to|previously|earlier|elsewhere|work ?around)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?:;]+(?:[.!?:;](?=\S)[^.!?:;]*)*[.!?:;]*")
_SECTION = re.compile(
    r"(?:[#*=_ ]*)(?P<name>expected|additional|environment|version|workaround|how reproducible|"
    r"actual|observed|steps|description|what happen|result|current)\b[^.]{0,60}$",
    re.IGNORECASE,
)
# The sections of a form that do not describe what happened.
_NO_OBSERVATION = re.compile(
    r"expected|additional|environment|version|workaround|how reproducible", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that states a fact.

    ``words`` is the text with each command of the session replaced by the name of its program,
    because the arguments of a command do not describe its effect. ``where`` is the location of its
    paragraph in the report.
    """

    text: str
    words: str
    where: str


@dataclass(frozen=True, slots=True)
class Prose:
    """The prose of a message about one session: its ``lines``, and the sentences in them that
    state facts."""

    lines: tuple[Line, ...]
    statements: tuple[Sentence, ...]


def read(lines: Sequence[Line], session: Session) -> Prose:
    """Extract the prose of a message about the session: its lines without the commands and the
    output of the session. Commands without known output stay, because they may be part of a
    sentence."""
    inside = {
        number
        for each in session.commands
        if each.output_known
        for number in (*each.own_lines, *each.unrecognised)
    }
    kept = [line for line in observed_lines(lines) if line.number not in inside]
    return Prose(tuple(kept), tuple(statements(kept, session)))


def observed_lines(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield the lines of a message. Quotations, patches, markup and the sections of a form that
    do not describe what happened become blank lines, which end a sentence."""
    skips = False
    for line in lines:
        section = _SECTION.match(line.stripped)
        if section:
            skips = _NO_OBSERVATION.match(section["name"]) is not None
        if skips or line.diff or line.separator or line.depth:
            yield replace(line, text="")
        else:
            yield line


def statements(lines: Sequence[Line], session: Session) -> Iterator[Sentence]:
    """Yield the sentences that state a fact, without the expectations that they add."""
    for first, last, paragraph in paragraphs(lines):
        for match in _SENTENCE.finditer(paragraph):
            text = _EXPECTATION.sub("", match[0].strip())
            if states_fact(text):
                yield sentence(text, session, place(first, last))


def sentence(text: str, session: Session, where: str) -> Sentence:
    """Build the Sentence for ``text``. In its ``words`` each command of the session is replaced by
    the name of its program."""
    words = text
    for command in sorted(session.texts, key=len, reverse=True):
        if command in words:
            program = (shell_syntax.programs(command) or [""])[0]
            parts = re.split(rf"{re.escape(command)}(?!\w)", words)  # not the start of "hangs"
            words = program.join(parts)
    return Sentence(text, words, where)


def paragraphs(lines: Sequence[Line]) -> Iterator[tuple[int, int, str]]:
    """Yield the first line number, the last line number and the text of each paragraph. Each row
    of a table is a paragraph, and the error message of a tool ends a paragraph."""
    for kind, found in itertools.groupby(lines, _paragraph_kind):
        paragraph = list(found)
        if kind is not None:
            text = " ".join(each.stripped for each in paragraph)
            yield paragraph[0].number, paragraph[-1].number, text


def _paragraph_kind(line: Line) -> int | None:
    """Return a key that the lines of a paragraph share, None for a line outside paragraphs."""
    if line.blank or error_message.parse(line.stripped):
        return None
    return line.number if line.stripped.startswith("|") else 0


def last_sentence(text: str) -> str:
    """The last sentence of a text. It may be incomplete."""
    found: list[str] = _SENTENCE.findall(text)
    return found[-1] if found else ""


def states_fact(text: str) -> bool:
    """Whether the sentence is about what happens, not about what should or does not happen."""
    return _NOT_A_CLAIM.search(text) is None


def is_other_case(text: str) -> bool:
    """Whether the sentence is about a different case, machine or kernel than the session."""
    return _OTHER_CASE.search(text) is not None or mentions_other_machine(text)
