# SPDX-License-Identifier: GPL-2.0-only
"""What is remembered of earlier times on this host, to say or to choose better next time:
small tables of JSON beside the cache. Nothing depends on them, so one that is lost or
no table is an empty one."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from harness.host import paths


def read(name: str) -> dict[str, Any]:
    """The table of that name."""
    try:
        table = json.loads(_file(name).read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def add(name: str, key: str, entry: Any) -> None:
    """Remembers one entry more; a host that has no room for it goes on without."""
    text = json.dumps(read(name) | {key: entry})
    with contextlib.suppress(OSError):
        _file(name).parent.mkdir(parents=True, exist_ok=True)
        part = _file(f"{name}.{os.getpid()}")
        part.write_text(text)
        part.replace(_file(name))


def _file(name: str) -> Path:
    return paths.cache() / f"{name}.json"
