# SPDX-License-Identifier: GPL-2.0-only
"""The locations of the cache, the run directories and the harness's data files."""

import os
from pathlib import Path

import platformdirs

_NAME = "iommu-harness"


def cache() -> Path:
    """The directory of the cache: kernels, packages, initramfs images and other files that can be
    created again. It can be deleted while no command is running.

    The environment variable ``IOMMU_HARNESS_CACHE`` overrides it.
    """
    chosen = os.environ.get("IOMMU_HARNESS_CACHE")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path(_NAME)


def absolute(where: str) -> Path:
    """The absolute path for a path that a user wrote, with ~ expanded."""
    return Path(os.path.expanduser(where)).absolute()  # noqa: PTH111  Path's method may raise


def runs() -> Path:
    """The default directory of run directories; --run-dir overrides it."""
    return platformdirs.user_state_path(_NAME) / "runs"


def data(name: str) -> Path:
    """A directory of the harness's data (``kconfigs``, ``dts``, ``guest-scripts``,
    ``tests/scenarios``, ``tests/mutants``). It is inside an installed package, and next to the
    package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name


def not_a_file(path: Path) -> str:
    """Why ``path``, which is not a regular file, cannot be read, for messages."""
    if path.is_dir():
        return "is a directory"
    return "not a regular file" if path.exists() else "no such file"
