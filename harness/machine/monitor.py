# SPDX-License-Identifier: GPL-2.0-only
"""QMP, QEMU's control channel: commands from any thread, and the reason for a shutdown."""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from qemu.qmp import Message, QMPClient, QMPError, Runstate
from qemu.qmp.qmp_client import ExecuteError

from harness.errors import GuestHang, HostError, QemuEnded, Unmigratable

_LIMIT = 30.0  # seconds for a reply; a working QEMU needs far less
_POLL = 0.001  # seconds between two queries of a migration

# Memory that is in a file is not part of the saved state. The saving and the restoring QEMU must
# both set this.
_CAPABILITIES = [{"capability": "x-ignore-shared", "state": True}]

# QEMU 11 accepts a file only as "file:", QEMU 7.2 only as "fd:". A QEMU with this capability,
# which is for files, accepts "file:"; a QEMU without it accepts files as "fd:". The QAPI schema
# lists both, but reading its 200 KB takes as long as restoring a guest. Trying both does not
# work: after the first failure, QEMU 11 accepts no state ("Illegal migration incoming state").
_FILE_CAPABILITY = "mapped-ram"


class Monitor:
    """The QMP connection to a QEMU. Its client belongs to the event loop of the thread that calls
    ``follow``. All other methods are for other threads."""

    def __init__(self, qmp: socket.socket) -> None:
        self._socket = qmp
        self._client = QMPClient("guest")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = threading.Event()
        self.shutdown_reason = ""

    async def follow(self) -> None:
        """Connect, and stay connected until QEMU exits. Then read its events."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._follow()
        finally:
            self._connected.set()  # otherwise a call would wait for a failed connection

    async def _follow(self) -> None:
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.connect(self._socket)
            self._connected.set()
            while self._client.runstate is Runstate.RUNNING:
                await self._client.runstate_changed()
            await self._client.disconnect()
        for event in self._client.events.clear():
            if event["event"] == "SHUTDOWN":
                self.shutdown_reason = _reason(event)

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Execute a QMP command and return QEMU's reply. Raises HostError if QEMU rejects the
        command, QemuEnded if QEMU has exited, and GuestHang if it does not reply."""
        return self._call(command, arguments)

    def save(self, file: Path) -> None:
        """Write the state of a stopped guest to ``file``, without memory that is in a file shared
        with QEMU. Raises Unmigratable if the guest has a device that QEMU cannot save, and
        otherwise as ``execute`` does."""
        try:
            self._migrate("migrate", file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        except HostError as error:
            if "non-migratable" not in error.message:
                raise
            raise Unmigratable(error.message) from None
        self._wait(lambda: self._finished("query-migrate"))
        # QEMU reports "completed" before the migration thread releases the guest, and the guest
        # cannot be resumed before that (qmp_cont, RUN_STATE_FINISH_MIGRATE).
        self._wait(lambda: self.execute("query-status")["status"] != "finish-migrate")

    def load(self, file: Path) -> None:
        """Load the state that ``save`` wrote. QEMU must have been started with ``-incoming
        defer``. The guest stays stopped. Raises as ``execute`` does."""
        self._migrate("migrate-incoming", file, os.O_RDONLY)
        self._wait(lambda: self.execute("query-status")["status"] != "inmigrate")

    def _migrate(self, command: str, file: Path, flags: int) -> None:
        """Migrate through a file descriptor, because a path would have to be escaped in the URI."""
        self.execute("migrate-set-capabilities", {"capabilities": _CAPABILITIES})
        known = {each["capability"] for each in self.execute("query-migrate-capabilities")}
        descriptor = os.open(file, flags, 0o600)
        try:
            if _FILE_CAPABILITY in known:
                self._migrate_file(command, descriptor)
            else:
                self._call("getfd", {"fdname": "state"}, descriptor)
                self.execute(command, {"uri": "fd:state"})
        finally:
            os.close(descriptor)

    def _migrate_file(self, command: str, descriptor: int) -> None:
        """Migrate through an fd set. QEMU opens the file before it replies, so the set can be
        removed."""
        number = self._call("add-fd", {}, descriptor)["fdset-id"]
        try:
            self.execute(command, {"uri": f"file:/dev/fdset/{number}"})
        finally:
            self.execute("remove-fd", {"fdset-id": number})

    def _finished(self, query: str) -> bool:
        reply = self.execute(query)
        if reply.get("status") in ("failed", "cancelled"):
            reason = reply.get("error-desc", "no reason reported")
            raise HostError(f"QEMU cannot save the guest: {reason}")
        return bool(reply.get("status") == "completed")

    def _wait(self, done: Callable[[], bool]) -> None:
        ends = time.monotonic() + _LIMIT
        while not done():
            if time.monotonic() > ends:
                raise GuestHang(f"QEMU did not migrate the guest within {_LIMIT:.0f} s")
            time.sleep(_POLL)

    def _call(
        self, command: str, arguments: dict[str, Any] | None, descriptor: int | None = None
    ) -> Any:
        if not self._connected.wait(_LIMIT):
            raise GuestHang(f"QMP did not connect within {_LIMIT:.0f} s")
        if not self._loop or self._loop.is_closed():
            raise QemuEnded("QEMU has exited")
        call = self._execute(command, arguments, descriptor)
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result(_LIMIT)
        except ExecuteError as error:
            raise HostError(f"QEMU rejects {command}: {error}") from None
        except TimeoutError:
            raise GuestHang(f"QEMU did not reply to {command} within {_LIMIT:.0f} s") from None
        except (QMPError, CancelledError, RuntimeError, OSError) as error:
            raise QemuEnded(
                f"QEMU exited during {command}: {str(error) or type(error).__name__}"
            ) from None

    async def _execute(
        self, command: str, arguments: dict[str, Any] | None, descriptor: int | None
    ) -> Any:
        if descriptor is not None:
            self._client.send_fd_scm(descriptor)
        return await self._client.execute(command, arguments)


def _reason(event: Message) -> str:
    data = event["data"]
    return str(data["reason"]) if isinstance(data, dict) else ""
