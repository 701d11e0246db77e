# SPDX-License-Identifier: GPL-2.0-only
"""The command as a user runs it: a process of its own."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.processes import alive, descendants, wait_until

PROGRAM = [sys.executable, "-c", "from harness.cli.main import main; main()"]


@dataclass(frozen=True)
class Result:
    """How the command ended and what it printed."""

    status: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    return dict(os.environ) | {"COLUMNS": "60"} | extra


def run(*words: str | Path, **extra: str) -> Result:
    """Runs the command to its end; ``extra`` goes into its environment."""
    done = subprocess.run(
        [*PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(**extra),
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def start(*words: str | Path, **extra: str) -> subprocess.Popen[str]:
    """Starts the command."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**extra),
    )


def stop_when(process: subprocess.Popen[str], name: str, number: signal.Signals) -> Result:
    """Sends the signal when the command runs a program called ``name``; returns when
    the command and all it had started are gone."""
    assert wait_until(lambda: name in descendants(process.pid).values()), f"no {name}"
    below = descendants(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert wait_until(lambda: not any(alive(pid) for pid in below)), below
    return Result(process.returncode, out, err)
