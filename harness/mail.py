# SPDX-License-Identifier: GPL-2.0-only
"""Bug reports as files: mbox, one mail, an archive's page as text, a transcript.

What is read here is untrusted; nothing of it is interpreted but its structure.
"""

import email
import email.policy
import gzip
import re
import zlib
from email.message import EmailMessage, MIMEPart
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

from harness.errors import UsageError
from harness.klog import splat
from harness.klog.splat import Splat
from harness.scenario import transcript
from harness.scenario.transcript import Session

# Megabytes of text are no bug report; parsing them would only take long.
_MAX_BYTES = 64 << 20

_GZIP = b"\x1f\x8b"

# An mbox's separator: an address and a date, as ctime(3) has it.
_MBOX = re.compile(rb"^From \S+ +\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}.*$", re.MULTILINE)
_HEADERS = re.compile(rb"\A(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*){2,}")
_MAIL_HEADER = re.compile(rb"^(?:From|Subject|Message-ID|Date|Received):", re.I | re.MULTILINE)

# Where the next message of a thread begins in an archive's page.
_PAGE_BREAK = re.compile(
    r"^(?:\^ permalink raw reply.*|Posted by .+ ago|From: .+@.+|.+ (?:UTC|[AP]M) \| #\d+)$",
    re.MULTILINE,
)

_LOG_STAMP = re.compile(r"^(?:[> \t]*)(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")


def read(path: Path) -> list[str]:
    """The report's messages as text, the first one first.

    Raises UsageError for a file that is missing, empty, binary or far too large.
    """
    data = _bytes(path)
    if _MBOX.match(data):
        return [_mail_text(part.lstrip(b"\n")) for part in _MBOX.split(data) if part.strip()]
    head = _HEADERS.match(data)
    if head and _MAIL_HEADER.search(head[0]):
        return [_mail_text(data)]
    return _page_messages(_decoded(data, None))


def _bytes(path: Path) -> bytes:
    if str(path).startswith(("http:", "https:")):
        raise UsageError(f"{path} is an address", "download the mbox and name the file")
    if not path.is_file():
        what = "a directory" if path.is_dir() else "not there"
        raise UsageError(f"no such report: {path} is {what}", "name a file")
    data = _read_limited(path)
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is too large for a report", "cut it down to the message")
    if not data.strip():
        raise UsageError(f"{path} is empty", "name a file with a shell session in it")
    if b"\0" in data:
        raise UsageError(f"{path} is a binary file", "name the text of a report")
    return data.replace(b"\r\n", b"\n")


def _read_limited(path: Path) -> bytes:
    """At most one byte too many; archives hand out threads as .mbox.gz."""
    with path.open("rb") as file:
        if file.peek(2)[:2] != _GZIP:
            return file.read(_MAX_BYTES + 1)
        try:
            return gzip.GzipFile(fileobj=file).read(_MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{path} cannot be unpacked: {error}", "fetch it again") from None


def _decoded(data: bytes, charset: str | None) -> str:
    """By the declared charset, else UTF-8, else Latin-1, which takes any byte."""
    for name in (charset, "utf-8"):
        try:
            return _plain(data.decode(name or "utf-8"))
        except (LookupError, ValueError):
            continue
    return _plain(data.decode("latin-1"))


def _plain(text: str) -> str:
    """Mail programs put no-break spaces where a log has runs of blanks; some
    charsets decode to halves of characters, which nothing can encode again."""
    return text.replace("\xa0", " ").encode(errors="replace").decode()


def _mail_text(data: bytes) -> str:
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return _body_text(message, data)
    # The email package raises almost anything for headers that are made to.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError) as error:
        raise UsageError(
            f"the mail cannot be parsed ({type(error).__name__})", "save its text in a file"
        ) from None
    except (TypeError, ValueError):
        return _decoded(data, None)


def _body_text(message: EmailMessage, data: bytes) -> str:
    body = message.get_body(preferencelist=("plain", "html"))
    if body is None:
        return _decoded(data, None)
    payload = body.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return _decoded(data, None)
    text = _decoded(payload, _charset(body)).replace("\r\n", "\n")
    return _html_text(text) if body.get_content_type() == "text/html" else text


def _charset(body: MIMEPart) -> str | None:
    try:
        return body.get_content_charset()
    except (LookupError, ValueError):
        return None


class _Text(HTMLParser):
    """The text of a page: a line for each block, blanks folded outside of <pre>."""

    _BLOCKS = frozenset({"p", "div", "pre", "li", "tr", "blockquote", "h1", "h2", "h3"})
    _HIDDEN = frozenset({"script", "style", "head"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self._hidden = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._hidden += tag in self._HIDDEN
        self._pre += tag == "pre"
        if tag == "br":
            self.text += "\n"
        self._block(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self._HIDDEN))
        self._pre = max(0, self._pre - (tag == "pre"))
        self._block(tag)
        if tag == "pre":
            self.text += "\n"  # what follows is prose

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data if self._pre else self._folded(data)

    def _folded(self, data: str) -> str:
        text = re.sub(r"[ \t\n]+", " ", data)
        return text.lstrip(" ") if not self.text or self.text.endswith("\n") else text

    def _block(self, tag: str) -> None:
        if tag in self._BLOCKS and not self.text.endswith("\n"):
            self.text += "\n"


def _html_text(page: str) -> str:
    parser = _Text()
    parser.feed(page)
    parser.close()
    return _plain(parser.text)


def _page_messages(text: str) -> list[str]:
    starts = [0, *(match.start() for match in _PAGE_BREAK.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(starts) if text[a:b].strip()]


def sessions(messages: list[str]) -> list[Session]:
    """The sessions of all messages, in order, without those that repeat another."""
    return transcript.without_repeats(
        [session for message in messages for session in transcript.sessions(message)]
    )


def _first_count(messages: list[str], found: list[Session]) -> int:
    """How many of the sessions are in the first message that has any of them."""
    counts = (
        sum(session in found for session in transcript.sessions(message)) for message in messages
    )
    return next((count for count in counts if count), 0)


def choose(messages: list[str], number: int | None, name: str) -> Session:
    """The session to replay: ``number`` counts from 1 over ``sessions``; None takes
    the only one of the first message that has any.

    Raises UsageError, listing the sessions, when that is no answer.
    """
    found = sessions(messages)
    if not found:
        raise UsageError(
            f"no shell session in {name}", "a session is lines such as '$ modprobe arm-smmu-v3'"
        )
    if number is not None and 1 <= number <= len(found):
        return found[number - 1]
    if number is None and _first_count(messages, found) == 1:
        return found[0]
    problem = f"{name} has {len(found)} sessions"
    if number is not None:
        problem = f"no session {number} in {name}; it has {len(found)}"
    raise UsageError(f"{problem} ({listing(found)})", "choose one with --session N")


def listing(found: list[Session]) -> str:
    """The sessions in a line, numbered as ``choose`` takes them."""
    return ", ".join(f"{n}: {_title(session)}" for n, session in enumerate(found, start=1))


def _title(session: Session) -> str:
    first = session.commands[0]
    count = len(session.commands)
    commands = f"{count} command{'s' * (count > 1)} from '{first.text[:40]}'"
    return f"line {first.line} of its message, {commands}"


def splats(messages: list[str]) -> list[Splat]:
    """The splats that the report itself shows."""
    lines = [_LOG_STAMP.sub("", line) for message in messages for line in message.splitlines()]
    return splat.find(lines)
