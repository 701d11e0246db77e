# SPDX-License-Identifier: GPL-2.0-only
"""The command channel to the guest's shell: one command at a time, over pexpect."""

import contextlib
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pexpect
from pexpect import fdpexpect

from harness.errors import (
    GuestHang,
    GuestLost,
    GuestPanic,
    GuestReset,
    GuestUnseen,
    HostStarved,
    QemuEnded,
)
from harness.machine import frames, watcher
from harness.machine.process import Process
from harness.machine.watcher import Watcher

_DONE, _EOF, _, _PANIC = range(4)
_ENDS: list[Any] = [frames.DONE, pexpect.EOF, pexpect.TIMEOUT]
# On a single console, only this module reads the kernel's messages.
_ENDS_SINGLE: list[Any] = [*_ENDS, watcher.PANIC]

_ANYTHING = re.compile(rb"(?s).+")

# The line that ends a reply is shorter than this (bytes).
_WINDOW = 256

# A command that keeps printing counts as hung after this many bytes, or after this many times the
# limit on its silence. Kernel messages are a sign of life only for a limited time, because an
# SMMU reports faults endlessly while a driver waits for a device that does DMA. (On a single
# console the two cannot be distinguished.)
_MAX_OUTPUT = 64 << 20
_TOTAL_LIMITS = 30
_KERNEL_LIMITS = 4

# PID 1 replies at once whatever the shell does. If it does not reply within this many seconds,
# the kernel has died without a message (an oops with interrupts off).
_ANSWER_LIMIT = 5.0

