# SPDX-License-Identifier: GPL-2.0-only
"""Read TOML files that users write."""

import tomllib
from pathlib import Path
from typing import Any

from harness.errors import UsageError


def read(path: Path) -> dict[str, Any]:
    """Read the table in a TOML file. Raises UsageError if the file cannot be read or is not valid
    TOML."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
