# SPDX-License-Identifier: GPL-2.0-only
"""The processes of this host, for tests."""

import time
from collections.abc import Callable
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """The names of all descendants of ``pid``, by process ID."""
    found: dict[int, str] = {}
    pending = [pid]
    while pending:
        for task in _tasks(pending.pop()):
            for child in (int(word) for word in _read(task).split()):
                found[child] = _read(Path(f"/proc/{child}/comm")).strip()
                pending.append(child)
    return found


def _tasks(pid: int) -> list[Path]:
    """The files that list the children of each thread; none if the process has exited."""
    try:
        return list(Path(f"/proc/{pid}/task").glob("*/children"))
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Whether the process is running. A zombie is not running."""
    status = _read(Path(f"/proc/{pid}/stat"))
    return bool(status) and status.rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition: Callable[[], object], limit: float = 20.0) -> bool:
    """Wait until the condition is true. Returns False if it is not true within ``limit``
    seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
