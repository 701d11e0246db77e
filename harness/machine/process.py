# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU process and the sockets to it.

Every channel is a socket pair, and QEMU inherits the other end. So no socket file is left behind,
and no other process can connect. QEMU receives SIGKILL when the thread that started it dies for
any reason.
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
    """A running QEMU. ``argv`` is its command line, ``sockets`` has its sockets by chardev name
    ("qmp" is QMP), and ``log`` is the file with QEMU's own output."""

    argv: tuple[str, ...]
    popen: subprocess.Popen[bytes]
    sockets: dict[str, socket.socket]
    log: Path

    def run_delay(self) -> float:
        """How long (seconds) QEMU's threads were runnable but waited for a CPU, for the thread
        that waited longest (run_delay in Documentation/scheduler/sched-stats.rst). 0 if the host's
        kernel does not count it."""
        found = [0]
        for file in Path(f"/proc/{self.popen.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError):
                found.append(int(file.read_text().split()[1]))
        return max(found) / 1e9

    def exit_message(self) -> str:
        """Describe how QEMU exited, with the last line that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(_REAP)  # its sockets close shortly before it can be reaped
        code = self.popen.poll()
        lines = self.log.read_text(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        if code is None:
            return f"QEMU is still running{last}"
        end = f"exited with status {code}"
        if code < 0:
            end = f"was killed by {signal.Signals(-code).name}"
        return f"QEMU {end}{last}"


@contextlib.contextmanager
def started(argv: Sequence[str], chardevs: Sequence[str], log: Path) -> Iterator[Process]:
    """Run QEMU with ``argv``, a socket for each of ``chardevs`` and a socket for QMP, and kill it
    when the block ends. Raises ToolMissing if QEMU is not installed."""
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
            start_new_session=True,  # ^C reaches only the harness, which then kills QEMU
        )
    try:
        yield popen
    finally:
        popen.kill()  # does nothing once it has been reaped
        popen.wait()
