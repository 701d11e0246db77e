# SPDX-License-Identifier: GPL-2.0-only
"""Run the session of a report on one side of a comparison, and collect the facts of each step."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.comparison import fact
from harness.comparison.difference import Run
from harness.comparison.fact import Fact
from harness.errors import GuestError, is_host_trouble
from harness.guest import snapshot, tracing
from harness.guest.guest import Guest, Step
from harness.guest.tracing import Trace
from harness.iommu import traffic
from harness.kernel.artifact import Kernel
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
    """Run the session once in a fresh guest, and return its facts. An error of the guest, such as
    a panic or a hang, ends the run, and is a fact about its step. Raises HostError, and QemuEnded
    if the host killed QEMU."""
    session = request.session.commands
    facts: list[Fact] = []
    number = 0
    try:
        with _started(request, side, directory) as guest, _tracing(guest) as trace:
            facts += fact.of_boot(guest.state())
            runner = _runner(request, side, guest)
            for number, command in enumerate(session, start=1):
                step, commands = _step(runner, number, command)
                facts += fact.of_step(number, step, trace.read() if trace else (), commands)
    except GuestError as error:
        if is_host_trouble(error):
            raise
        facts += fact.of_error(number, error)
    return frozenset(facts)


@contextlib.contextmanager
def _started(request: Request, side: Side, directory: Path) -> Iterator[Guest]:
    kmod = "kmod" in request.extras
    with snapshot.started(side.kernel, side.machine, directory, kmod=kmod) as guest:
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
