# SPDX-License-Identifier: GPL-2.0-only
"""The cost of guests: restored by hand and by us, sixteen in parallel, and hundreds in a row; and
the errors that their faults cause.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.errors import GuestError, GuestHang, GuestLost, GuestPanic
from harness.guest import launch, remote, snapshot
from harness.guest.guest import Guest
from harness.guest.snapshot import Snapshot
from harness.iommu import machines
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.machine import frames, process, qemu
from tests.processes import descendants, wait_until

SMMUV3 = machines.named("smmuv3")


def by_hand(saved: Snapshot, directory: Path) -> float:
    """Restore a guest by hand, with the same QEMU arguments, and return the seconds from the start
    of QEMU to the first reply. This is the minimum for a restore."""
    machine = saved.boot.machine
    argv = [*qemu.board(machine), *qemu.memory(machine, saved.memory), *qemu.payload(saved.stub)]
    argv += [*qemu.channels(machine), "-incoming", "defer"]
    started = time.perf_counter()
    with (
        process.started(argv, qemu.chardevs(machine), directory / "qemu.log") as running,
        (saved.directory / "state").open("rb") as state,
    ):
        qmp = running.sockets["qmp"]
        _execute(qmp, "qmp_capabilities")
        capability = {"capability": "x-ignore-shared", "state": True}
        _execute(qmp, "migrate-set-capabilities", capabilities=[capability])
        _begin_incoming(qmp, state.fileno())
        while b"inmigrate" in _execute(qmp, "query-status"):
            pass
        _execute(qmp, "cont")
        ping = frames.ping()
        command = running.sockets["command"]
        command.sendall(ping.data)
        received = b""
        while ping.nonce.encode() not in received:
            received += command.recv(65536)
        return time.perf_counter() - started


def _begin_incoming(qmp: socket.socket, state: int) -> None:
    """Start the incoming migration as Monitor does, in the way that this QEMU supports."""
    if b"mapped-ram" in _execute(qmp, "query-migrate-capabilities"):
        _execute(qmp, "add-fd", state, **{"fdset-id": 1})
        _execute(qmp, "migrate-incoming", uri="file:/dev/fdset/1")
    else:
        _execute(qmp, "getfd", state, fdname="state")
        _execute(qmp, "migrate-incoming", uri="fd:state")


def by_hand_anywhere(saved: Snapshot, _number: int) -> float:
    """As ``by_hand``, in a temporary directory."""
    with tempfile.TemporaryDirectory() as scratch:
        return by_hand(saved, Path(scratch))


def _execute(qmp: socket.socket, command: str, *descriptors: int, **arguments: object) -> bytes:
    text = json.dumps({"execute": command, "arguments": arguments}).encode()
    socket.send_fds(qmp, [text], list(descriptors))
    received = b""
    while b'"return"' not in received:
        received += qmp.recv(65536)
        if b'"error"' in received:
            raise RuntimeError(received)
    return received


def ours(saved: Snapshot, directory: Path) -> float:
    started = time.perf_counter()
    with snapshot.restored(saved, directory) as running:
        running.run(":")
        return time.perf_counter() - started


def cold(kernel: Kernel, directory: Path) -> float:
    started = time.perf_counter()
    with launch.booted(kernel, SMMUV3, directory) as running:
        running.run(":")
        return time.perf_counter() - started


@dataclass(frozen=True)
class Crowd:
    """Guests of one snapshot that run in parallel.

    ``seconds``: the time until all guests have replied.
    ``first_megabytes``, ``each_more_megabytes``: the MB of host memory that the first and each
    further guest adds (PSS: shared pages count in proportion).
    """

    count: int
    seconds: float
    first_megabytes: float
    each_more_megabytes: float


def crowd(saved: Snapshot, count: int, scratch: Path) -> Crowd:
    with contextlib.ExitStack() as stack:
        running: list[Guest] = []
        started = time.perf_counter()
        for number in range(count):
            directory = scratch / f"crowd{number}"
            directory.mkdir()
            running.append(stack.enter_context(snapshot.restored(saved, directory)))
            if number == 0:
                first = _pss(running[0].pid)
        for each in running:
            each.run(":")
        seconds = time.perf_counter() - started
        total = sum(_pss(each.pid) for each in running)
    return Crowd(count, seconds, first, (total - first) / (count - 1))


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def many(saved: Snapshot, count: int, workers: int) -> Iterator[str]:
    """Run one step in each of ``count`` guests, and yield "fine" or an error for each."""
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap_unordered(partial(_one, saved), range(count))


def _one(saved: Snapshot, number: int) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with snapshot.restored(saved, Path(scratch)) as running:
                step = running.step(f"echo {number} > /dev/kmsg; modprobe arm-smmu-v3")
        except GuestError as error:
            return f"{type(error).__name__}: {error}"
    messages = [entry.text for entry in step.kmsg]
    # On a busy host, the guest may log another message before (hrtimer: interrupt took ...).
    logged = step.status == 0 and str(number) in messages
    return "fine" if logged else f"wrong: {step.status}, {messages}"


@dataclass(frozen=True)
class Fault:
    """A fault of a guest. ``force`` causes it and returns what is reported, which must be
    ``expected``."""

    name: str
    expected: str
    force: Callable[[Kernel, Path], str]


def faults(kernel: Kernel, rounds: int) -> Iterator[tuple[str, str, float]]:
    """Cause each fault ``rounds`` times. Yields its name, what is wrong ("" if nothing is), and
    the seconds."""
    for number in range(rounds):
        for fault in _FAULTS:
            before = _resources()
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as scratch:
                seen = fault.force(kernel, Path(scratch))
            seconds = time.perf_counter() - started
            wrong = (
                "" if seen == fault.expected else f"reported as {seen!r}, not {fault.expected!r}"
            )
            if not wait_until(partial(_resources_are, before)):
                wrong += f" leaks: {_resources()}, but {before} before"
            yield f"{fault.name} {number + 1}", wrong, seconds


def _resources_are(before: tuple[int, int, int]) -> bool:
    return _resources() == before


def _resources() -> tuple[int, int, int]:
    """The numbers of our processes, sockets and threads. Other file descriptors do not count,
    because the locks of cache entries stay open."""
    sockets = [
        each
        for each in Path("/proc/self/fd").iterdir()
        if os.path.islink(each) and "socket:" in os.readlink(each)  # noqa: PTH114, PTH115
    ]
    return len(descendants(os.getpid())), len(sockets), threading.active_count()


@contextlib.contextmanager
def _guest(kernel: Kernel, scratch: Path, name: str = "smmuv3", **more: float) -> Iterator[Guest]:
    machine = machines.named(name)
    with snapshot.started(kernel, machine, scratch, limit=more.get("limit")) as running:
        yield running


def _classified(work: Callable[[], str]) -> str:
    """Call ``work``, and return its result or the type of the error that it raises."""
    try:
        return work()
    except GuestError as error:
        return type(error).__name__
    except OSError as error:
        return os.strerror(error.errno or 0)


def _killed(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        os.kill(running.pid, signal.SIGKILL)
        return _classified(lambda: str(running.run("true")))


def _panic(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        return _classified(lambda: str(running.run("echo c > /proc/sysrq-trigger")))


def _oops(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch, "virtio-iommu") as running:
        running.run("modprobe virtio-iommu; modprobe e1000e")
        step = running.step("echo virtio1 > /sys/bus/virtio/drivers/virtio_iommu/unbind")
        alive = running.run("echo alive").out
        return f"killed {step.killed}, {alive.strip()}"


def _hang(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch, limit=1) as running:
        return _classified(lambda: str(running.run("modprobe hang")))


def _flood(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        reply = running.run("dd if=/dev/zero bs=1M count=50 2>/dev/null")
        return f"{len(reply.out) >> 20} MB"


def _overrun(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        running.step("for i in $(seq 500); do sleep 1000 & done; echo t > /proc/sysrq-trigger")
        return "a gap" if record.gaps(running.kmsg()) else "no gap"


def _memory(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        running.run("echo 1 > /proc/sys/vm/overcommit_memory")
        step = running.step("(x=a; while :; do x=$x$x; done)")
        killed = any("Out of memory: Killed" in entry.text for entry in step.kmsg)
        return f"killed {killed}, {running.run('echo alive').out.strip()}"


def _full(kernel: Kernel, scratch: Path) -> str:
    (scratch / "console-command.log").symlink_to("/dev/full")

    def work() -> str:
        with _guest(kernel, scratch) as running:
            return str(running.run("true"))

    return _classified(work)


def _truncated(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        saved = snapshot.save(running, scratch / "kept")
    state = saved.directory / "state"
    os.truncate(state, state.stat().st_size // 2)
    (scratch / "again").mkdir()

    def work() -> str:
        with snapshot.restored(saved, scratch / "again"):
            return "restored"

    return _classified(work)


def _port(kernel: Kernel, scratch: Path) -> str:
    machine = replace(SMMUV3, name="smmuv3-ssh", ssh=True)
    with snapshot.started(kernel, machine, scratch) as running, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        return (
            "the free port" if remote.forward(running, [taken, free]) == free else "the taken port"
        )


_FAULTS = (
    Fault("QEMU is killed", GuestLost.__name__, _killed),
    Fault("the kernel panics", GuestPanic.__name__, _panic),
    Fault("the kernel oopses", "killed True, alive", _oops),
    Fault("the kernel hangs, interrupts off", GuestHang.__name__, _hang),
    Fault("a command floods its channel", "50 MB", _flood),
    Fault("the kernel log overruns", "a gap", _overrun),
    Fault("the guest is out of memory", "killed True, alive", _memory),
    Fault("the run directory is full", "No space left on device", _full),
    Fault("the snapshot is truncated", GuestLost.__name__, _truncated),
    Fault("the port is taken", "the free port", _port),
)


def panic_latency(kernel: Kernel, count: int) -> list[float]:
    """Measure the seconds from a panic's text on the console to the error, alternately in guests
    that reset at once and in guests that never reset."""
    return [_latency(kernel, "panic=0" if number % 2 else "") for number in range(count)]


def _latency(kernel: Kernel, arguments: str) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "console-kernel.log"
        printed: list[float] = []

        def watch() -> None:
            while b"Kernel panic" not in log.read_bytes():
                time.sleep(0.001)
            printed.append(time.perf_counter())

        with snapshot.started(kernel, SMMUV3, Path(scratch), arguments=arguments) as running:
            watcher = threading.Thread(target=watch)
            watcher.start()
            with contextlib.suppress(GuestPanic):
                running.run("echo c > /proc/sysrq-trigger")
            reported = time.perf_counter()
            watcher.join()
    return reported - printed[0]
