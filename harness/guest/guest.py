# SPDX-License-Identifier: GPL-2.0-only
"""A running guest: boot it, run commands in it, see what the kernel did."""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from harness.errors import CommandFailed, GuestHang, GuestLost, HostError, UsageError
from harness.guest import state
from harness.guest.state import State
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.klog.record import Record
from harness.machine import devicetree, process, qemu
from harness.machine.console import Console, Reply
from harness.machine.monitor import Monitor
from harness.machine.qemu import ANONYMOUS, Boot, Memory
from harness.machine.topology import Machine
from harness.machine.watcher import Watcher
from harness.rootfs import initramfs

# A guest that says nothing for so long while it boots is dead. Slow hosts and
# sanitizers make a boot long, not silent.
_BOOT_SILENCE = 60.0

# How long a command may be silent: so many boots of this very guest on this
# host, and never less than the floor.
_LIMIT_BOOTS = 40.0
_LIMIT_FLOOR = 20.0


# What guest-scripts/shell/agent looks for.
_KMOD = "harness_modules=kmod"


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """How a command ended and what it printed. ``status`` is $?, or 128 and the signal where
    the command's shell was ``killed`` (an oops does that). What is not UTF-8 in ``out`` and
    ``err`` is replaced."""

    command: str
    status: int
    killed: bool
    out: str
    err: str

    def __repr__(self) -> str:
        """Short: it stands in the message of every assertion about a part of it, and what it
        printed and changed is in the test's report."""
        return f"<{self.command!r}: status {self.status}>"

    def check(self) -> Self:
        """Returns itself. Raises CommandFailed where the status is not 0."""
        if self.status != 0:
            printed = self.err.strip() or self.out.strip()
            raise CommandFailed(self.command, self.status, printed)
        return self


@dataclass(frozen=True, slots=True, repr=False)
class Step(Result):
    """A command's result with the kernel's part: ``kmsg`` are the kernel-log records since
    the step before, ``before`` and ``after`` the state that sysfs shows, ``seconds`` how
    long the command took."""

    kmsg: tuple[Record, ...]
    before: State
    after: State
    seconds: float


# Commands that ``transcript`` remembers, and how much each printed.
_HISTORY = 200
_SHOWN = 2000


def _shown(command: str, result: Result | None) -> str:
    if result is None:
        return f"$ {command}\n(did not end)"
    printed = (result.out + result.err).rstrip("\n")
    if len(printed) > _SHOWN:
        printed = f"{printed[:_SHOWN]}\n... {len(printed) - _SHOWN} characters more"
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
    """What a restored guest had said before it was saved: on the kernel's ``console``,
    and in the log's ``records``; ``counted`` are those of PID 1, unreadable ones too.
    ``rest`` is half of a frame, whose other half the guest sends when it goes on."""

    console: bytes = b""
    records: tuple[Record, ...] = ()
    counted: int = 0
    rest: bytes = b""


NO_SAVED_LOG = SavedLog()

# Called with each kernel-log record, in another thread.
OnRecord = Callable[[Record], None]


