# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU process and the sockets to it.

Every channel is a socket pair whose other end QEMU inherits: there is no socket
file to leave behind, and no other process can connect. QEMU gets SIGKILL when the
thread that started it dies, for whatever reason.
"""

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host import program

_REAP = 5.0  # seconds

# Bytes that a channel holds until they are read.
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """A running QEMU: its ``argv``, its ``sockets`` by chardev name ("qmp" is QMP), and the
    ``log`` of what QEMU itself printed."""

    argv: tuple[str, ...]
    popen: subprocess.Popen[bytes]
    sockets: dict[str, socket.socket]
    log: Path

    def run_delay(self) -> float:
        """Seconds that QEMU's threads were runnable and waited for a CPU, of the thread that
        waited longest (run_delay of Documentation/scheduler/sched-stats.rst); 0 where the
        host's kernel does not count them."""
        found = [0]
        for file in Path(f"/proc/{self.popen.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError):
                found.append(int(file.read_text().split()[1]))
        return max(found) / 1e9

    def exit_message(self) -> str:
        """How QEMU ended, and the last line that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(_REAP)  # its sockets close shortly before it can be reaped
        code = self.popen.poll()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        if code is None:
            return f"QEMU is still running{last}"
        end = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        return f"QEMU ended {end}{last}"


@contextlib.contextmanager
def started(argv: Sequence[str], chardevs: Sequence[str], log: Path) -> Iterator[Process]:
    """Run QEMU with ``argv`` and a socket for each of ``chardevs`` and for QMP, and kill it at
    the end of the block. Raises ToolMissing without QEMU."""
    with contextlib.ExitStack() as stack:
        ours: dict[str, socket.socket] = {}
        theirs: list[socket.socket] = []
        full = list(argv)
        for name in (*chardevs, "qmp"):
            ours[name], other = _pair(stack)
            theirs.append(other)
            full += ["-chardev", f"socket,id={name},fd={other.fileno()}"]
        full += ["-mon", "chardev=qmp,mode=control"]
        popen = stack.enter_context(_running(full, theirs, log))
        for other in theirs:
            other.close()
        yield Process(tuple(full), popen, ours, log)


def _pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ours, theirs


@contextlib.contextmanager
def _running(
    argv: list[str], inherited: list[socket.socket], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        popen = subprocess.Popen(
            program.with_pdeathsig(argv, "KILL"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=program.environment(),
            pass_fds=[end.fileno() for end in inherited],
            start_new_session=True,  # ^C reaches only the harness, which then ends QEMU
        )
    try:
        yield popen
    finally:
        popen.kill()  # does nothing once it has been reaped
        popen.wait()
