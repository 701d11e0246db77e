# SPDX-License-Identifier: GPL-2.0-only
"""Lists of programs by purpose, from programs.toml."""

import functools
import tomllib
from pathlib import Path


@functools.cache
def _table() -> dict[str, str]:
    return tomllib.loads(Path(__file__).with_name("programs.toml").read_text())


def words(key: str) -> frozenset[str]:
    """The programs in the list ``key``."""
    return frozenset(_table()[key].split())
