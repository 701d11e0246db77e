# SPDX-License-Identifier: GPL-2.0-only
"""The command channel: one command at a time to the guest's shell, over pexpect."""

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
from harness.machine import frames, watch
from harness.machine.process import Process
from harness.machine.watch import Watch

_DONE, _EOF, _, _PANIC = range(4)
_ENDS: list[Any] = [frames.DONE, pexpect.EOF, pexpect.TIMEOUT]
# On a shared console nobody else reads what the kernel prints.
_ENDS_SINGLE: list[Any] = [*_ENDS, watch.PANIC]

_ANYTHING = re.compile(rb"(?s).+")

# The line that ends an answer is shorter than this.
_WINDOW = 256

# A command that never falls silent ends all the same: after so many bytes, or so
# many times the limit on its silence. What the kernel says is a sign of life for some
# time only: an SMMU tells for ever of the DMA of a driver that waits for it. (On a
# single console nobody can tell the two apart.)
_MAX_OUTPUT = 64 << 20
_TOTAL = 30
_CHATTER = 4

# PID 1 answers at once whatever the shell is at: where it does not in so many seconds, the
# kernel has died without a word (an oops with interrupts off).
_ANSWER = 5.0

# Between two looks at whether a silent guest is at least doing something.
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command did: ``how`` it ended, ``number`` its status or the signal
    that killed its shell, standard output and error apart, and the number of
    kernel-log ``records`` since boot when it ended, and the guest's ``clock`` then, in
    seconds since boot."""

    how: frames.How
    number: int
    out: bytes
    err: bytes
    records: int
    clock: float


class _Channel(fdpexpect.fdspawn):  # type: ignore[type-arg]  # not generic at run time
    """What the guest sends. Once ``left`` bytes have been read it is as if it were silent:
    a fast host reads a gigabyte between two looks."""

    left = _MAX_OUTPUT

    def read_nonblocking(self, size: int = 1, timeout: float | None = -1) -> bytes:
        if not self.left:
            raise pexpect.TIMEOUT("a command may print no more")
        data = cast(bytes, super().read_nonblocking(min(size, self.left), timeout))
        self.left -= len(data)
        return data


class Console:
    """Drives one guest's shell. ``limit`` is how many seconds a guest may stay
    silent while a command runs."""

    def __init__(self, process: Process, watch: Watch, log: Path, limit: float) -> None:
        self._process = process
        self._watch = watch
        self.limit = limit
        self._log = log.open("ab", buffering=0)
        self._single = "command" not in process.sockets
        self._socket = process.sockets["console" if self._single else "command"]
        self._spawn = _Channel(self._socket.fileno(), timeout=None, maxread=65536, use_poll=True)
        self._heard = b""
        self._hang: GuestHang | None = None
        # The nonce of the shell's command, "" when it has none.
        self._busy = ""
        # Whether the last look at the state has hung.
        self._blind = False
        # pexpect sleeps after each read, for programs that die slowly.
        self._spawn.delayafterread = None
        self._spawn.logfile_read = self._log

    def close(self) -> None:
        self._log.close()

    def interrupt(self) -> None:
        """Wakes whoever waits for the guest; called when it is dead."""
        # Not the file descriptor: its reader still uses it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait_ready(self, limit: float) -> None:
        """Until PID 1 says that the guest takes commands."""
        self._expect(frames.READY, limit, chatter=_TOTAL)
        self._received()

    def run(self, command: str, limit: float | None = None) -> Reply:
        """Runs ``command`` in the guest's shell and waits for its end.

        Raises GuestPanic, GuestLost or GuestHang when there will be none.
        """
        found, done = self._ask(frames.command(command), limit or self.limit, needs_shell=True)
        out, err = bytes(found.out), bytes(found.err)
        return Reply(done.how, done.number, out, err, done.records, done.clock)

    def state(self) -> str:
        """What the kernel shows, in the lines of guest-scripts/init/state.c. It is PID 1
        that answers, whatever the shell has come to. Raises as ``run`` does, and GuestUnseen
        when looking killed the process that looks: what it had printed is no state.

        A look takes milliseconds. Where one has hung, on a lock whose holder an oops killed
        say, the next is not waited for as long."""
        limit = min(self.limit, _ANSWER) if self._blind else self.limit
        self._blind = True
        found, done = self._ask(frames.state(), limit)
        self._blind = False
        if done.how == "killed":
            raise GuestUnseen(
                f"looking at sysfs was killed by signal {done.number}", log=self._watch.tail
            )
        return found.state.decode(errors="replace")

    def ping(self) -> frames.Done:
        """An answer: how many kernel-log records there have been, and what time it is
        in the guest. Raises as ``run`` does."""
        _, done = self._ask(frames.ping(), self.limit)
        return done

    def sysrq(self, letter: str) -> None:
        """Has PID 1 trigger a sysrq: it works while the shell hangs. Raises as ``run`` does."""
        self._ask(frames.sysrq(letter), min(self.limit, _ANSWER))

    def break_off(self, number: int) -> None:
        """Has the command under way get the signal. For a signal handler: whoever waits for
        the command goes on waiting for its end."""
        with contextlib.suppress(OSError):
            self._socket.sendall(frames.interruption(number))

    def settle(self) -> tuple[int, bytes]:
        """As ``Watch.settle``, whichever channel the records come on."""
        if not self._single:
            return self._watch.settle()
        heard = self._heard
        # Through pexpect, which keeps what it has read in more than one place.
        ends: list[Any] = [_ANYTHING, pexpect.EOF, pexpect.TIMEOUT]
        while self._spawn.expect(ends, 0, searchwindowsize=None) == 0:
            heard += cast(bytes, self._spawn.after)
        found, self._heard = frames.parse(heard)
        self._watch.feed(bytes(found.noise))
        self._watch.add_records(found.records)
        return self._watch.settle()[0], self._heard

    def go_on(self, rest: bytes) -> None:
        """A guest that was saved after it had sent half a frame, the ``rest``, sends the
        other half now."""
        self._heard = rest if self._single else b""

    def _ask(
        self, request: frames.Request, limit: float, *, needs_shell: bool = False
    ) -> tuple[frames.Frames, frames.Done]:
        """Asks, and keeps in mind that there was no answer: a guest that has hung is asked
        for more only once it answers again, and its shell once that is free."""
        try:
            if self._hang:
                self._recover(needs_shell)
            if needs_shell:
                self._busy = request.nonce
            return self._exchange(request, limit)
        except GuestHang as hang:
            self._hang = self._hang or hang
            raise GuestHang(self._hang.message, self._hang.hint, self._watch.tail) from None

    def _recover(self, needs_shell: bool) -> None:
        """Until PID 1 answers, and the command that hung has ended where the shell is
        needed. Raises GuestHang when that does not come."""
        limit = min(self.limit, _ANSWER)
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
            raise self.dead() from None
        self._log.write(request.data)
        done = self._expect(request.nonce, limit)
        return self._received(), done

    def _received(self) -> frames.Frames:
        found, rest = frames.parse(self._heard + self._before())
        self._heard = b""
        found.noise += rest
        if self._single:
            self._watch.feed(bytes(found.noise))
            self._watch.add_records(found.records)
        return found

    def _before(self) -> bytes:
        # The spawn has no encoding, so pexpect gives bytes.
        return cast(bytes, self._spawn.before or b"")

    def _expect(self, nonce: str, limit: float, *, chatter: int = _CHATTER) -> frames.Done:
        """Waits for the end of a command as long as it says something every ``limit``
        seconds; what the kernel says counts for ``chatter`` times that."""
        ends = _ENDS_SINGLE if self._single else _ENDS
        self._spawn.left = _MAX_OUTPUT
        heard, since = 0, time.monotonic()
        started = since
        waited: float | None = None
        while True:
            try:
                found = self._spawn.expect(ends, min(limit / 4, _LOOK), searchwindowsize=_WINDOW)
            except OSError:  # reset: QEMU died with something of ours unread
                raise self.dead() from None
            if found == _DONE:
                done = frames.done(cast("re.Match[bytes]", self._spawn.match))
                if done.nonce == self._busy:
                    self._busy = ""
                if done.nonce == nonce:
                    return done
                # Output that looks like the end of a command is still output.
                self._heard += self._before() + cast(bytes, self._spawn.after)
            if found in {_EOF, _PANIC}:
                raise self.dead()
            if len(self._before()) != heard:
                heard, since, waited = len(self._before()), time.monotonic(), None
            elif waited is None:
                waited = self._process.waited()
            if not self._spawn.left or time.monotonic() - started > _TOTAL * limit:
                printed = _MAX_OUTPUT - self._spawn.left
                raise GuestHang(
                    f"the command has printed {printed / 1e6:.0f} MB in "
                    f"{time.monotonic() - started:.0f} s and goes on",
                    "let it end by itself",
                    self._watch.tail,
                )
            if time.monotonic() - self._last_life(since) >= limit:
                self._check_host(waited or 0.0, limit)
                raise GuestHang(
                    f"the guest has been silent for {limit:.0f} s",
                    "if the command needs that long, raise --limit",
                    self._watch.tail,
                )
            if time.monotonic() - since >= chatter * limit:
                raise GuestHang(
                    f"only the kernel has said anything for {chatter * limit:.0f} s",
                    "if the command needs that long, raise --limit",
                    self._watch.tail,
                )

    def _check_host(self, waited: float, limit: float) -> None:
        """Raises HostStarved where QEMU has waited for a processor for half of the limit since
        it had ``waited`` so long: the guest cannot answer then."""
        starved = self._process.waited() - waited
        if starved >= limit / 2:
            raise HostStarved(
                f"QEMU has waited for a processor for {starved:.0f} s of {limit:.0f} s",
                "run fewer guests at once, or raise --limit",
            )

    def _last_life(self, since: float) -> float:
        """When there was the last sign of life, of a command that has been silent ``since``
        then: none is a kernel that says meanwhile that a task is blocked."""
        blocked = self._watch.last_blocked > since
        return since if blocked else max(since, self._watch.last_activity)

    def dead(self) -> GuestPanic | GuestLost:
        """The error for a guest that will not answer any more, with all it said."""
        if self._single:
            heard = self._before() + _text(self._spawn.after) + _text(self._spawn.buffer)
            self._watch.feed(heard)
            self._hear_out()
        if self._watch.over or not self._watch.join(watch.PANIC_GRACE):
            self._process.popen.kill()  # a kernel that panicked and did not reset
            self._watch.join()
        death = self._watch.cause()
        if death.kind == "panic":
            return GuestPanic(death.text, self._watch.tail)
        if death.kind == "reset":
            return GuestReset(death.text, log=self._watch.tail)
        return QemuEnded(death.text or self._process.last_words(), log=self._watch.tail)

    def _hear_out(self) -> None:
        """What the console still says, until QEMU ends, the panic or the grace is over."""
        self._socket.settimeout(watch.PANIC_GRACE)
        with contextlib.suppress(OSError):
            while not self._watch.over and (data := self._socket.recv(65536)):
                self._log.write(data)
                self._watch.feed(data)


def _text(heard: object) -> bytes:
    """What pexpect heard; for the match at an end of file it gives a class."""
    return heard if isinstance(heard, bytes) else b""
