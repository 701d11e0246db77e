# SPDX-License-Identifier: GPL-2.0-only
"""The provenance of a result: the exact kernel, QEMU and version of the harness."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from harness.errors import ToolMissing
from harness.kernel.artifact import Kernel
from harness.machine import qemu, qemus


def of_kernel(kernel: Kernel) -> dict[str, Any]:
    """The provenance of a kernel. ``key`` is the digest of everything from which it is built.
    ``source`` is the identity of its source before patches, or "" if it is not recorded."""
    patches = sorted((kernel.directory / "patches").glob("*"))
    return {
        "label": kernel.label,
        "release": kernel.release,
        "key": kernel.key,
        "source": kernel.source,
        "patches": [_digest(path) for path in patches],
        "config": _digest(kernel.config) if kernel.config.exists() else "",
        "compiler": kernel.compiler,
    }


def of_tools(*choices: str) -> dict[str, str]:
    """The versions of these QEMUs ("" for one that is not installed) and of the harness."""
    versions = map(_version, dict.fromkeys(choices))
    return {
        "qemu": ", ".join(versions),
        "iommu-harness": importlib.metadata.version("iommu-harness"),
    }


def _version(choice: str) -> str:
    try:
        return qemu.version(qemus.program(choice))
    except ToolMissing:
        return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
