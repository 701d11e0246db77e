# SPDX-License-Identifier: GPL-2.0-only
"""What a guest costs, and what becomes of many: restored by hand and by us, sixteen at
once, hundreds in a row, and with everything that can happen to one.
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
from harness.guest import guest, remote, snapshot
from harness.guest.guest import Guest
from harness.guest.snapshot import Snapshot
from harness.iommu import machines
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.machine import frames, process, qemu
from tests.processes import descendants, wait_until

SMMUV3 = machines.named("smmuv3")


def by_hand(taken: Snapshot, directory: Path) -> float:
    """Seconds from starting QEMU, with the same arguments, to the first answer: the least
    that the recipe costs."""
    machine = taken.boot.machine
    argv = [*qemu.board(machine), *qemu.memory(machine, taken.memory), *qemu.payload(taken.stub)]
    argv += [*qemu.channels(machine), "-incoming", "defer"]
    started = time.perf_counter()
    with (
        process.started(argv, qemu.chardevs(machine), directory / "qemu.log") as running,
        (taken.directory / "state").open("rb") as state,
    ):
        qmp = running.sockets["qmp"]
        _tell(qmp, "qmp_capabilities")
        capability = {"capability": "x-ignore-shared", "state": True}
        _tell(qmp, "migrate-set-capabilities", capabilities=[capability])
        _begin_incoming(qmp, state.fileno())
        while b"inmigrate" in _tell(qmp, "query-status"):
            pass
        _tell(qmp, "cont")
        ping = frames.ping()
        command = running.sockets["command"]
        command.sendall(ping.data)
        heard = b""
        while ping.nonce.encode() not in heard:
            heard += command.recv(65536)
        return time.perf_counter() - started


def _begin_incoming(qmp: socket.socket, state: int) -> None:
    """In the way that this QEMU has, as Monitor does."""
    if b"mapped-ram" in _tell(qmp, "query-migrate-capabilities"):
        _tell(qmp, "add-fd", state, **{"fdset-id": 1})
        _tell(qmp, "migrate-incoming", uri="file:/dev/fdset/1")
    else:
        _tell(qmp, "getfd", state, fdname="state")
        _tell(qmp, "migrate-incoming", uri="fd:state")


def by_hand_anywhere(taken: Snapshot, _number: int) -> float:
    """The same, in a directory of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        return by_hand(taken, Path(scratch))


def _tell(qmp: socket.socket, command: str, *descriptors: int, **arguments: object) -> bytes:
    text = json.dumps({"execute": command, "arguments": arguments}).encode()
    socket.send_fds(qmp, [text], list(descriptors))
    heard = b""
    while b'"return"' not in heard:
        heard += qmp.recv(65536)
        if b'"error"' in heard:
            raise RuntimeError(heard)
    return heard


def ours(taken: Snapshot, directory: Path) -> float:
    started = time.perf_counter()
    with snapshot.restored(taken, directory) as running:
        running.run(":")
        return time.perf_counter() - started


def cold(kernel: Kernel, directory: Path) -> float:
    started = time.perf_counter()
    with guest.booted(kernel, SMMUV3, directory) as running:
        running.run(":")
        return time.perf_counter() - started


@dataclass(frozen=True)
class Crowd:
    """Guests of one snapshot at once: ``seconds`` until all have answered, and how many
    MB of the host's memory each adds (PSS: what is shared counts in parts)."""

    count: int
    seconds: float
    first_megabytes: float
    each_more_megabytes: float


def crowd(taken: Snapshot, count: int, scratch: Path) -> Crowd:
    with contextlib.ExitStack() as stack:
        running: list[Guest] = []
        started = time.perf_counter()
        for number in range(count):
            directory = scratch / f"crowd{number}"
            directory.mkdir()
            running.append(stack.enter_context(snapshot.restored(taken, directory)))
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


def many(taken: Snapshot, count: int, workers: int) -> Iterator[str]:
    """How each of ``count`` guests ended, with a step each: "fine", or its error."""
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap_unordered(partial(_one, taken), range(count))


def _one(taken: Snapshot, number: int) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with snapshot.restored(taken, Path(scratch)) as running:
                step = running.step(f"echo {number} > /dev/kmsg; modprobe arm-smmu-v3")
        except GuestError as error:
            return f"{type(error).__name__}: {error}"
    said = [entry.text for entry in step.kmsg]
    # A host that is too busy makes the guest complain first (hrtimer: interrupt took ...).
    told = step.status == 0 and str(number) in said
    return "fine" if told else f"wrong: {step.status}, {said}"


