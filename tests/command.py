# SPDX-License-Identifier: GPL-2.0-only
"""The command as a user runs it, in a separate process."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import schemas
from tests.processes import alive, descendants, wait_until

PROGRAM = [sys.executable, "-c", "from harness.cli.main import main; main()"]


@dataclass(frozen=True)
class Result:
    """The exit status and the output of the command."""

    status: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    return dict(os.environ) | {"COLUMNS": "60"} | extra


def run(*arguments: str | Path, **extra: str) -> Result:
    """Run the command until it exits, and return the result. ``extra`` is added to its
    environment. With --json, its output is validated against the schema."""
    words = [*map(str, arguments)]
    done = subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        text=True,
        env=environment(**extra),
        check=False,
    )
    if "--json" in words:
        record = json.loads(done.stdout)
        schemas.validate(schemas.of_command(words, record), record)
    return Result(done.returncode, done.stdout, done.stderr)


def start(*arguments: str | Path, **extra: str) -> subprocess.Popen[str]:
    """Start the command, and return its process. ``extra`` is added to its environment."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**extra),
    )


def stop_when(process: subprocess.Popen[str], name: str, number: signal.Signals) -> Result:
    """Send the signal to the command once it runs a program called ``name``, and return the
    result when the command and all its descendants have exited."""
    assert wait_until(lambda: name in descendants(process.pid).values()), f"no {name}"
    children = descendants(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert wait_until(lambda: not any(alive(pid) for pid in children)), children
    return Result(process.returncode, out, err)
