# SPDX-License-Identifier: GPL-2.0-only
"""A running guest: run commands in it, and read the kernel's log and state."""

import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.errors import CommandFailed, GuestHang, GuestLost, HostError
from harness.guest import state
from harness.guest.state import State
from harness.klog.record import Record
from harness.machine import process
from harness.machine.console import Console, Reply
from harness.machine.monitor import Monitor
from harness.machine.qemu import Boot
from harness.machine.topology import Machine
from harness.machine.watcher import Watcher


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The result of a command.

    ``killed`` is whether a signal killed the command's shell, which is also how an oops ends it.
    ``status`` is then 128 plus the signal number, otherwise $?. Bytes in ``out`` and ``err`` that
    are not UTF-8 are replaced."""

    command: str
    status: int
    killed: bool
    out: str
    err: str

    def __repr__(self) -> str:
        """A short text, because pytest prints it for every failed assertion about the result.
        The report of a failed test shows the output and the changes."""
        return f"<{self.command!r}: status {self.status}>"

    def check(self) -> Self:
        """Return the result itself. Raises CommandFailed if the status is not 0."""
        if self.status != 0:
            printed = self.err.strip() or self.out.strip()
            raise CommandFailed(self.command, self.status, printed)
        return self


@dataclass(frozen=True, slots=True, repr=False)
class Step(Result):
    """The result of a command, and what happened in the kernel meanwhile.

    ``kmsg`` are the kernel-log records since the previous step. ``before`` and ``after`` are the
    states in sysfs. ``seconds`` is the duration of the command."""

    kmsg: tuple[Record, ...]
    before: State
    after: State
    seconds: float


# The number of commands in ``transcript``, and of characters of each command's output.
_TRANSCRIPT_COMMANDS = 200
_TRANSCRIPT_OUTPUT = 2000


def _transcribe(command: str, result: Result | None) -> str:
    if result is None:
        return f"$ {command}\n(did not end)"
    printed = (result.out + result.err).rstrip("\n")
    if len(printed) > _TRANSCRIPT_OUTPUT:
        more = len(printed) - _TRANSCRIPT_OUTPUT
        printed = f"{printed[:_TRANSCRIPT_OUTPUT]}\n... {more} more characters"
    end = f"(status {result.status})" if result.status else ""
    return "\n".join(part for part in (f"$ {command}", printed, end) if part)


def _result(command: str, reply: Reply) -> Result:
    killed = reply.how == "killed"
    return Result(
        command,
        128 + reply.number if killed else reply.number,
        killed,
        reply.out.decode(errors="replace"),
        reply.err.decode(errors="replace"),
    )


@dataclass(frozen=True, slots=True)
class SavedLog:
    """What a restored guest logged before it was saved.

    ``console`` is the output on the console, and ``records`` are the kernel-log records.
    ``counted`` is the number of records that PID 1 had sent, including unreadable ones. ``rest`` is
    the first part of a frame. After it is restored, the guest sends the end of that frame."""

    console: bytes = b""
    records: tuple[Record, ...] = ()
    counted: int = 0
    rest: bytes = b""


NO_SAVED_LOG = SavedLog()

# Called with each kernel-log record, in another thread.
OnRecord = Callable[[Record], None]


class Guest:
    """A running guest, created by ``launch.booted`` or ``snapshot.restored``.

    ``argv`` are QEMU's arguments and ``pid`` is QEMU's PID. ``monitor`` is the QMP connection.
    ``directory`` contains all logs. ``limit`` is how many seconds a command may be silent."""

    def __init__(
        self,
        *,
        boot: Boot,
        qemu: process.Process,
        console: Console,
        watcher: Watcher,
        monitor: Monitor,
        records: list[Record],
        directory: Path,
    ) -> None:
        self.boot = boot
        self.monitor = monitor
        self.directory = directory
        self._qemu = qemu
        self._console = console
        self._watcher = watcher
        self._records = records
        self._returned = len(records)
        self._state: State | None = None
        # Devices that have been plugged in or unplugged since QEMU was started.
        self.hotplugged: set[str] = set()
        self._commands: deque[tuple[str, Result | None]] = deque(maxlen=_TRANSCRIPT_COMMANDS)

    @property
    def argv(self) -> tuple[str, ...]:
        return self._qemu.argv

    @property
    def pid(self) -> int:
        return self._qemu.popen.pid

    @property
    def machine(self) -> Machine:
        return self.boot.machine

    @property
    def dead(self) -> bool:
        """Whether the guest has ended. Its last output may still be unread."""
        return self._watcher.dead

    @property
    def limit(self) -> float:
        return self._console.limit

    @property
    def kmsg_read(self) -> tuple[Record, ...]:
        """The kernel-log records since boot that have been read so far. This does not wait for
        the latest records, and so works for a guest that no longer answers."""
        return tuple(self._records)

    @property
    def qemu_log(self) -> Path:
        """The file with QEMU's own output, including its trace events."""
        return self._qemu.log

    def run(self, command: str, limit: float | None = None) -> Result:
        """Run a command and return its result, without reading the log or sysfs.

        ``limit`` is how many seconds the guest may be silent, by default the guest's ``limit``.
        Raises GuestPanic, GuestHang or GuestLost.
        """
        self._commands.append((command, None))
        result = _result(command, self._console.run(command, limit))
        self._commands[-1] = (command, result)
        self._state = None
        return result

    def query(self, command: str) -> str:
        """Run a command and return its output, without a change of ``$?`` for the next command.
        Raises as ``run`` does."""
        return self.run(f"harness_kept=$?; {command}; harness_last $harness_kept").out

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Send a signal to the running command and its shell, as ^C does. A signal handler may
        call this."""
        self._console.interrupt(number)

    def sysrq(self, letter: str) -> tuple[Record, ...]:
        """Trigger a sysrq (Documentation/admin-guide/sysrq.rst), even if the shell hangs, and
        return the records that the kernel logs. Raises as ``run`` does."""
        before = len(self._records)
        self._console.sysrq(letter)
        self._wait_kmsg()
        return tuple(self._records[before:])

    def transcript(self) -> str:
        """The last commands with their output, as a terminal shows them."""
        return "\n".join(_transcribe(command, result) for command, result in self._commands)

    def state(self) -> State:
        """Read the current state from sysfs."""
        return state.parse(self._console.state())

    def clock(self) -> float:
        """The guest's clock, in seconds since boot."""
        return self._console.ping().clock

    def qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Execute a QMP command and return QEMU's reply. Raises HostError if QEMU rejects it,
        and otherwise as ``run`` does."""
        return self._with_monitor(lambda: self.monitor.execute(command, arguments))

    def hmp(self, line: str) -> str:
        """Execute a command of QEMU's human monitor, for operations that QMP lacks, and return
        its output. Raises as ``qmp`` does."""
        return str(self.qmp("human-monitor-command", {"command-line": line}))

    def save(self, file: Path) -> SavedLog:
        """Stop the guest, write its state to ``file``, and return its log so far. The guest stays
        stopped until ``resume``. Raises Unmigratable if QEMU cannot save the guest's devices, and
        otherwise as ``qmp`` does."""
        self.qmp("stop")
        counted, rest = self._console.drain()
        console = (self.directory / "console-kernel.log").read_bytes()
        saved = SavedLog(console, tuple(self._records), counted, rest)
        try:
            self._with_monitor(lambda: self.monitor.save(file))
        except HostError:
            self.resume()
            raise
        return saved

    def load(self, file: Path, saved: SavedLog) -> None:
        """Load a saved state and resume the guest. QEMU must have been started with
        ``-incoming defer``. Raises as ``qmp`` does."""
        self._console.continue_from(saved.rest)
        self._with_monitor(lambda: self.monitor.load(file))
        self.resume()

    def resume(self) -> None:
        """Resume the guest after ``save``."""
        self.qmp("cont")

    def counted(self) -> int:
        """Wait until all kernel-log records have been read, and return how many PID 1 has sent
        since boot."""
        return self._wait_kmsg()

    def _with_monitor(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` and return its result. If QEMU has ended, raise the error that explains
        why."""
        try:
            return work()
        except GuestLost:
            raise self._console.exit_error() from None

    def step(self, command: str, limit: float | None = None, *, check: bool = False) -> Step:
        """Run a command, and return its result with the kernel-log records and the state before
        and after the command. Raises as ``run`` does. With ``check``, also raises CommandFailed
        if the status is not 0."""
        before = self._state or self.state()
        if not self._returned:
            self.new_kmsg()  # skip the records of the boot
        started = time.monotonic()
        result = self.run(command, limit)
        seconds = time.monotonic() - started
        after = self.state()
        kmsg = self.new_kmsg()
        self._state = after
        step = Step(
            result.command,
            result.status,
            result.killed,
            result.out,
            result.err,
            kmsg,
            before,
            after,
            seconds,
        )
        return step.check() if check else step

    def kmsg(self) -> tuple[Record, ...]:
        """Wait for the latest kernel-log records, and return all records since boot. Raises as
        ``run`` does."""
        self._wait_kmsg()
        return tuple(self._records)

    def new_kmsg(self) -> tuple[Record, ...]:
        """Wait for the latest kernel-log records, and return the records that neither a step nor
        this method has returned yet. Raises as ``run`` does."""
        self._wait_kmsg()
        new = tuple(self._records[self._returned :])
        self._returned += len(new)
        return new

    def _wait_kmsg(self) -> int:
        """Wait until all kernel-log records that PID 1 has sent so far have been read, and return
        their number."""
        counted = self._console.ping().records
        limit = self._console.limit
        if not self._watcher.wait_records(counted, limit):
            raise GuestHang(
                f"the guest sent {counted} kernel-log records,"
                f" but not all of them arrived within {limit:.0f} s",
                log=self._watcher.tail,
            )
        return counted
