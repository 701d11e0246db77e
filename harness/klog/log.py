# SPDX-License-Identifier: GPL-2.0-only
"""Stream the messages and splats of a kernel log in any text format."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from harness.klog import message, splat
from harness.klog.assembler import Assembler
from harness.klog.block import NEEDLES
from harness.klog.message import Message
from harness.klog.splat import Splat

_CHUNK = 1 << 18
# No message of the kernel is longer. Longer lines are truncated.
_LONGEST = 1 << 14
_NEEDLES = tuple(needle.encode() for needle in NEEDLES)
_MARKS = {
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def messages(source: IO[bytes] | Iterable[bytes]) -> Iterator[Message]:
    """Yield all messages of a log. ``source`` is a file opened in binary mode, or pieces of bytes.
    No content raises an exception."""
    lines = _Lines(source)
    parsed = (found for line, number, _ in lines if (found := message.parse(line, number)))
    return message.joined(parsed)


def splats(source: IO[bytes] | Iterable[bytes]) -> Iterator[Splat]:
    """Yield the splats of a log, each as soon as it has ended. ``first`` and ``last`` are line
    numbers from 1. Memory is bounded by the longest splat, and time is linear in the length of the
    log."""
    lines, assembler = _Lines(source), Assembler()
    for each in message.joined(_near(lines, assembler)):
        yield from map(splat.from_block, assembler.feed(each))
    yield from map(splat.from_block, assembler.finish())


def _near(lines: "_Lines", assembler: Assembler) -> Iterator[Message]:
    """Yield the messages of splats, and the messages that may open a splat."""
    for line, number, marked in lines.near_needles(lambda: not assembler.idle):
        if (found := message.parse(line, number, marked=marked)) is not None:
            yield found


# A message is complete when the next message begins, which is six lines further down in the JSON
# of dmesg with callers.
_FOLLOWING = 8


class _Lines:
    """An iterator over the lines of a log, from pieces of any size. Its items are the line, the
    number of the line from 1, and whether the line contains a needle."""

    def __init__(self, source: IO[bytes] | Iterable[bytes]) -> None:
        self._pieces = _pieces(source)
        self._number = 1
        self._patience = 0

    def __iter__(self) -> Iterator[tuple[str, int, bool]]:
        return self.near_needles(lambda: True)

    def near_needles(self, every: Callable[[], bool]) -> Iterator[tuple[str, int, bool]]:
        """Yield the lines with a needle, some lines after each of them, and all lines while
        ``every`` returns True."""
        for piece in self._pieces:
            yield from self._piece(piece, every)

    def _piece(self, piece: bytes, every: Callable[[], bool]) -> Iterator[tuple[str, int, bool]]:
        hits, at = _hits(piece), 0
        while at < len(piece):
            start = _next_hit(piece, hits, at)
            if start > at and self._patience <= 0 and not every():
                self._number += piece.count(b"\n", at, start)
                at = start
                continue
            if start == at:
                self._patience = _FOLLOWING
            stop = piece.find(b"\n", at)
            stop = len(piece) if stop < 0 else stop
            line = piece[at : min(stop, at + _LONGEST)].decode(errors="replace")
            yield line, self._number, start == at
            at, self._number, self._patience = stop + 1, self._number + 1, self._patience - 1


def _hits(piece: bytes) -> list[int]:
    """Return the positions of needles, last first."""
    found: list[int] = []
    for needle in _NEEDLES:
        at = piece.find(needle)
        while at >= 0:
            found.append(at)
            at = piece.find(needle, at + len(needle))
    found.sort(reverse=True)
    return found


def _next_hit(piece: bytes, hits: list[int], at: int) -> int:
    """Return the start of the first line with a needle at or after ``at``, or the length of the
    piece if there is none. Removes the hits before ``at``."""
    while hits and hits[-1] < at:
        hits.pop()
    return max(at, piece.rfind(b"\n", at, hits[-1]) + 1) if hits else len(piece)


def _pieces(source: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces that end at the end of a line. Very long lines are truncated."""
    rest, skipping = b"", False
    for each in _decoded(_read(source)):
        piece = rest + each
        end = piece.rfind(b"\n") + 1
        if skipping:
            first = piece.find(b"\n")
            if first < 0:
                rest = b""
                continue
            # The newline of the long line is kept to keep the line numbers correct.
            piece, end, skipping = piece[first + 1 :], end - first - 1, False
        rest = piece[end:]
        if len(rest) > _CHUNK:
            yield piece[:end] + rest[:_LONGEST] + b"\n"
            rest, skipping = b"", True
        elif end:
            yield piece[:end]
    if rest:
        yield rest


def _read(source: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    read = getattr(source, "read", None)
    if read is None:
        yield from source
        return
    while piece := read(_CHUNK):
        yield piece


def _decoded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Convert UTF-16 to UTF-8. All other input is read as UTF-8, and invalid bytes are replaced
    later."""
    first = next(pieces, b"")
    coding = next((name for mark, name in _MARKS.items() if first.startswith(mark)), None)
    if coding is None:
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(coding)(errors="replace")
    yield decoder.decode(first[2:]).encode(errors="replace")
    for piece in pieces:
        yield decoder.decode(piece).encode(errors="replace")
