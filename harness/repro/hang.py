# SPDX-License-Identifier: GPL-2.0-only
"""Where a command hangs: the tasks that a stuck guest's kernel shows.

PID 1 triggers a sysrq, which needs no shell. "w" shows the tasks in state D (show_state_filter,
kernel/sched/core.c), "t" all of them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.errors import GuestError, HostError
from harness.guest import processors
from harness.guest.guest import Guest
from harness.kernel.artifact import Kernel
from harness.klog import frame
from harness.klog.frame import Frame
from harness.report import shell

# sched_show_task, kernel/sched/core.c; before 5.12 without "task:" and its colons.
_TASK_LINE = re.compile(r"task:(?P<comm>.{1,16}?) +state:(?P<state>\S).*?\bpid:(?P<pid>\d+)")
_OLD_TASK_LINE = re.compile(r"(?P<comm>\S{1,15}) +(?P<state>[DSRTXIZ]) +\d+ +(?P<pid>\d+) +\d+ 0x")

_SHOWN = 6  # frames

# What every waiting task's trace begins with.
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


@dataclass(frozen=True, slots=True)
class Task:
    """A task that the kernel shows: its ``comm``, ``pid``, ``state`` (one letter, as ps has it)
    and call trace, the innermost frame first."""

    comm: str
    pid: int
    state: str
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        names = [each.function for each in self.frames if each.function not in _WAITING]
        where = f" in {' <- '.join(names[:_SHOWN])}" if names else ""
        return f"{self.comm} (PID {self.pid}) is in state {self.state}{where}"


def where(guest: Guest, command: str, kernel: Kernel) -> str:
    """Where the command hangs, in a line: its task, or where no process runs any more the
    processors."""
    for letter in ("w", "t"):
        try:
            found = tasks([record.text for record in guest.sysrq(letter)])
        except GuestError:
            return _processors(guest, kernel)
        own = of_command(found, command)
        if letter == "w" and found:
            return str((own or found)[0])
        if own:
            return str(own[-1])
    return ""


# What the guest's shell is called: it opens and writes files itself (guest-scripts/init/init.c).
_SHELL = frozenset({"busybox", "sh"})


def of_command(found: Sequence[Task], command: str) -> list[Task]:
    """The tasks of the command's programs, else the shell's own: a builtin has no other."""
    names = {name[:15] for name in shell.programs(command)}
    programs = [each for each in found if each.comm in names]
    return programs or [each for each in found if each.comm in _SHELL]


def _processors(guest: Guest, kernel: Kernel) -> str:
    try:
        return "no process runs any more; " + "; ".join(processors.traces(guest, kernel))
    except (GuestError, HostError):
        return "no process runs any more"


def tasks(lines: Sequence[str]) -> list[Task]:
    """The tasks in what the kernel logs for a sysrq "w" or "t"."""
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
