# SPDX-License-Identifier: GPL-2.0-only
"""Read mail from an mbox, a single message, a page of a mail archive, or plain text.

The text is untrusted. Only its structure is interpreted.
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
from harness.host import paths

# Bug reports are smaller, and parsing more data would take long.
_MAX_BYTES = 64 << 20

_GZIP = b"\x1f\x8b"

_HINT = "give an mbox, a saved message or a text file"

# The separator in an mbox: an address and a date as ctime(3) prints it.
_MBOX = re.compile(rb"^From \S+ +\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}.*$", re.MULTILINE)
_HEADERS = re.compile(rb"\A(?:[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*){2,}")
_MAIL_HEADER = re.compile(rb"^(?:From|Subject|Message-ID|Date|Received):", re.I | re.MULTILINE)

# Where the next message of a thread begins in a page of a mail archive.
_PAGE_BREAK = re.compile(
    r"^(?:\^ permalink raw reply.*|Posted by .+ ago|From: .+@.+|.+ (?:UTC|[AP]M) \| #\d+)$",
    re.MULTILINE,
)

_HTML = re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """A message.

    ``subject`` is "" if a page or a plain text has no subject. ``text`` is the decoded body, and
    ``raw`` is the same as bytes, in the original charset. ``attachments`` has the bytes of all
    other parts except HTML.
    """

    subject: str
    text: str
    raw: bytes
    attachments: tuple[bytes, ...] = ()


def read(path: Path) -> list[Message]:
    """Read the messages of a file, in their order. "-" is standard input.

    Raises UsageError if the file is missing, empty, binary or larger than 64 MiB.
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
        raise UsageError(f"cannot read {path}: it is a URL", "download the mbox and pass the file")
    if str(path) != "-" and (path.is_dir() or not path.exists()):
        reason = paths.not_a_file(path)
        raise UsageError(f"cannot read {path}: {reason}", _HINT)
    data = _read_limited(path)
    if len(data) > _MAX_BYTES:
        raise UsageError(f"cannot read {path}: larger than 64 MiB", "cut it down to the message")
    if not data.strip():
        raise UsageError(f"cannot read {path}: the file is empty", _HINT)
    data = _from_utf_16(data)
    if b"\0" in data:
        raise UsageError(f"cannot read {path}: it is a binary file", _HINT)
    return data.replace(b"\r\n", b"\n")


def _read_limited(path: Path) -> bytes:
    """Read at most one byte more than the limit. gzip is decompressed, because mail archives offer
    threads as .mbox.gz."""
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
        raise UsageError(f"cannot decompress {path}: {error}", "download it again") from None


def _from_utf_16(data: bytes) -> bytes:
    """Convert data with a UTF-16 byte order mark to UTF-8, and remove a UTF-8 byte order mark."""
    if data.startswith(codecs.BOM_UTF8):
        return data.removeprefix(codecs.BOM_UTF8)
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data
    return data.decode("utf-16", errors="replace").replace("\r\n", "\n").encode(errors="replace")


def plain_text(part: bytes) -> str:
    """The text of an attachment, or "" if it is binary."""
    part = _from_utf_16(part)
    return "" if b"\0" in part else _decoded(part, None)


def _decoded(data: bytes, charset: str | None) -> str:
    """Decode data with its declared charset, otherwise as UTF-8, otherwise as Latin-1, which
    accepts any byte."""
    for name in (charset, "utf-8"):
        try:
            return _plain(data.decode(name or "utf-8"))
        except (LookupError, ValueError):
            continue
    return _plain(data.decode("latin-1"))


def _plain(text: str) -> str:
    """Replace no-break spaces, which mail programs insert into runs of blanks, and surrogates,
    which some charsets decode to and which cannot be encoded."""
    return text.replace("\xa0", " ").encode(errors="replace").decode()


def _mail(data: bytes) -> Message:
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return _parsed(message, data)
    # The email package raises many kinds of errors for malicious headers.
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError):
        raise UsageError(
            "cannot parse the mail: its headers are malformed", "save its text in a file"
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
    # An HTML part next to the text repeats the text.
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
    """The parser that extracts the text of an HTML page: a line for each block, with runs of
    blanks folded except in <pre>."""

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
            self.text += "\n"  # an empty line: prose follows

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