# The longest interval (seconds) between checks of a silent guest for signs of life.
_POLL = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a command.

    ``how`` is how the command ended. ``number`` is its exit status, or the number of the signal
    that killed its shell. ``out`` and ``err`` are its standard output and error. ``records`` and
    ``clock`` are read when the command ends: the number of kernel-log records, and the guest's
    clock in seconds, both counted from boot.
    """

    how: frames.How
    number: int
    out: bytes
    err: bytes
    records: int
    clock: float


class _Channel(fdpexpect.fdspawn):  # type: ignore[type-arg]  # not generic at run time
    """The data from a guest. After ``left`` more bytes a read times out: otherwise a fast host
    would read a gigabyte between two checks of the limits."""

    left = _MAX_OUTPUT

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> bytes:
        if not self.left:
            raise pexpect.TIMEOUT("the limit of a command's output is reached")
        data = cast(bytes, super().read_nonblocking(min(size, self.left), timeout))
        self.left -= len(data)
        return data


class Console:
    """The shell of a guest. ``limit`` is the time in seconds that a guest may be silent while a
    command runs."""

    def __init__(self, process: Process, watcher: Watcher, log: Path, limit: float) -> None:
        self._process = process
        self._watcher = watcher
        self.limit = limit
        self._log = log.open("ab", buffering=0)
        self._single = "command" not in process.sockets
        self._socket = process.sockets["console" if self._single else "command"]
        self._spawn = _Channel(self._socket.fileno(), timeout=None, maxread=65536, use_poll=True)
        # Bytes that have been read and are not yet a whole frame.
        self._unparsed = b""
        self._hang: GuestHang | None = None
        # The nonce of the command that the shell runs, "" if it is idle.
        self._busy = ""
        # Whether the last reading of the state has hung.
        self._state_hung = False
        # By default, pexpect sleeps after each read, for programs that die slowly.
        self._spawn.delayafterread = None
        self._spawn.logfile_read = self._log

    def close(self) -> None:
        self._log.close()

    def wake(self) -> None:
        """Wake all threads that wait for the guest. Called when the guest is dead."""
        # The file descriptor stays open: its reader still uses it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait_ready(self, limit: float) -> None:
        """Wait until PID 1 reports that the guest accepts commands. Raises as ``run`` does."""
        self._expect(frames.READY, limit, kernel_limits=_TOTAL_LIMITS)
        self._received()

    def run(self, command: str, limit: float | None = None) -> Reply:
        """Run ``command`` in the guest's shell, wait until it ends, and return the reply.

        Raises GuestPanic, GuestLost or GuestHang if it does not end, and HostStarved if the guest
        got too little CPU time.
        """
        found, done = self._request(frames.command(command), limit or self.limit, needs_shell=True)
        out, err = bytes(found.out), bytes(found.err)
        return Reply(done.how, done.number, out, err, done.records, done.clock)

    def state(self) -> str:
        """Read the state of the kernel, in the format of guest-scripts/init/state.c. PID 1
        replies, so this works whatever the shell does. Raises as ``run`` does, and GuestUnseen if
        the process that reads sysfs was killed, because its output is then incomplete.

        Reading takes milliseconds. After a reading has hung (for example on a lock that an oopsed
        task still holds), the next one has a shorter limit.
        """
        limit = min(self.limit, _ANSWER_LIMIT) if self._state_hung else self.limit
        self._state_hung = True
        found, done = self._request(frames.state(), limit)
        self._state_hung = False
        if done.how == "killed":
            raise GuestUnseen(
                f"the process that reads sysfs was killed by signal {done.number}",
                log=self._watcher.tail,
            )
        return found.state.decode(errors="replace")

    def ping(self) -> frames.Done:
        """Send an empty request. The result has the number of kernel-log records since boot and
        the guest's clock. Raises as ``run`` does."""
        _, done = self._request(frames.ping(), self.limit)
        return done

    def sysrq(self, letter: str) -> None:
        """Trigger a sysrq through PID 1, which works even if the shell hangs. Raises as ``run``
        does."""
        self._request(frames.sysrq(letter), min(self.limit, _ANSWER_LIMIT))

    def interrupt(self, number: int) -> None:
        """Send a signal to the running command. This can be called from a signal handler: ``run``
        continues to wait for the end of the command."""
        with contextlib.suppress(OSError):
            self._socket.sendall(frames.interrupt(number))

    def drain(self) -> tuple[int, bytes]:
        """Read everything that a stopped guest has sent, as ``Watcher.drain`` does. This also
        works with a single console."""
        if not self._single:
            return self._watcher.drain()
        data = self._unparsed
        # Read with pexpect, which keeps unread data in more than one place.
        ends: list[Any] = [_ANYTHING, pexpect.EOF, pexpect.TIMEOUT]
        while self._spawn.expect(ends, 0, searchwindowsize=None) == 0:
            data += cast(bytes, self._spawn.after)
        found, self._unparsed = frames.parse(data)
        self._watcher.feed(bytes(found.noise))
        self._watcher.add_records(found.records)
        return self._watcher.drain()[0], self._unparsed

    def continue_from(self, rest: bytes) -> None:
        """Prepend ``rest``, the partial frame that the guest had sent when it was saved. After the
        restore, the guest sends the remainder."""
        self._unparsed = rest if self._single else b""

    def _request(
        self, request: frames.Request, limit: float, *, needs_shell: bool = False
    ) -> tuple[frames.Frames, frames.Done]:
        """Send a request and return the reply. If the guest has hung, the request is sent only
        after it replies again, and a request for the shell only after the hung command has ended.
        """
        try:
            if self._hang:
                self._recover(needs_shell)
            if needs_shell:
                self._busy = request.nonce
            return self._exchange(request, limit)
        except GuestHang as hang:
            self._hang = self._hang or hang
            raise GuestHang(self._hang.message, self._hang.hint, self._watcher.tail) from None

    def _recover(self, needs_shell: bool) -> None:
        """Wait until PID 1 replies and, if the shell is needed, until the hung command has ended.
        Raises GuestHang if that does not happen."""
        limit = min(self.limit, _ANSWER_LIMIT)
        self._exchange(frames.ping(), limit)
        if self._busy and needs_shell:
            self._expect(self._busy, limit)
            self._received()
        if not self._busy:
            self._hang = None

    def _exchange(self, request: frames.Request, limit: float) -> tuple[frames.Frames, frames.Done]:
        try:
            self._socket.sendall(request.data)
        except OSError:
            raise self.exit_error() from None
        self._log.write(request.data)
        done = self._expect(request.nonce, limit)
        return self._received(), done

    def _received(self) -> frames.Frames:
        found, rest = frames.parse(self._unparsed + self._before())
        self._unparsed = b""
        found.noise += rest
        if self._single:
            self._watcher.feed(bytes(found.noise))
            self._watcher.add_records(found.records)
        return found

    def _before(self) -> bytes:
        # The spawn has no encoding, so pexpect returns bytes.
        return cast(bytes, self._spawn.before or b"")

    def _expect(
        self, nonce: str, limit: float, *, kernel_limits: int = _KERNEL_LIMITS
    ) -> frames.Done:
        """Wait for the end of a command, as long as it prints something every ``limit`` seconds.
        Kernel messages extend the wait to at most ``kernel_limits`` times ``limit``."""
        ends = _ENDS_SINGLE if self._single else _ENDS
        self._spawn.left = _MAX_OUTPUT
        size, since = 0, time.monotonic()
        started = since
        delay: float | None = None
        while True:
            try:
                found = self._spawn.expect(ends, min(limit / 4, _POLL), searchwindowsize=_WINDOW)
            except OSError:  # ECONNRESET: QEMU died before it had read everything
                raise self.exit_error() from None
            if found == _DONE:
                done = frames.done(cast("re.Match[bytes]", self._spawn.match))
                if done.nonce == self._busy:
                    self._busy = ""
                if done.nonce == nonce:
                    return done
                # A line that looks like the end of a reply, but has a different nonce, is output.
                self._unparsed += self._before() + cast(bytes, self._spawn.after)
            if found in {_EOF, _PANIC}:
                raise self.exit_error()
            if len(self._before()) != size:
                size, since, delay = len(self._before()), time.monotonic(), None
            elif delay is None:
                delay = self._process.run_delay()
            if not self._spawn.left or time.monotonic() - started > _TOTAL_LIMITS * limit:
                printed = _MAX_OUTPUT - self._spawn.left
                raise GuestHang(
                    f"the command printed {printed / 1e6:.0f} MB in "
                    f"{time.monotonic() - started:.0f} s and has not ended",
                    "limit its output, or how long it runs",
                    self._watcher.tail,
                )
            if time.monotonic() - self._last_activity(since) >= limit:
                self._check_host(delay or 0.0, limit)
                raise GuestHang(
                    f"the guest has been silent for {limit:.0f} s",
                    "if the command takes longer, raise --limit",
                    self._watcher.tail,
                )
            if time.monotonic() - since >= kernel_limits * limit:
                raise GuestHang(
                    f"only the kernel has printed messages for {kernel_limits * limit:.0f} s",
                    "if the command takes longer, raise --limit",
                    self._watcher.tail,
                )

    def _check_host(self, delay: float, limit: float) -> None:
        """Raise HostStarved if QEMU's run delay has grown from ``delay`` by at least half of the
        limit, because such a guest had no time to reply."""
        starved = self._process.run_delay() - delay
        if starved >= limit / 2:
            raise HostStarved(
                f"QEMU waited for a CPU for {starved:.0f} s of {limit:.0f} s",
                "run fewer guests at once, or raise --limit",
            )

    def _last_activity(self, since: float) -> float:
        """The time of the last sign of life, for a command that has been silent since ``since``.
        Kernel messages do not count if one of them reports a blocked task."""
        blocked = self._watcher.last_blocked > since
        return since if blocked else max(since, self._watcher.last_activity)

    def exit_error(self) -> GuestPanic | GuestLost:
        """Wait until QEMU has exited, and return the error for the dead guest with the tail of its
        console."""
        if self._single:
            read = self._before() + _bytes(self._spawn.after) + _bytes(self._spawn.buffer)
            self._watcher.feed(read)
            self._drain_console()
        if self._watcher.panic_ended or not self._watcher.join(watcher.PANIC_GRACE):
            self._process.popen.kill()  # a kernel that panicked and did not reset
            self._watcher.join()
        reason = self._watcher.exit_reason()
        if reason.kind == "panic":
            return GuestPanic(reason.text, self._watcher.tail)
        if reason.kind == "reset":
            return GuestReset(reason.text, log=self._watcher.tail)
        return QemuEnded(reason.text or self._process.exit_message(), log=self._watcher.tail)

    def _drain_console(self) -> None:
        """Read the console until QEMU closes it, the last line of a panic arrives, or nothing
        arrives for PANIC_GRACE seconds."""
        self._socket.settimeout(watcher.PANIC_GRACE)
        with contextlib.suppress(OSError):
            while not self._watcher.panic_ended and (data := self._socket.recv(65536)):
                self._log.write(data)
                self._watcher.feed(data)


def _bytes(read: object) -> bytes:
    """The data that pexpect read. After the end of the file, pexpect has a class instead
    of data."""
    return read if isinstance(read, bytes) else b""
