# SPDX-License-Identifier: GPL-2.0-only
"""A running guest: boot it, run commands in it, see what the kernel did."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import GuestHang
from harness.guest import state
from harness.guest.state import State
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.klog.record import Record
from harness.machine import devicetree, process, qemu
from harness.machine.console import Console, Reply
from harness.machine.qemu import Boot
from harness.machine.topology import Machine
from harness.machine.watch import Watch
from harness.rootfs import initramfs

# A guest that says nothing for so long while it boots is dead. Slow hosts and
# sanitizers make a boot long, not silent.
_BOOT_SILENCE = 60.0

# How long a command may be silent: so many boots of this very guest on this
# host, and never less than the floor.
_LIMIT_BOOTS = 40.0
_LIMIT_FLOOR = 20.0


# What guest-scripts/agent looks for.
_KMOD = "harness_modules=kmod"


@dataclass(frozen=True, slots=True)
class Step:
    """One command with its result. ``status`` is $?, or 128 and the signal when
    the command's shell was ``killed`` (an oops does that); ``kmsg`` the kernel-log
    records since the step before; ``before`` and ``after`` what the kernel shows;
    ``seconds`` how long the command took."""

    command: str
    status: int
    killed: bool
    out: str
    err: str
    kmsg: tuple[Record, ...]
    before: State
    after: State
    seconds: float


class Guest:
    """A guest that takes commands. Made by ``booted``; ``argv`` and ``pid`` are QEMU's."""

    def __init__(
        self,
        *,
        boot: Boot,
        argv: tuple[str, ...],
        pid: int,
        console: Console,
        watch: Watch,
        records: list[Record],
    ) -> None:
        self.boot = boot
        self.argv = argv
        self.pid = pid
        self._console = console
        self._watch = watch
        self._records = records
        self._claimed = 0
        self._state: State | None = None

    @property
    def kmsg(self) -> tuple[Record, ...]:
        """All kernel-log records since boot that have been read so far."""
        return tuple(self._records)

    def run(self, command: str, limit: float | None = None) -> Reply:
        """Runs a command and returns its bare result: the fastest way.

        ``limit`` is how many seconds the guest may stay silent. Raises
        GuestPanic, GuestHang or GuestLost.
        """
        reply = self._console.run(command, limit)
        self._state = None
        return reply

    def state(self) -> State:
        """What the kernel shows now."""
        return state.parse(self._console.state())

    def step(self, command: str, limit: float | None = None) -> Step:
        """Runs a command; returns its result, the kernel's log of it and the state
        before and after. Raises as ``run`` does."""
        before = self._state or self.state()
        if not self._claimed:
            self.take_kmsg()  # the boot's
        started = time.monotonic()
        reply = self.run(command, limit)
        seconds = time.monotonic() - started
        after = self.state()
        kmsg = self.take_kmsg()
        self._state = after
        killed = reply.how == "killed"
        return Step(
            command,
            128 + reply.number if killed else reply.number,
            killed,
            reply.out.decode(errors="replace"),
            reply.err.decode(errors="replace"),
            kmsg,
            before,
            after,
            seconds,
        )

    def take_kmsg(self) -> tuple[Record, ...]:
        """The records that no step has taken yet, up to this very moment."""
        if not self._watch.wait_records(self._console.records(), self._console.limit):
            raise GuestHang("kernel-log records are missing on their channel", log=self._watch.tail)
        taken = tuple(self._records[self._claimed :])
        self._claimed += len(taken)
        return taken


@contextlib.contextmanager
def booted(
    kernel: Kernel,
    machine: Machine,
    directory: Path,
    *,
    arguments: str = "",
    kmod: bool = False,
    limit: float | None = None,
    on_record: Callable[[Record], None] = lambda _: None,
) -> Iterator[Guest]:
    """A guest of ``kernel`` on ``machine``, ended on the way out.

    Consoles, QEMU's own words and its command line go into ``directory`` as they
    come; ``on_record`` gets each kernel-log record, in another thread.
    ``arguments`` are appended to the kernel's command line; ``kmod`` makes modprobe
    and its like kmod's instead of busybox's; ``limit`` is how many
    seconds a command may be silent (None: scaled from the time of this boot).
    """
    if not kernel.serial_ports:
        machine = replace(machine, single_console=True)
    tools = _KMOD if kmod else ""
    boot = Boot(
        machine,
        kernel.image,
        initramfs.image(kernel, kmod=kmod),
        devicetree.blob(machine),
        f"{tools} {arguments}".strip(),
    )
    argv = [*qemu.board(machine), *qemu.payload(boot), *qemu.channels(machine)]
    records: list[Record] = []

    def take(data: bytes) -> None:
        parsed = record.parse(data)
        if parsed:
            records.append(parsed)
            on_record(parsed)

    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        names = qemu.chardevs(machine)
        running = stack.enter_context(process.started(argv, names, directory / "qemu.log"))
        watch = Watch(running.sockets, directory / "console-kernel.log", take)
        console = Console(running, watch, directory / "console-command.log", _BOOT_SILENCE)
        stack.callback(console.close)
        watch.start(on_death=console.interrupt)
        stack.callback(_end, running, watch)
        console.wait_ready(_BOOT_SILENCE)
        took = time.monotonic() - started
        console.limit = limit or max(_LIMIT_FLOOR, _LIMIT_BOOTS * took)
        yield Guest(
            boot=boot,
            argv=running.argv,
            pid=running.popen.pid,
            console=console,
            watch=watch,
            records=records,
        )


def _end(running: process.Process, watch: Watch) -> None:
    """QEMU first: its sockets close, and the watching thread ends by itself."""
    running.popen.kill()
    running.popen.wait()
    watch.join()
