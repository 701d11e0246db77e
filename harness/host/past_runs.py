# SPDX-License-Identifier: GPL-2.0-only
"""Records of earlier runs on this host, used to estimate durations and to order work.

They are small JSON tables in the cache. No result depends on them, so a missing or invalid table
counts as empty.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from harness.host import paths


def read(name: str) -> dict[str, Any]:
    """Read the table with this name."""
    try:
        table = json.loads(_file(name).read_text())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def add(name: str, key: str, entry: Any) -> None:
    """Add an entry to a table. If the table cannot be written, for example because the disk is
    full, the entry is dropped."""
    text = json.dumps(read(name) | {key: entry})
    with contextlib.suppress(OSError):
        _file(name).parent.mkdir(parents=True, exist_ok=True)
        part = _file(f"{name}.{os.getpid()}")
        part.write_text(text)
        part.replace(_file(name))


def _file(name: str) -> Path:
    return paths.cache() / f"{name}.json"
