# SPDX-License-Identifier: GPL-2.0-only
"""Which of a guest's tasks is the one that hangs."""

import pytest

from harness.repro import hang
from harness.repro.hang import Task

KWORKER, MODPROBE = Task("kworker/0:1", 8, "D", ()), Task("modprobe", 31, "D", ())
SHELL, CAT = Task("busybox", 28, "D", ()), Task("cat", 40, "D", ())


@pytest.mark.parametrize(
    ("command", "found", "own"),
    [
        ("echo identity > /sys/x/type", [KWORKER, MODPROBE, SHELL], [SHELL]),
        ("cat /sys/x/type", [KWORKER, SHELL, CAT], [CAT]),
        ("modprobe -r a", [KWORKER, MODPROBE], [MODPROBE]),
        ("rmmod a", [KWORKER, MODPROBE], []),
    ],
)
def test_the_task_of_a_command(command: str, found: list[Task], own: list[Task]) -> None:
    assert hang.of_command(found, command) == own
