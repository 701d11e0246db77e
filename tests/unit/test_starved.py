# SPDX-License-Identifier: GPL-2.0-only
"""A guest that is silent because the host does not schedule QEMU; no guest can provoke this."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import errors
from harness.errors import BuildError, GuestHang, GuestPanic, HostStarved, QemuEnded
from harness.machine.console import Console
from harness.machine.process import Process

LIMIT = 0.4


class Watched:
    """The attributes of a watcher that a console reads, for a silent guest."""

    tail = ""
    last_activity = 0.0
    last_blocked = 0.0


class Waiting:
    """A QEMU that waits for a CPU for ``share`` of the elapsed time."""

    def __init__(self, share: float, channel: socket.socket) -> None:
        self.sockets = {"command": channel}
        self._share = share
        self._began = time.monotonic()

    def run_delay(self) -> float:
        return 100 + (time.monotonic() - self._began) * self._share


@pytest.mark.parametrize(
    ("share", "error"), [(0.0, GuestHang), (0.3, GuestHang), (0.9, HostStarved)]
)
def test_silence_is_a_hang_unless_qemu_waits_for_a_cpu(
    tmp_path: Path, share: float, error: type[Exception]
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = Waiting(share, ours)
        console = Console(process, Watched(), tmp_path / "log", LIMIT)  # type: ignore[arg-type]
        with contextlib.closing(console), pytest.raises(error):
            console.run("true")


@contextlib.contextmanager
def busy(cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    os.sched_setaffinity(process.pid, {cpu})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="requires CONFIG_SCHED_INFO")
def test_run_delay_grows_for_a_process_that_shares_its_cpu(tmp_path: Path) -> None:
    """Of two processes on one CPU, each waits for about half the time."""
    cpu = min(os.sched_getaffinity(0))
    with busy(cpu) as one, busy(cpu):
        process = Process((), one, {}, tmp_path / "log")
        end = time.monotonic() + 30
        while process.run_delay() < 0.1 and time.monotonic() < end:
            time.sleep(0.01)
        assert process.run_delay() >= 0.1
    assert process.run_delay() == 0.0


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(24, "Too many open files"), True),
        (MemoryError(), True),
        (QemuEnded("QEMU was killed by SIGKILL"), True),
        (HostStarved("it waits"), True),
        (BuildError("it does not compile"), True),
        (OSError(2, "No such file or directory"), False),
        (GuestPanic("not syncing"), False),
        (GuestHang("silent"), False),
        (AssertionError(), False),
        (None, False),
    ],
)
def test_is_host_trouble_accepts_only_host_and_build_errors(
    error: BaseException | None, trouble: bool
) -> None:
    assert errors.is_host_trouble(error) == trouble
