# SPDX-License-Identifier: GPL-2.0-only
"""Find where a command hangs, from the tasks that the guest's kernel shows or from its CPUs.

PID 1 triggers a sysrq without a shell. "w" shows the tasks in state D (show_state_filter in
kernel/sched/core.c), "t" shows all tasks.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import GuestError, HostError
from harness.guest import cpus
from harness.guest.guest import Guest
from harness.kernel.artifact import Kernel
from harness.klog import frame
from harness.klog.frame import Frame
from harness.report import shell_syntax

# sched_show_task, kernel/sched/core.c; before 5.12 without "task:" and its colons.
_TASK_LINE = re.compile(r"task:(?P<comm>.{1,16}?) +state:(?P<state>\S).*?\bpid:(?P<pid>\d+)")
_OLD_TASK_LINE = re.compile(r"(?P<comm>\S{1,15}) +(?P<state>[DSRTXIZ]) +\d+ +(?P<pid>\d+) +\d+ 0x")

# The maximum number of frames of a task in a message.
_MAX_FRAMES = 6

# The innermost functions of a blocked task, whatever it waits for.
_WAITING = frozenset(
    [
        "__switch_to",
        "__schedule",
        "schedule",
        "schedule_timeout",
        "schedule_preempt_disabled",
        "io_schedule",
        "schedule_hrtimeout_range",
        "schedule_hrtimeout_range_clock",
        "do_nanosleep",
        "hrtimer_nanosleep",
        "common_nsleep",
        "preempt_schedule_common",
    ]
)


# Functions of an idle CPU (kernel/sched/idle.c).
_IDLE = re.compile(r"\b(?:cpu_do_idle|arch_cpu_idle|default_idle_call|do_idle)\b")

# The names of the guest's shell, which opens and writes files itself (guest-scripts/init/init.c).
_SHELL = frozenset({"busybox", "sh"})


@dataclass(frozen=True, slots=True)
class Task:
    """A task in the output of sysrq "w" or "t". ``state`` is the letter of its state, as in ps.
    ``frames`` is its call trace, innermost frame first."""

    comm: str
    pid: int
    state: str
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        names = [each.function for each in self.frames if each.function not in _WAITING]
        where = f" in {' <- '.join(names[:_MAX_FRAMES])}" if names else ""
        return f"{self.comm} (PID {self.pid}) is in state {self.state}{where}"


def locate(guest: Guest, command: str, kernel: Kernel) -> str:
    """Return where the command hangs, in one line.

    This is the command's task, or the first task in state D if there are only other tasks in that
    state. If the guest does not answer, it is the functions that its CPUs execute. Returns "" if
    no task is found.
    """
    for letter in ("w", "t"):
        try:
            found = tasks([record.text for record in guest.sysrq(letter)])
        except GuestError:
            return _unresponsive(guest, kernel)
        own = of_command(found, command)
        if letter == "w" and found:
            return str((own or found)[0])
        if own:
            return str(own[-1])
    return ""


def of_command(found: Sequence[Task], command: str) -> list[Task]:
    """The tasks of the command's programs, or of the shell if the command is a builtin."""
    names = {name[:15] for name in shell_syntax.programs(command)}
    programs = [each for each in found if each.comm in names]
    return programs or [each for each in found if each.comm in _SHELL]


def _unresponsive(guest: Guest, kernel: Kernel) -> str:
    """Describe a guest with a PID 1 that does not answer. If all CPUs are idle, PID 1 is blocked;
    otherwise a CPU may run with interrupts disabled."""
    try:
        traces = cpus.traces(guest, kernel)
    except (GuestError, HostError):
        traces = []
    if traces and all(map(_IDLE.search, traces)):
        return "the guest does not answer: PID 1 is blocked, and the CPUs are idle"
    return "; ".join(["the guest does not answer", *traces])


def tasks(lines: Sequence[str]) -> list[Task]:
    """Parse the tasks in the messages of a sysrq "w" or "t"."""
    return list(_tasks(lines))


def _tasks(lines: Sequence[str]) -> Iterator[Task]:
    head: re.Match[str] | None = None
    frames: list[Frame] = []
    for line in lines:
        match = _TASK_LINE.match(line) or _OLD_TASK_LINE.match(line)
        if match:
            if head:
                yield _task(head, frames)
            head, frames = match, []
        elif head and (found := frame.parse(line)):
            frames.append(found)
    if head:
        yield _task(head, frames)


def _task(head: re.Match[str], frames: Sequence[Frame]) -> Task:
    return Task(head["comm"].strip(), int(head["pid"]), head["state"], tuple(frames))