@dataclass(frozen=True)
class Fault:
    """What is done to a guest, and how it must be told. ``force`` returns what was seen."""

    name: str
    expected: str
    force: Callable[[Kernel, Path], str]


def faults(kernel: Kernel, rounds: int) -> Iterator[tuple[str, str, float]]:
    """Each fault, ``rounds`` times: its name, "" or what was wrong, seconds."""
    for number in range(rounds):
        for fault in _FAULTS:
            before = _left()
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as scratch:
                seen = fault.force(kernel, Path(scratch))
            seconds = time.perf_counter() - started
            wrong = "" if seen == fault.expected else f"seen as {seen!r}, not {fault.expected!r}"
            if not wait_until(partial(_is_left, before)):
                wrong += f" left behind: {_left()} and not {before}"
            yield f"{fault.name} {number + 1}", wrong, seconds


def _is_left(before: tuple[int, int, int]) -> bool:
    return _left() == before


def _left() -> tuple[int, int, int]:
    """Processes, descriptors and threads of ours; locks of cache entries stay."""
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


def _told(work: Callable[[], str]) -> str:
    """How the error is classified, or what the work says."""
    try:
        return work()
    except GuestError as error:
        return type(error).__name__
    except OSError as error:
        return os.strerror(error.errno or 0)


def _killed(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        os.kill(running.pid, signal.SIGKILL)
        return _told(lambda: str(running.run("true")))


def _panic(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        return _told(lambda: str(running.run("echo c > /proc/sysrq-trigger")))


def _oops(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch, "virtio-iommu") as running:
        running.run("modprobe virtio-iommu; modprobe e1000e")
        step = running.step("echo virtio1 > /sys/bus/virtio/drivers/virtio_iommu/unbind")
        alive = running.run("echo alive").out
        return f"killed {step.killed}, {alive.strip()}"


def _hang(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch, limit=1) as running:
        return _told(lambda: str(running.run("modprobe hang")))


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

    return _told(work)


def _torn(kernel: Kernel, scratch: Path) -> str:
    with _guest(kernel, scratch) as running:
        taken = snapshot.save(running, scratch / "kept")
    state = taken.directory / "state"
    os.truncate(state, state.stat().st_size // 2)
    (scratch / "again").mkdir()

    def work() -> str:
        with snapshot.restored(taken, scratch / "again"):
            return "came to life"

    return _told(work)


def _port(kernel: Kernel, scratch: Path) -> str:
    machine = replace(SMMUV3, name="smmuv3-ssh", ssh=True)
    with snapshot.started(kernel, machine, scratch) as running, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        return "the free one" if remote.forward(running, [taken, free]) == free else "the taken"


_FAULTS = (
    Fault("QEMU is killed", GuestLost.__name__, _killed),
    Fault("the kernel panics", GuestPanic.__name__, _panic),
    Fault("the kernel oopses", "killed True, alive", _oops),
    Fault("it hangs with interrupts off", GuestHang.__name__, _hang),
    Fault("a command floods its channel", "50 MB", _flood),
    Fault("the kernel log overruns", "a gap", _overrun),
    Fault("it is out of memory", "killed True, alive", _memory),
    Fault("the run directory is full", "No space left on device", _full),
    Fault("the snapshot is torn", GuestLost.__name__, _torn),
    Fault("the port is taken", "the free one", _port),
)


def panic_latency(kernel: Kernel, count: int) -> list[float]:
    """Seconds from the panic's text on the console to the error, of guests that reset at
    once and of those that never do, by turns."""
    return [_latency(kernel, "panic=0" if number % 2 else "") for number in range(count)]


def _latency(kernel: Kernel, arguments: str) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "console-kernel.log"
        seen: list[float] = []

        def look() -> None:
            while b"Kernel panic" not in log.read_bytes():
                time.sleep(0.001)
            seen.append(time.perf_counter())

        with snapshot.started(kernel, SMMUV3, Path(scratch), arguments=arguments) as running:
            eye = threading.Thread(target=look)
            eye.start()
            with contextlib.suppress(GuestPanic):
                running.run("echo c > /proc/sysrq-trigger")
            told = time.perf_counter()
            eye.join()
    return told - seen[0]
