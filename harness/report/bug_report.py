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
    """A message or an attachment, split into ``lines``.

    ``number`` is the number of the message, from 1. ``attached``: the text is an attachment of
    that message. ``sessions`` are the shell sessions in the text.
    """

    number: int
    attached: bool
    lines: tuple[Line, ...]
    sessions: tuple[Session, ...]

    @property
    def suffix(self) -> str:
        """The name of the message or attachment to append to a location, "" for message 1."""
        if self.attached:
            return f" of an attachment of message {self.number}"
        return "" if self.number == 1 else f" of message {self.number}"

    @property
    def command_lines(self) -> set[int]:
        """The numbers of all lines that are a command or its output."""
        return {n for each in self.sessions for one in each.commands for n in one.own_lines}


@dataclass(frozen=True, slots=True)
class Report:
    """A bug report. ``texts`` are its messages and attachments. ``sessions`` are the shell
    sessions in them without repeats, each with the text that contains it."""

    name: str
    texts: tuple[Text, ...]
    sessions: tuple[tuple[Text, Session], ...]


def read(path: Path) -> Report:
    """Read the report in a file, or from standard input if ``path`` is "-". Raises UsageError as
    ``mail.read`` does."""
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
