# SPDX-License-Identifier: GPL-2.0-only
"""Run the session of a report on one side of a comparison, and collect the facts of each step."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.comparison import fact
from harness.comparison.difference import Run
from harness.comparison.fact import Fact
from harness.errors import GuestError, GuestHang, is_host_trouble
from harness.guest import launch, tracing
from harness.guest.guest import Guest, OnRecord, Step
from harness.guest.tracing import Trace
from harness.iommu import traffic
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.klog.record import Record
from harness.machine.topology import Machine
from harness.report.commands import Command
from harness.repro.device_names import DeviceNames
from harness.repro.request import Request
from harness.repro.runner import Runner

# The systems of trace events that show who pins a module, and what happens to groups and domains.
_SYSTEMS = ("module", "iommu")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a kernel on a machine, and the name to print."""

    name: str
    kernel: Kernel
    machine: Machine


def run(request: Request, side: Side, directory: Path) -> Run:
    """Boot a guest, run the session in it, and return the facts. An error in the guest, such as a
    panic or a hang, ends the run, and is a fact about its step.

    Each run boots: what differs from boot to boot, such as time stamps and PIDs, would be the same
    in all guests that are restored from one snapshot. Raises HostError, and QemuEnded if the host
    killed QEMU."""
    session = request.session.commands
    facts: list[Fact] = []
    log: list[Record] = []
    hangs: dict[int, str] = {}
    number, read = 0, 0
    try:
        with _booted(request, side, directory, log.append) as guest, _tracing(guest) as trace:
            facts += fact.of_boot(guest.state())
            runner = _runner(request, side, guest)
            hangs = runner.hangs
            for number, command in enumerate(session, start=1):
                step, commands = _step(runner, number, command)
                facts += fact.of_step(number, step, trace.read() if trace else (), commands)
                read = len(log)
    except GuestError as error:
        if is_host_trouble(error):
            raise
        last = [*(each.text for each in log[read:]), *record.unread(error.log, log)]
        reason = _reason(error, hangs.get(number - 1, ""))
        facts += fact.of_end(number, reason, _before_sysrq(last), len(session))
    return frozenset(facts)


def _reason(error: GuestError, where: str) -> str:
    if isinstance(error, GuestHang):
        return f"hangs: {where}" if where else "hangs"
    return error.message


def _before_sysrq(lines: Sequence[str]) -> list[str]:
    """The messages before those by which a hang is located (``hang.locate``)."""
    return list(itertools.takewhile(lambda line: not line.startswith("sysrq: "), lines))


@contextlib.contextmanager
def _booted(request: Request, side: Side, directory: Path, on_record: OnRecord) -> Iterator[Guest]:
    kmod = "kmod" in request.extras
    with launch.booted(
        side.kernel, side.machine, directory, kmod=kmod, on_record=on_record
    ) as guest:
        guest.new_kmsg()
        yield guest


@contextlib.contextmanager
def _tracing(guest: Guest) -> Iterator[Trace | None]:
    if not tracing.supported(guest):
        yield None
        return
    with tracing.tracing(guest, *_SYSTEMS) as trace:
        yield trace


def _runner(request: Request, side: Side, guest: Guest) -> Runner:
    names = DeviceNames(request.context, side.machine.iommu.driver, request.devices)
    runner = Runner(guest, side.kernel, names, lambda _note: None)
    runner.prepare(request.session.commands)
    return runner


def _step(runner: Runner, number: int, command: Command) -> tuple[Step, list[str]]:
    """Run a command, and return its step with the lines of QEMU's trace."""
    events = runner.guest.machine.iommu.commands
    with traffic.traced(runner.guest, *events) as trace:
        step = runner.run(number - 1, command)
    return step, [_from_event(line, events) for line in trace.lines]


def _from_event(line: str, events: tuple[str, ...]) -> str:
    """The line without what QEMU prints before the event: its PID and a time stamp."""
    return line[min(at for event in events if (at := line.find(event)) >= 0) :]
