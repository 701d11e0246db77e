# SPDX-License-Identifier: GPL-2.0-only
"""The task of a hanging command among those of a guest."""

import pytest

from harness.repro import hang
from harness.repro.hang import Task

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
def test_of_command_returns_the_task_that_the_command_runs(
    command: str, hung: list[Task], expected: list[Task]
) -> None:
    assert hang.of_command(hung, command) == expected
