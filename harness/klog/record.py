# SPDX-License-Identifier: GPL-2.0-only
"""Records of the kernel log as read from /dev/kmsg.

Format: Documentation/ABI/testing/dev-kmsg.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HEADER = re.compile(rb"(\d+),(\d+),(\d+),([^;]*);")
# A line of the log on a console, with the task or CPU if CONFIG_PRINTK_CALLER is set.
_STAMPED = re.compile(r"\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? (.*)")
_TIMED = re.compile(r"\[ *(\d+\.\d+)\](?:\[ *[TC]\d+\])? ?(.*)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Record:
    """A message. ``level`` is from 0 (emergency) to 7 (debug). ``sequence`` is the number of the
    message since boot. ``time`` is in seconds since boot."""

    level: int
    sequence: int
    time: float
    text: str

    def __str__(self) -> str:
        return f"[{self.time:12.6f}] {self.text}"


def parse(data: bytes) -> Record | None:
    """Parse a record, without its dictionary lines. Returns None if it is not a record."""
    match = _HEADER.match(data)
    if match is None:
        return None
    priority, sequence, microseconds = (int(part) for part in match.groups()[:3])
    text = data[match.end() :].split(b"\n", 1)[0].decode(errors="replace")
    return Record(priority & 7, sequence, microseconds / 1e6, _unescaped(text))


def _unescaped(text: str) -> str:
    """Decode \\xHH: devkmsg escapes backslashes and bytes that are not printable ASCII."""
    if "\\x" not in text:
        return text
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        return raw.encode("latin-1").decode()
    except UnicodeError:
        return raw


def messages(console: str) -> list[str]:
    """Return the texts of the kernel messages on a console, without time stamps."""
    found = (_STAMPED.search(line) for line in console.splitlines())
    return [match[1] for match in found if match]


def unread(console: str, records: Sequence[Record]) -> list[str]:
    """Return the texts of the kernel messages on a console that are later than the last record."""
    last = records[-1].time if records else 0.0
    found = (_TIMED.match(line) for line in console.splitlines())
    return [match[2] for match in found if match and float(match[1]) > last]


def gaps(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Return the ranges of sequence numbers (first, last) of messages that the kernel overwrote
    before they were read."""
    pairs = itertools.pairwise(records)
    return [
        (before.sequence + 1, after.sequence - 1)
        for before, after in pairs
        if after.sequence > before.sequence + 1
    ]
