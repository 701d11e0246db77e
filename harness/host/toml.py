# SPDX-License-Identifier: GPL-2.0-only
"""TOML files that users write."""

import tomllib
from pathlib import Path
from typing import Any

from harness.errors import UsageError


def read(path: Path) -> dict[str, Any]:
    """The file's table. Raises UsageError, with the file's name, if it cannot be read or is not
    TOML."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
