# SPDX-License-Identifier: GPL-2.0-only
"""Processes of this host, as tests look at them."""

import time
from collections.abc import Callable
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """All living processes below ``pid``: number to name."""
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for task in _tasks(waiting.pop()):
            for child in (int(word) for word in _read(task).split()):
                found[child] = _read(Path(f"/proc/{child}/comm")).strip()
                waiting.append(child)
    return found


def _tasks(pid: int) -> list[Path]:
    """Of none that has ended meanwhile."""
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
    """Whether the process runs; a zombie does not."""
    status = _read(Path(f"/proc/{pid}/stat"))
    return bool(status) and status.rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition: Callable[[], object], limit: float = 20.0) -> bool:
    """Whether the condition came true within ``limit`` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
