# SPDX-License-Identifier: GPL-2.0-only
"""Records of the kernel log as read from /dev/kmsg.

Format: Documentation/ABI/testing/dev-kmsg.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

_HEADER = re.compile(rb"(\d+),(\d+),(\d+),([^;]*);")
# A line of the log on a console, with the task or processor if CONFIG_PRINTK_CALLER is set.
_STAMPED = re.compile(r"\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? (.*)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Record:
    """One message: ``level`` 0 (emergency) to 7 (debug), ``sequence`` number since
    boot, ``time`` in seconds since boot."""

    level: int
    sequence: int
    time: float
    text: str

    def __str__(self) -> str:
        return f"[{self.time:12.6f}] {self.text}"


def parse(data: bytes) -> Record | None:
    """Parse one record, without its dictionary lines; None if it is no record."""
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
    """The texts of the log's messages on a console, without time stamps."""
    found = (_STAMPED.search(line) for line in console.splitlines())
    return [match[1] for match in found if match]


def gaps(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Ranges of sequence numbers (first, last) of messages that the kernel overwrote before
    they were read."""
    pairs = itertools.pairwise(records)
    return [
        (before.sequence + 1, after.sequence - 1)
        for before, after in pairs
        if after.sequence > before.sequence + 1
    ]