class Guest:
    """A guest that takes commands; made by ``booted`` and by ``snapshot.restored``.
    ``argv`` and ``pid`` are QEMU's, ``monitor`` its QMP, ``directory`` where all is
    logged, ``limit`` how many seconds a command may be silent."""

    def __init__(
        self,
        *,
        boot: Boot,
        running: process.Process,
        console: Console,
        watcher: Watcher,
        monitor: Monitor,
        records: list[Record],
        directory: Path,
    ) -> None:
        self.boot = boot
        self.monitor = monitor
        self.directory = directory
        self._process = running
        self._console = console
        self._watcher = watcher
        self._records = records
        self._claimed = len(records)
        self._state: State | None = None
        # Devices that were plugged in or pulled since QEMU was started.
        self.hotplugged: set[str] = set()
        self._history: deque[tuple[str, Result | None]] = deque(maxlen=_HISTORY)

    @property
    def argv(self) -> tuple[str, ...]:
        return self._process.argv

    @property
    def pid(self) -> int:
        return self._process.popen.pid

    @property
    def machine(self) -> Machine:
        return self.boot.machine

    @property
    def dead(self) -> bool:
        """Whether it has been seen to end: it may have had more to say."""
        return self._watcher.dead

    @property
    def limit(self) -> float:
        return self._console.limit

    @property
    def kmsg_so_far(self) -> tuple[Record, ...]:
        """The kernel-log records since boot that have been read: those of the last moment
        may be on their way. For a guest that no longer answers."""
        return tuple(self._records)

    @property
    def qemu_log(self) -> Path:
        """What QEMU itself says, its trace events among it."""
        return self._process.log

    def run(self, command: str, limit: float | None = None) -> Result:
        """Runs a command and returns its result, without reading the log or sysfs.

        ``limit`` is how many seconds the guest may stay silent. Raises
        GuestPanic, GuestHang or GuestLost.
        """
        self._history.append((command, None))
        result = _result(command, self._console.run(command, limit))
        self._history[-1] = (command, result)
        self._state = None
        return result

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Send a signal, as ^C does, to the running command and its shell. Made for a
        signal handler."""
        self._console.interrupt(number)

    def sysrq(self, letter: str) -> tuple[Record, ...]:
        """What the kernel logs for a sysrq (Documentation/admin-guide/sysrq.rst). It works
        while the shell hangs. Raises as ``run`` does."""
        before = len(self._records)
        self._console.sysrq(letter)
        self._wait_kmsg()
        return tuple(self._records[before:])

    def transcript(self) -> str:
        """The last commands and what they printed, as a person would have seen it."""
        return "\n".join(_shown(command, reply) for command, reply in self._history)

    def state(self) -> State:
        """What the kernel shows now."""
        return state.parse(self._console.state())

    def clock(self) -> float:
        """Seconds since boot, by the guest's own clock."""
        return self._console.ping().clock

    def qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """What QEMU itself answers. Raises HostError when it refuses, and as ``run`` does."""
        return self._with_monitor(lambda: self.monitor.execute(command, arguments))

    def hmp(self, line: str) -> str:
        """What QEMU's human monitor says to a line that QMP has no command for. Raises as
        ``qmp`` does."""
        return str(self.qmp("human-monitor-command", {"command-line": line}))

    def save(self, file: Path) -> SavedLog:
        """Stops the guest, writes its state and returns what it had said by then. Raises
        Unmigratable, and as ``qmp`` does."""
        self.qmp("stop")
        counted, rest = self._console.drain()
        console = (self.directory / "console-kernel.log").read_bytes()
        past = SavedLog(console, tuple(self._records), counted, rest)
        try:
            self._with_monitor(lambda: self.monitor.save(file))
        except HostError:
            self.resume()
            raise
        return past

    def load(self, file: Path, past: SavedLog) -> None:
        """Goes on from a state, in a QEMU that was started to wait for one. Raises as
        ``qmp`` does."""
        self._console.continue_from(past.rest)
        self._with_monitor(lambda: self.monitor.load(file))
        self.resume()

    def resume(self) -> None:
        """Goes on after ``save``."""
        self.qmp("cont")

    def counted(self) -> int:
        """How many records PID 1 has sent since boot; all of them have been read."""
        return self._wait_kmsg()

    def _with_monitor(self, work: Callable[[], Any]) -> Any:
        """A QEMU that has ended is told with the guest's last words."""
        try:
            return work()
        except GuestLost:
            raise self._console.exit_error() from None

    def step(self, command: str, limit: float | None = None) -> Step:
        """Runs a command; returns its result, the kernel's log of it and the state
        before and after. Raises as ``run`` does."""
        before = self._state or self.state()
        if not self._claimed:
            self.take_kmsg()  # the boot's
        started = time.monotonic()
        result = self.run(command, limit)
        seconds = time.monotonic() - started
        after = self.state()
        kmsg = self.take_kmsg()
        self._state = after
        return Step(
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

    def kmsg(self) -> tuple[Record, ...]:
        """All kernel-log records since boot, up to this very moment. Raises as ``run``."""
        self._wait_kmsg()
        return tuple(self._records)

    def take_kmsg(self) -> tuple[Record, ...]:
        """The records that no step has taken yet, up to this very moment."""
        self._wait_kmsg()
        taken = tuple(self._records[self._claimed :])
        self._claimed += len(taken)
        return taken

    def _wait_kmsg(self) -> int:
        """Until all records up to now have been read; returns how many PID 1 has sent."""
        counted = self._console.ping().records
        if not self._watcher.wait_records(counted, self._console.limit):
            raise GuestHang(
                "kernel-log records are missing on their channel", log=self._watcher.tail
            )
        return counted


def boot_of(kernel: Kernel, machine: Machine, arguments: str = "", *, kmod: bool = False) -> Boot:
    """What a guest of ``kernel`` on ``machine`` starts from. Raises UsageError for a
    machine that this QEMU cannot make or the kernel cannot run on."""
    if not kernel.serial_ports:
        machine = replace(machine, single_console=True)
    if machine.firmware == "acpi" and not kernel.option("ACPI"):
        raise UsageError(
            f"{kernel.label} cannot run on {machine.name}: it has no ACPI",
            "build it with --variant acpi",
        )
    qemu.check(machine)
    extras = [*(["kmod"] if kmod else []), *(["dropbear", "dropbearkey"] if machine.ssh else [])]
    tools = _KMOD if kmod else ""
    return Boot(
        machine,
        kernel.image,
        initramfs.image(kernel, extras),
        devicetree.blob(machine) if machine.firmware == "devicetree" else None,
        f"{tools} {arguments}".strip(),
    )


@contextlib.contextmanager
def booted(
    kernel: Kernel,
    machine: Machine,
    directory: Path,
    *,
    arguments: str = "",
    kmod: bool = False,
    limit: float | None = None,
    memory: Memory = ANONYMOUS,
    on_record: OnRecord = lambda _: None,
) -> Iterator[Guest]:
    """A guest of ``kernel`` on ``machine``, ended on the way out.

    Consoles, QEMU's own words and its command line go into ``directory`` as they
    come. ``arguments`` are appended to the kernel's command line; ``kmod`` makes
    modprobe and its like kmod's instead of busybox's; ``limit`` is how many
    seconds a command may be silent (None: scaled from the time of this boot).
    """
    boot = boot_of(kernel, machine, arguments, kmod=kmod)
    started = time.monotonic()
    with running(boot, directory, memory=memory, on_record=on_record) as (guest, console):
        console.wait_ready(_BOOT_SILENCE)
        took = time.monotonic() - started
        console.limit = limit or max(_LIMIT_FLOOR, _LIMIT_BOOTS * took)
        yield guest


@contextlib.contextmanager
def running(
    boot: Boot,
    directory: Path,
    *,
    memory: Memory,
    on_record: OnRecord,
    past: SavedLog = NO_SAVED_LOG,
    stub: Boot | None = None,
) -> Iterator[tuple[Guest, Console]]:
    """A QEMU for ``boot``, all its channels read, ended on the way out. Whether the guest
    in it answers is for the caller to see; one with a ``past`` waits for its state, and
    QEMU is given the files of ``stub``."""
    machine = boot.machine
    argv = [*qemu.board(machine), *qemu.memory(machine, memory), *qemu.payload(stub or boot)]
    argv += [*qemu.channels(machine), *(["-incoming", "defer"] if past.records else [])]
    records = list(past.records)
    for each in records:
        on_record(each)

    def take(data: bytes) -> None:
        parsed = record.parse(data)
        if parsed:
            records.append(parsed)
            on_record(parsed)

    with contextlib.ExitStack() as stack:
        names = qemu.chardevs(machine)
        started = stack.enter_context(process.started(argv, names, directory / "qemu.log"))
        monitor = Monitor(started.sockets["qmp"])
        log = directory / "console-kernel.log"
        log.write_bytes(past.console)
        counted, rest = past.counted, past.rest
        watcher = Watcher(started.sockets, monitor, log, take, counted=counted, rest=rest)
        watcher.feed(past.console)
        console = Console(started, watcher, directory / "console-command.log", _BOOT_SILENCE)
        stack.callback(console.close)
        watcher.start(on_death=console.wake)
        stack.callback(_end, started, watcher)
        qemu.check_stage(machine, monitor.execute)
        guest = Guest(
            boot=boot,
            running=started,
            console=console,
            watcher=watcher,
            monitor=monitor,
            records=records,
            directory=directory,
        )
        yield guest, console


def _end(running: process.Process, watcher: Watcher) -> None:
    """QEMU first: its sockets close, and the watching thread ends by itself."""
    running.popen.kill()
    running.popen.wait()
    watcher.join()
