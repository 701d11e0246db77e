# SPDX-License-Identifier: GPL-2.0-only
"""The sentences of a message's own prose, and which of them state what happened."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.report import fact, shell
from harness.report.claim import lines_of
from harness.report.lines import Line
from harness.report.session import Session, is_elsewhere

# A sentence with one of these says what should be, or what does not happen.
_NOT_A_CLAIM = re.compile(
    r"\b(?:should|expect\w*|would|could|may|might|must|afraid|fear\w*|worr\w+|perhaps|maybe|probably|possibly|"
    r"not? (?:longer|more)|never (?:saw|seen|happen\w*)|"
    r"can ?not reproduce|can't reproduce|unable to reproduce|fix(?:es|ed)?|with (?:the|this|my) "
    r"patch|"
    r"patched|if|instead of|supposed|ideally|does(?:n't| not) (?:hang|happen|crash|oops|panic)|"
    r"did(?:n't| not) (?:hang|happen|crash|oops|panic)|without (?:a |any )?(?:hang|crash|oops|"
    r"panic))\b",
    re.IGNORECASE,
)
# What a sentence ends with that has said what does happen.
_EXPECTATION = re.compile(
    r"(?: instead of| rather than|,?(?: and| but)? not) (?:the (?:expected|usual) )?"
    r"(?:\d{1,4}|zero|one)\b"
    r"| \((?:I |we )?(?:would (?:have )?|should |was |were )?(?:expect\w*|be)\b[^()]*\)"
    r"|,? (?:as |but |while |where |whereas |although |though |and )?(?:I|we|one) "
    r"(?:had |would (?:have )?)?expect\w*\b.*",
    re.IGNORECASE,
)
# Words of a sentence that is about another case than the session.
_OTHER_CASE = re.compile(
    r"\b(?:without (?:a|any|the|its) (?:client|device|module|driver|patch\w*|nic)s?|unless|"
    r"otherwise|once|until|before|only|first|"
    r"sometimes|usually|normally|used to|previously|earlier|elsewhere|work ?around)\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[^.!?:;]+(?:[.!?:;](?=\S)[^.!?:;]*)*[.!?:;]*")


def states(sentence: str) -> bool:
    """Whether the sentence says what happens, and not what should or does not."""
    return _NOT_A_CLAIM.search(sentence) is None


def is_other_case(sentence: str) -> bool:
    """Whether the sentence is about another case, machine or kernel than the session."""
    return _OTHER_CASE.search(sentence) is not None or is_elsewhere(sentence)


def own(lines: Sequence[Line], session: Session) -> list[Line]:
    """The lines of a message's prose, which stand in no command."""
    inside = {
        number
        for each in session.commands
        if each.shown
        for number in (each.line, *each.numbers, *each.passed)
    }
    return [line for line in observed(lines) if line.number not in inside]


def stated_about(lines: Sequence[Line], session: Session) -> list[tuple[str, str]]:
    """What a message's prose states, a sentence each, with its place."""
    return list(stated(own(lines, session)))


_SECTION = re.compile(
    r"(?:[#*=_ ]*)(?P<name>expected|additional|environment|version|workaround|how reproducible|"
    r"actual|observed|steps|description|what happen|result|current)\b[^.]{0,60}$",
    re.IGNORECASE,
)
# Of a form's parts these say what the kernel should do, or is.
_NO_OBSERVATION = re.compile(
    r"expected|additional|environment|version|workaround|how reproducible", re.IGNORECASE
)


def observed(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines of a message's own prose, without the parts of a form that say what should
    be. What is left out stands as a blank line, which ends a sentence."""
    skips = False
    for line in lines:
        section = _SECTION.match(line.bare)
        if section:
            skips = _NO_OBSERVATION.match(section["name"]) is not None
        if skips or line.diff or line.border or line.depth:
            yield replace(line, text="")
        else:
            yield line


def stated(lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
    """The sentences that state something, with their places, without what is expected."""
    for first, last, sentence in _sentences(lines):
        said = _EXPECTATION.sub("", sentence)
        if states(said):
            yield lines_of(first, last), said


def _sentences(lines: Sequence[Line]) -> Iterator[tuple[int, int, str]]:
    """Each sentence with the first and last line of its paragraph."""
    for first, last, text in paragraphs(lines):
        for match in SENTENCE.finditer(text):
            yield first, last, match[0].strip()


def paragraphs(lines: Sequence[Line]) -> Iterator[tuple[int, int, str]]:
    """Each paragraph with its first and last line."""
    paragraph: list[Line] = []
    for line in [*lines, None]:
        if line is not None and not line.blank and not fact.of(line.bare):
            paragraph.append(line)
            continue
        if paragraph:
            text = " ".join(each.bare for each in paragraph)
            yield paragraph[0].number, paragraph[-1].number, text
        paragraph = []


def without_commands(sentence: str, session: Session) -> str:
    """The sentence without the commands in it, whose words say nothing of what they do."""
    for text in sorted(session.texts, key=len, reverse=True):
        program = (shell.programs(text) or [""])[0]
        parts = re.split(rf"{re.escape(text)}(?!\w)", sentence)  # not the start of "hangs"
        sentence = program.join(parts)
    return sentence
