# SPDX-License-Identifier: GPL-2.0-only
"""The protocol between a guest's PID 1 and the host; guest-scripts/init/init.c has
the other end and describes it.
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, cast

from harness.errors import UsageError

# Of what both ends say: raised whenever a host of before and a guest of after, or the other
# way round, would not understand each other. Guests are kept for longer than a version.
PROTOCOL = 2

How = Literal["status", "exited", "killed"]

# What kind, the length in decimal, a newline, that many bytes.
_HEAD = re.compile(rb"([OESK])(\d{1,9})\n")

# The line that ends an answer: the nonce, how the command ended, the status or
# signal, the number of records since boot, the guest's clock. Compiled once: it costs as much as
# a command.
DONE = re.compile(rb"D (ready|[0-9a-f]{24}) (status|exited|killed) (\d+) (\d+) (\d+)\n")

# The nonce of the line that PID 1 sends when the guest takes commands.
READY = "ready"


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the guest: the bytes to send, and the ``nonce`` of
    the line that ends its answer. The nonce does not stand in what is sent, so
    an echo of the request cannot be taken for its end."""

    data: bytes
    nonce: str


def command(text: str) -> Request:
    """Runs ``text`` in the shell. Raises UsageError for one with a NUL in it, which
    no shell takes."""
    if "\0" in text:
        raise UsageError("a command has a NUL byte in it", "take it out of the report")
    # Bytes that were no UTF-8 when they were read are what they were.
    return _request("R", text.encode(errors="surrogateescape"))


def state() -> Request:
    """Asks PID 1 for the state."""
    return _request("S")


def ping() -> Request:
    """Asks PID 1 for nothing but an answer, which comes behind the kernel's log."""
    return _request("P")


def sysrq(letter: str) -> Request:
    """Has PID 1 write the letter to /proc/sysrq-trigger; the answer comes behind what the
    kernel logs for it."""
    return _request("Q", letter.encode())


def interruption(number: int) -> bytes:
    """Has the command under way, shell and all, get the signal; nothing answers to it but
    the command's own end."""
    return f"I {number} 0 0\n".encode()


def _request(kind: str, payload: bytes = b"") -> Request:
    first, second = secrets.token_hex(6), secrets.token_hex(6)
    return Request(f"{kind} {first} {second} {len(payload)}\n".encode() + payload, second + first)


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a command: ``number`` is the status or the signal, ``records``
    how many kernel-log records the guest has sent since boot, ``clock`` the seconds
    since then by the guest's own clock."""

    nonce: str
    how: How
    number: int
    records: int
    clock: float


def done(match: re.Match[bytes]) -> Done:
    """What a match of ``DONE`` says."""
    nonce, how, number, records, clock = (group.decode() for group in match.groups())
    return Done(nonce, cast(How, how), int(number), int(records), int(clock) / 1e6)


@dataclass(slots=True)
class Frames:
    """What came on a channel: ``out`` and ``err`` of commands, the ``state`` as
    guest-scripts/init/state.c prints it, kernel-log ``records`` as /dev/kmsg gives them,
    and ``noise`` that is no frame (kernel messages, on a shared console)."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    state: bytearray = field(default_factory=bytearray)
    records: list[bytes] = field(default_factory=list)
    noise: bytearray = field(default_factory=bytearray)


def parse(data: bytes) -> tuple[Frames, bytes]:
    """The frames in ``data``, and the rest that is not yet a whole frame."""
    frames = Frames()
    position = 0
    while position < len(data):
        head = _HEAD.match(data, position)
        if head is None:
            if _may_be_head(data[position:]):
                break
            frames.noise.append(data[position])
            position += 1
            continue
        end = head.end() + int(head[2])
        if end > len(data):
            break
        _take(frames, head[1], data[head.end() : end])
        position = end
    return frames, data[position:]


def _may_be_head(rest: bytes) -> bool:
    """Whether more bytes could make ``rest`` the start of a frame."""
    return re.fullmatch(rb"[OESK]\d{0,9}", rest) is not None


def _take(frames: Frames, kind: bytes, payload: bytes) -> None:
    if kind == b"O":
        frames.out += payload
    elif kind == b"E":
        frames.err += payload
    elif kind == b"S":
        frames.state += payload
    else:
        frames.records.append(payload)
