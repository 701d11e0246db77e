# SPDX-License-Identifier: GPL-2.0-only
"""A thread for each guest that reads the kernel's console, the kernel-log records and QMP events,
and reports the death of the guest at once.
"""

import asyncio
import fcntl
import re
import socket
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from harness.machine import frames
from harness.machine.monitor import Monitor

PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")
# After its message, a panic prints a stack and resets, or prints this if it must not reset (panic
# in kernel/panic.c). A kernel that does neither is killed after this many seconds.
_PANIC_END = b"---[ end Kernel panic"
PANIC_GRACE = 0.9

# check_hung_task in kernel/hung_task.c.
_BLOCKED = re.compile(rb"INFO: task .* blocked for more than \d+ seconds")

_CHUNK = 65536

# QEMU's vCPU thread writes the console byte by byte, and pays for each wake-up of a reader, so
# the console is read at this interval (seconds). Meanwhile the bytes wait in the socket.
_CONSOLE_PERIOD = 0.002
_TAIL = 16384


@dataclass(frozen=True, slots=True)
class ExitReason:
    """Why a guest died. ``kind`` is "panic", "reset" or "lost". ``text`` is the panic's message or
    QEMU's reason for the shutdown."""

    kind: str
    text: str


class Watcher:
    """The thread that reads the output of a guest until it dies.

    ``on_record`` is called in this thread with each raw record, in order. For a restored guest,
    ``counted`` is the number of records that were read before it was saved, and ``rest`` the
    partial frame after them.
    """

    def __init__(
        self,
        sockets: dict[str, socket.socket],
        monitor: Monitor,
        console_log: Path,
        on_record: Callable[[bytes], None],
        *,
        counted: int = 0,
        rest: bytes = b"",
    ) -> None:
        self._sockets = sockets
        self._monitor = monitor
        self._console_log = console_log
        self._on_record = on_record
        self._on_death: Callable[[], None] = lambda: None
        self._changed = threading.Condition()
        self._records = counted
        self._rest = rest
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tail = b""
        self._dead = False
        self._error: Exception | None = None
        self.last_activity = time.monotonic()
        # When the kernel last reported a blocked task.
        self.last_blocked = 0.0
        self._thread = threading.Thread(target=self._run, name="guest watcher", daemon=True)

    def start(self, on_death: Callable[[], None]) -> None:
        """Start the thread. ``on_death`` is called once, when the guest has died."""
        self._on_death = on_death
        self._thread.start()

    def join(self, limit: float | None = None) -> bool:
        """Wait for the end of the thread, which ends when QEMU closes its sockets. Return False if
        it still runs after ``limit`` seconds."""
        self._thread.join(limit)
        return not self._thread.is_alive()

    def exit_reason(self) -> ExitReason:
        """Why the guest died, according to its console and QMP. Raises the error that ended the
        thread, if any (for example a full disk)."""
        if self._error:
            raise self._error
        panic = PANIC.search(self._tail)
        if panic:
            return ExitReason("panic", panic[1].decode(errors="replace"))
        reason = self._monitor.shutdown_reason
        if reason:
            return ExitReason("reset", f"the guest shut itself down ({reason})")
        return ExitReason("lost", "")

    @property
    def tail(self) -> str:
        """The last 16 KiB that the kernel printed on its console."""
        return self._tail.decode(errors="replace").replace("\r\n", "\n")

    def feed(self, data: bytes) -> None:
        """Add kernel console output that was read elsewhere."""
        self.last_activity = time.monotonic()
        self._tail = (self._tail + data)[-_TAIL:]

    @property
    def dead(self) -> bool:
        """Whether the guest has died."""
        return self._dead

    @property
    def panic_ended(self) -> bool:
        """Whether the kernel has printed the last line of a panic."""
        return _PANIC_END in self._tail

    def add_records(self, records: list[bytes]) -> None:
        """Add kernel-log records that were read from any channel."""
        for record in records:
            self._on_record(record)
        with self._changed:
            self._records += len(records)
            self.last_activity = time.monotonic()
            if any(map(_BLOCKED.search, records)):
                self.last_blocked = self.last_activity
            self._changed.notify_all()

    def wait_records(self, count: int, limit: float) -> bool:
        """Wait until ``count`` records since boot have been read, or the guest has died.
        Return False after ``limit`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._records >= count or self._dead, limit)

    def drain(self) -> tuple[int, bytes]:
        """Read everything that a stopped guest has sent. Return the number of records since boot,
        and the partial frame after them."""
        if self._loop and not self._dead:
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result()
        with self._changed:
            return self._records, self._rest

    async def _drain(self) -> None:
        channels = [self._sockets[name] for name in ("kmsg", "console") if name in self._sockets]
        while True:
            unread = any(_unread(channel) for channel in channels)
            # The loop passes received data to a reader in its next iteration.
            await asyncio.sleep(_CONSOLE_PERIOD if unread else 0)
            await asyncio.sleep(0)
            if not unread and not any(_unread(channel) for channel in channels):
                return

    def _run(self) -> None:
        try:
            asyncio.run(self._read_all())
        except Exception as error:
            self._error = error
        finally:
            self._report_death()

    async def _read_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        readers = [self._monitor.follow()]
        if "kmsg" in self._sockets:
            readers.append(self._read_kmsg(self._sockets["kmsg"]))
            readers.append(self._read_console(self._sockets["console"]))
        await asyncio.gather(*readers)

    async def _read_console(self, console: socket.socket) -> None:
        panicked = False
        with self._console_log.open("ab", buffering=0) as log:
            async for data in _chunks(console):
                log.write(data)
                self.feed(data)
                if not panicked and PANIC.search(self._tail):
                    panicked = True
                    asyncio.get_running_loop().call_later(PANIC_GRACE, self._report_death)
                if self.panic_ended:
                    self._report_death()
                await asyncio.sleep(_CONSOLE_PERIOD)

    async def _read_kmsg(self, kmsg: socket.socket) -> None:
        async for data in _chunks(kmsg):
            parsed, self._rest = frames.parse(self._rest + data)
            self.add_records(parsed.records)

    def _report_death(self) -> None:
        """Mark the guest as dead, wake all threads that wait for it, and call ``on_death``."""
        if self._dead:
            return
        with self._changed:
            self._dead = True
            self._changed.notify_all()
        self._on_death()


def _unread(channel: socket.socket) -> bool:
    """Whether bytes wait in the socket."""
    return fcntl.ioctl(channel, termios.FIONREAD, bytes(4)) != bytes(4)


async def _chunks(channel: socket.socket) -> AsyncIterator[bytes]:
    """Yield the data that arrives on a socket until its other end is closed."""
    loop = asyncio.get_running_loop()
    channel.setblocking(False)
    while True:
        try:
            data = await loop.sock_recv(channel, _CHUNK)
        except OSError:
            return
        if not data:
            return
        yield data
