# SPDX-License-Identifier: GPL-2.0-only
"""The protocol between a guest's PID 1 and the host. guest-scripts/init/init.c implements the
guest's side and describes the protocol.
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, cast

from harness.errors import UsageError

# The version of the protocol. Raise it with every change that an older host or an older guest
# does not understand, because saved guests are restored by later versions of the harness.
PROTOCOL = 2

How = Literal["status", "exited", "killed"]

# The header of a frame: its kind, its length in decimal and a newline. That many bytes follow.
_HEAD = re.compile(rb"([OESK])(\d{1,9})\n")

# The line that ends a reply: the nonce, how the command ended, the exit status or signal, the
# number of records since boot, the guest's clock. Compiled once: compiling takes as long as a
# command.
DONE = re.compile(rb"D (ready|[0-9a-f]{24}) (status|exited|killed) (\d+) (\d+) (\d+)\n")

# The nonce of the line that PID 1 sends when the guest accepts commands.
READY = "ready"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the guest. ``data`` are the bytes to send, and ``nonce`` is in the line that
    ends the reply. The bytes have the halves of the nonce in reverse order, so an echo of the
    request is not taken for the end of the reply."""

    data: bytes
    nonce: str


def command(text: str) -> Request:
    """The request to run ``text`` in the shell. Raises UsageError for text with a NUL byte,
    which no shell accepts."""
    if "\0" in text:
        raise UsageError("the command contains a NUL byte", "no shell accepts one; remove it")
    # Bytes that were not UTF-8 when they were read are sent unchanged.
    return _request("R", text.encode(errors="surrogateescape"))


def state() -> Request:
    """The request for the state of the kernel, which PID 1 reads."""
    return _request("S")


def ping() -> Request:
    """An empty request. Its reply follows all kernel-log records up to then."""
    return _request("P")


def sysrq(letter: str) -> Request:
    """The request to write the letter to /proc/sysrq-trigger. Its reply follows the messages that
    the kernel logs for it."""
    return _request("Q", letter.encode())


def interrupt(number: int) -> bytes:
    """The message that sends a signal to the running command and its shell. It has no reply except
    the end of that command."""
    return f"I {number} 0 0\n".encode()


def _request(kind: str, payload: bytes = b"") -> Request:
    first, second = secrets.token_hex(6), secrets.token_hex(6)
    return Request(f"{kind} {first} {second} {len(payload)}\n".encode() + payload, second + first)


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a command. ``number`` is its exit status or the signal. ``records`` is the number
    of kernel-log records that the guest has sent since boot, and ``clock`` the guest's clock in
    seconds since boot."""

    nonce: str
    how: How
    number: int
    records: int
    clock: float


def done(match: re.Match[bytes]) -> Done:
    """Convert a match of ``DONE`` to the end of a command."""
    nonce, how, number, records, clock = (group.decode() for group in match.groups())
    return Done(nonce, cast(How, how), int(number), int(records), int(clock) / 1e6)


@dataclass(slots=True)
class Frames:
    """The data that arrived on a channel.

    ``out`` and ``err`` are the output of commands. ``state`` is in the format of
    guest-scripts/init/state.c. ``records`` are kernel-log records as read from /dev/kmsg.
    ``noise`` are the bytes outside frames (kernel messages, on a single console).
    """

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    state: bytearray = field(default_factory=bytearray)
    records: list[bytes] = field(default_factory=list)
    noise: bytearray = field(default_factory=bytearray)


def parse(data: bytes) -> tuple[Frames, bytes]:
    """Parse the frames in ``data``. Return them, and the rest that is not yet a whole frame."""
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
