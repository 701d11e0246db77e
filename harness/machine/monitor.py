# SPDX-License-Identifier: GPL-2.0-only
"""QMP, QEMU's own channel: commands from any thread, and the reason of a shutdown."""

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

_LIMIT = 30.0  # seconds for an answer; a QEMU that works needs far less
_POLL = 0.001  # seconds between two queries of a migration

# Memory that is in a file is not part of the state. Both ends must set this.
_CAPABILITIES = [{"capability": "x-ignore-shared", "state": True}]

# QEMU 11 accepts a file as "file:" only, 7.2 as "fd:" only. This capability is one of files:
# a QEMU that has it accepts "file:", and one that lacks it accepts files as "fd:". The QAPI
# schema lists both, but its 200 KB take as long as restoring a guest. Trying both does not
# work: after a refusal QEMU 11 accepts no state at all ("Illegal migration incoming state").
_FILE_CAPABILITY = "mapped-ram"


class Monitor:
    """QMP of one QEMU. Its client belongs to the event loop of the thread that calls
    ``follow``; all other methods are for other threads."""

    def __init__(self, qmp: socket.socket) -> None:
        self._socket = qmp
        self._client = QMPClient("guest")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connected = threading.Event()
        self.shutdown_reason = ""

    async def follow(self) -> None:
        """Connect, and stay connected until QEMU ends. Its events are read then."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._follow()
        finally:
            self._connected.set()  # or a call would wait for a connection that failed

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
        """QEMU's answer to a command. Raises HostError when QEMU refuses it, QemuEnded when
        QEMU has ended, GuestHang when it does not answer."""
        return self._call(command, arguments)

    def save(self, file: Path) -> None:
        """Write the state of a stopped guest to ``file``, without memory that is in a file
        shared with QEMU. Raises Unmigratable for a guest with a device that QEMU cannot
        save, and as ``execute`` does."""
        try:
            self._migrate("migrate", file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        except HostError as error:
            if "non-migratable" not in error.message:
                raise
            raise Unmigratable(error.message) from None
        self._wait(lambda: self._finished("query-migrate"))
        # The migration is "completed" before its thread releases the guest, which cannot
        # be resumed until then (qmp_cont, RUN_STATE_FINISH_MIGRATE).
        self._wait(lambda: self.execute("query-status")["status"] != "finish-migrate")

    def load(self, file: Path) -> None:
        """Load a state that ``save`` wrote into a QEMU that was started to wait for one.
        The guest stays stopped. Raises as ``execute`` does."""
        self._migrate("migrate-incoming", file, os.O_RDONLY)
        self._wait(lambda: self.execute("query-status")["status"] != "inmigrate")

    def _migrate(self, command: str, file: Path, flags: int) -> None:
        """Migrate by a file descriptor, which needs no path escaped as a URI."""
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
        """QEMU opens the file itself before it answers."""
        number = self._call("add-fd", {}, descriptor)["fdset-id"]
        try:
            self.execute(command, {"uri": f"file:/dev/fdset/{number}"})
        finally:
            self.execute("remove-fd", {"fdset-id": number})

    def _finished(self, query: str) -> bool:
        answer = self.execute(query)
        if answer.get("status") in ("failed", "cancelled"):
            reason = answer.get("error-desc", "no reason reported")
            raise HostError(f"QEMU cannot save the guest: {reason}")
        return bool(answer.get("status") == "completed")

    def _wait(self, done: Callable[[], bool]) -> None:
        ends = time.monotonic() + _LIMIT
        while not done():
            if time.monotonic() > ends:
                raise GuestHang(f"QEMU has not migrated the guest within {_LIMIT:.0f} s")
            time.sleep(_POLL)

    def _call(
        self, command: str, arguments: dict[str, Any] | None, descriptor: int | None = None
    ) -> Any:
        if not self._connected.wait(_LIMIT):
            raise GuestHang(f"QMP has not connected within {_LIMIT:.0f} s")
        if not self._loop or self._loop.is_closed():
            raise QemuEnded("QEMU has ended")
        call = self._execute(command, arguments, descriptor)
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result(_LIMIT)
        except ExecuteError as error:
            raise HostError(f"QEMU refuses {command}: {error}") from None
        except TimeoutError:
            raise GuestHang(f"QEMU has not answered {command} within {_LIMIT:.0f} s") from None
        except (QMPError, CancelledError, RuntimeError, OSError) as error:
            raise QemuEnded(f"QEMU ended during {command}: {error}") from None

    async def _execute(
        self, command: str, arguments: dict[str, Any] | None, descriptor: int | None
    ) -> Any:
        if descriptor is not None:
            self._client.send_fd_scm(descriptor)
        return await self._client.execute(command, arguments)


def _reason(event: Message) -> str:
    data = event["data"]
    return str(data["reason"]) if isinstance(data, dict) else ""
