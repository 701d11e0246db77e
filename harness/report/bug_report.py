# SPDX-License-Identifier: GPL-2.0-only
"""A bug report: its messages and attachments, and the shell sessions in them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.host import mail
from harness.report import lines, reproducer, session
from harness.report.lines import Line
from harness.report.session import Session


@dataclass(frozen=True, slots=True)
class Text:
    """A message, or a text ``attached`` to it: its lines and ``sessions``. ``number`` is that of
    the message, from 1."""

    number: int
    attached: bool
    lines: tuple[Line, ...]
    sessions: tuple[Session, ...]

    @property
    def command_lines(self) -> set[int]:
        """The numbers of the lines of all commands and their output."""
        return {n for each in self.sessions for one in each.commands for n in one.own_lines}


@dataclass(frozen=True, slots=True)
class Report:
    """A report: its ``texts``, and its ``sessions`` without repeats, each with its text."""

    name: str
    texts: tuple[Text, ...]
    sessions: tuple[tuple[Text, Session], ...]


def read(path: Path) -> Report:
    """The report in a file, "-" for standard input. Raises UsageError as ``mail.read`` does."""
    name = "standard input" if str(path) == "-" else path.name
    texts = tuple(_texts(path))
    if not any(text.sessions for text in texts):
        texts = tuple(replace(text, sessions=tuple(reproducer.find(text.lines))) for text in texts)
    kept = session.drop_repeats([each for text in texts for each in text.sessions])
    pairs = ((text, each) for text in texts for each in text.sessions)
    return Report(name, texts, tuple(pair for pair in pairs if pair[1] in kept))


def _texts(path: Path) -> Iterator[Text]:
    for number, message in enumerate(mail.read(path), start=1):
        yield _text(number, message.text, attached=False)
        for part in message.attachments:
            if part.strip():
                yield _text(number, mail.plain_text(part), attached=True)


def _text(number: int, text: str, *, attached: bool) -> Text:
    parsed = lines.parse(text)
    return Text(number, attached, tuple(parsed), tuple(session.find(parsed)))
