# SPDX-License-Identifier: GPL-2.0-only
"""Find a session that a message only describes in prose, with its commands in backquotes.

The commands are run in the order of the text. A message is skipped if a command is in a clause
about another time, a condition or a wish, because the order of the text may then differ from the
reporter's.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.report import commands, prompt, prose, shell_syntax
from harness.report.commands import Command
from harness.report.lines import Line
from harness.report.session import Session

_SPAN = re.compile(r"`+([^`]{2,300})`+")
# Rows of tables, and items of lists.
_LIST = re.compile(r"\||[-*\u2022] |\(?\d{1,2}[.)] ")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")

# Words in a sentence whose commands are not run, or only in a different case.
_OTHER_CASE = re.compile(
    r"\b(?:if|unless|without|instead|can|could|should|would|may|might|must|will|shall|expect\w*|"
    r"alternatively|either|please|try|suggest\w*|recommend\w*|tip|hint|e\.g\.|for example|"
    r"workaround|used to|want\w*|like to|need\w*|supposed|patched|repeat\w*|same)\b",
    re.IGNORECASE,
)
# Words in a clause whose command is run at a different time, or not at all.
_OTHER_TIME = re.compile(
    r"\b(?:before(?:hand)?|until|though|although|because|since|previously|earlier|formerly|"
    r"already|not?|never|\w+n't|or)\b",
    re.IGNORECASE,
)
_EARLIER = re.compile(r"\W*(?:before(?:hand)?|earlier|previously|first|already)\b", re.IGNORECASE)
# Words that put a command in front of an earlier one in the same sentence.
_INVERTED = re.compile(r"\b(?:after|once|when|whenever|while|having|following)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,:;()\u2013\u2014]")
_HARMLESS = re.compile(
    r"\bwithout (?:a |any )?(?:complain\w*|errors?|problems?|warnings?|word|trouble|output)\b"
    r"|\bno (?:error|output|problem|message|warning)s?\b",
    re.IGNORECASE,
)
_PRINTS = re.compile(
    r"\W{0,3}(?:(?:still|now|then|only|just|again|always|also) )*"
    r"(?:prints?|printed|shows?|showed|gives?|gave|says?|said|returns?|returned|outputs?|reads?|"
    r"contains?|yields?) (?:out )?(?:still |only |just )?"
    r"(?:(?P<number>-?\d{1,6})\b(?! (?:lines?|times?|devices?|entries))|`(?P<code>[^`]{1,200})`)",
    re.IGNORECASE,
)
_LEAST = 2


@dataclass(frozen=True, slots=True)
class _Span:
    """A command in backquotes. ``before`` and ``after`` are the text of its sentence up to the
    previous command and up to the next. ``follows``: a command precedes it in its sentence."""

    text: str
    line: int
    before: str
    after: str
    follows: bool


def find(lines: Sequence[Line]) -> Iterator[Session]:
    """Yield the session that the prose describes, if its order is clear."""
    spans = list(_spans(list(prose.observed_lines(lines))))
    if len(spans) >= _LEAST and all(map(_is_ordered, spans)):
        yield Session(tuple(map(_command, spans)))


def _spans(lines: Sequence[Line]) -> Iterator[_Span]:
    for first, last, text in prose.paragraphs(lines):
        if _LIST.match(text):
            continue
        within = [line for line in lines if first <= line.number <= last]
        found = [each for each in _SPAN.finditer(text) if _runs_program(each[1].strip())]
        for number, match in enumerate(found):
            start = found[number - 1].end() if number else 0
            end = found[number + 1].start() if number + 1 < len(found) else len(text)
            before, after = text[start : match.start()], text[match.end() : end]
            sentences = _SENTENCE_END.split(before)
            ending = _SENTENCE_END.search(after)
            yield _Span(
                match[1].strip(),
                _line_at(within, match.start()),
                sentences[-1],
                after[: ending.end()] if ending else after,
                bool(number) and len(sentences) == 1,
            )


def _runs_program(text: str) -> bool:
    return prompt.is_command(text) and bool(shell_syntax.programs(text)) and " " in text


def _line_at(lines: Sequence[Line], position: int) -> int:
    """The number of the line at a position of the text of a paragraph."""
    for line in lines:
        position -= len(line.stripped) + 1
        if position < 0:
            return line.number
    return lines[-1].number


def _is_ordered(span: _Span) -> bool:
    before = _HARMLESS.sub("", span.before)
    clause = _CLAUSE.split(before)[-1]
    if _OTHER_CASE.search(before) or _OTHER_TIME.search(clause) or _EARLIER.match(span.after):
        return False
    return not (span.follows and _INVERTED.search(before))


def _command(span: _Span) -> Command:
    shown = _PRINTS.match(span.after) if commands.shows_state(span.text) else None
    output = (shown["number"] or shown["code"],) if shown else ()
    return Command(
        span.text,
        output,
        None,
        span.line,
        (span.line,) if output else (),
        output_known=bool(output),
        ended=True,
        note="" if output else span.after.strip(" ,;"),
    )
