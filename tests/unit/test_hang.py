# SPDX-License-Identifier: GPL-2.0-only
"""Finding the task of a hanging command in a guest."""

from typing import cast

import pytest

from harness.errors import GuestHang
from harness.guest import cpus
from harness.guest.guest import Guest
from harness.repro import hang
from harness.repro.hang import Task
from tests.unit.judging import KERNEL

KWORKER, MODPROBE = Task("kworker/0:1", 8, "D", ()), Task("modprobe", 31, "D", ())
SHELL, CAT = Task("busybox", 28, "D", ()), Task("cat", 40, "D", ())


@pytest.mark.parametrize(
    ("command", "hung", "expected"),
    [
        ("echo identity > /sys/x/type", [KWORKER, MODPROBE, SHELL], [SHELL]),
        ("cat /sys/x/type", [KWORKER, SHELL, CAT], [CAT]),
        ("modprobe -r a", [KWORKER, MODPROBE], [MODPROBE]),
        ("rmmod a", [KWORKER, MODPROBE], []),
    ],
)
def test_of_command_returns_the_hung_task_of_the_command(
    command: str, hung: list[Task], expected: list[Task]
) -> None:
    assert hang.of_command(hung, command) == expected


class SilentGuest:
    """A guest with a PID 1 that does not reply."""

    def sysrq(self, letter: str) -> None:
        raise GuestHang(f"no answer to sysrq {letter}")


IDLE = "CPU 0 is in cpu_do_idle <- default_idle_call <- do_idle"
BUSY = "CPU 1 is in ? <- do_one_initcall <- do_init_module"


@pytest.mark.parametrize(
    ("traces", "where"),
    [
        ([IDLE, IDLE], "the guest does not answer: PID 1 is blocked, and the CPUs are idle"),
        ([IDLE, BUSY], f"the guest does not answer; {IDLE}; {BUSY}"),
        ([], "the guest does not answer"),
    ],
)
def test_locate_describes_a_guest_whose_pid_1_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, traces: list[str], where: str
) -> None:
    monkeypatch.setattr(cpus, "traces", lambda _guest, _kernel: traces)
    assert hang.locate(cast(Guest, SilentGuest()), "rmmod a", KERNEL) == where
