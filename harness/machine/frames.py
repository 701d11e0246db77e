# SPDX-License-Identifier: GPL-2.0-only
"""The protocol between a guest's PID 1 and the host. guest-scripts/init/init.c
implements the guest's end and describes it.
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, cast

from harness.errors import UsageError

# The version of the protocol. Raise it with every change that an older host or an older
# guest does not understand: saved guests outlive a version of the harness.
PROTOCOL = 2

How = Literal["status", "exited", "killed"]

# A frame: its kind, the length in decimal, a newline, that many bytes.
_HEAD = re.compile(rb"([OESK])(\d{1,9})\n")

# The line that ends an answer: the nonce, how the command ended, the status or
# signal, the number of records since boot, the guest's clock. Compiled once: compiling takes
# as long as a command.
DONE = re.compile(rb"D (ready|[0-9a-f]{24}) (status|exited|killed) (\d+) (\d+) (\d+)\n")

# The nonce of the line that PID 1 sends when the guest accepts commands.
READY = "ready"


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the guest: the bytes to send, and the ``nonce`` of the line that
    ends the answer. The bytes have the nonce's halves in the other order, so that an echo
    of the request is not its end."""

    data: bytes
    nonce: str


def command(text: str) -> Request:
    """The request to run ``text`` in the shell. Raises UsageError for text with a NUL byte,
    which no shell accepts."""
    if "\0" in text:
        raise UsageError("a command has a NUL byte", "remove it from the report")
    # Bytes that were not UTF-8 when they were read are sent unchanged.
    return _request("R", text.encode(errors="surrogateescape"))


def state() -> Request:
    """The request for the state, which PID 1 reads."""
    return _request("S")


def ping() -> Request:
    """An empty request: its answer follows all kernel-log records up to then."""
    return _request("P")


def sysrq(letter: str) -> Request:
    """The request to write the letter to /proc/sysrq-trigger; the answer follows what the
    kernel logs for it."""
    return _request("Q", letter.encode())


def interrupt(number: int) -> bytes:
    """The message that sends a signal to the running command and its shell. It has no answer
    but the end of that command."""
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
    """The end of a command, from a match of ``DONE``."""
    nonce, how, number, records, clock = (group.decode() for group in match.groups())
    return Done(nonce, cast(How, how), int(number), int(records), int(clock) / 1e6)


@dataclass(slots=True)
class Frames:
    """What arrived on a channel: ``out`` and ``err`` of commands, the ``state`` as
    guest-scripts/init/state.c prints it, kernel-log ``records`` as read from /dev/kmsg,
    and ``noise`` that is in no frame (kernel messages, on a single console)."""

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    state: bytearray = field(default_factory=bytearray)
    records: list[bytes] = field(default_factory=list)
    noise: bytearray = field(default_factory=bytearray)


def parse(data: bytes) -> tuple[Frames, bytes]:
    """The frames in ``data``, and the rest that is not a whole frame yet."""
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
        _add(frames, head[1], data[head.end() : end])
        position = end
    return frames, data[position:]


def _may_be_head(rest: bytes) -> bool:
    """Whether ``rest`` may be the incomplete head of a frame."""
    return re.fullmatch(rb"[OESK]\d{0,9}", rest) is not None


def _add(frames: Frames, kind: bytes, payload: bytes) -> None:
    if kind == b"O":
        frames.out += payload
    elif kind == b"E":
        frames.err += payload
    elif kind == b"S":
        frames.state += payload
    else:
        frames.records.append(payload)
