# SPDX-License-Identifier: GPL-2.0-only
"""What people send each other, as files: mbox, one mail, an archive's page, plain text.

What is read here is untrusted; nothing of it is interpreted but its structure.
"""

import codecs
import email
import email.policy
import gzip
import io
import re
import sys
import zlib
from dataclasses import dataclass
from email.message import EmailMessage, MIMEPart
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

from harness.errors import UsageError

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

_HTML = re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """``subject`` is "" where a page or a plain text has none that can be told;
    ``text`` is the body for reading, ``raw`` its bytes as they were sent, and
    ``attachments`` those of the further parts that are text."""

    subject: str
    text: str
    raw: bytes
    attachments: tuple[bytes, ...] = ()


def read(path: Path) -> list[Message]:
    """The file's messages, the first one first; "-" is standard input.

    Raises UsageError for a file that is missing, empty, binary or far too large.
    """
    data = _bytes(path)
    if _MBOX.match(data):
        return [_mail(part.lstrip(b"\n")) for part in _MBOX.split(data) if part.strip()]
    head = _HEADERS.match(data)
    if head and _MAIL_HEADER.search(head[0]):
        return [_mail(data)]
    if _HTML.match(data):
        data = _html_text(_decoded(data, None)).encode()
    return _page_messages(data)


def _bytes(path: Path) -> bytes:
    if str(path).startswith(("http:", "https:")):
        raise UsageError(f"{path} is an address", "download the mbox and name the file")
    if str(path) != "-" and (path.is_dir() or not path.exists()):
        what = "a directory" if path.is_dir() else "not there"
        raise UsageError(f"no such file: {path} is {what}", "name a file")
    data = _read_limited(path)
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is too large to be mail", "cut it down to the message")
    if not data.strip():
        raise UsageError(f"{path} is empty", "name another file")
    data = _from_utf_16(data)
    if b"\0" in data:
        raise UsageError(f"{path} is a binary file", "name a text file or an mbox")
    return data.replace(b"\r\n", b"\n")


def _read_limited(path: Path) -> bytes:
    """At most one byte too many; archives hand out threads as .mbox.gz."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be unpacked: {error}", "fetch it again") from None


def _from_utf_16(data: bytes) -> bytes:
    """As UTF-8, what a mark at its beginning says to be UTF-16."""
    if data.startswith(codecs.BOM_UTF8):
        return data.removeprefix(codecs.BOM_UTF8)
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data
    return data.decode("utf-16", errors="replace").replace("\r\n", "\n").encode(errors="replace")


def plain_text(part: bytes) -> str:
    """An attachment's text, "" for one that is binary."""
    part = _from_utf_16(part)
    return "" if b"\0" in part else _decoded(part, None)


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


def _mail(data: bytes) -> Message:
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return _parsed(message, data)
    # The email package raises almost anything for headers that are made to.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError) as error:
        raise UsageError(
            f"the mail cannot be parsed ({type(error).__name__})", "save its text in a file"
        ) from None
    except (TypeError, ValueError):
        return Message("", _decoded(data, None), data)


def _parsed(message: EmailMessage, data: bytes) -> Message:
    subject = " ".join(str(message["subject"] or "").split())
    body = message.get_body(preferencelist=("plain", "html"))
    payload = body.get_payload(decode=True) if body else None
    if body is None or not isinstance(payload, bytes):
        return Message(subject, _decoded(data, None), data)
    payload = payload.replace(b"\r\n", b"\n")
    text = _decoded(payload, _charset(body))
    if body.get_content_type() == "text/html":
        text = _html_text(text)
        payload = text.encode()
    # A page beside the text says the same again.
    others = (
        part
        for part in message.walk()
        if part is not body and part.get_content_type() != "text/html"
    )
    return Message(subject, text, payload, tuple(_attached(part) for part in others))


def _attached(part: MIMEPart) -> bytes:
    payload = None if part.is_multipart() else part.get_payload(decode=True)
    return payload.replace(b"\r\n", b"\n") if isinstance(payload, bytes) else b""


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


def _page_messages(data: bytes) -> list[Message]:
    text = _decoded(data, None)
    starts = [0, *(match.start() for match in _PAGE_BREAK.finditer(text)), len(text)]
    parts = [text[a:b] for a, b in pairwise(starts) if text[a:b].strip()]
    if len(parts) == 1:
        return [Message("", text, data)]
    return [Message("", part, part.encode()) for part in parts]
