# SPDX-License-Identifier: GPL-2.0-only
"""Where the cache, run directories and the harness's own data files are."""

import os
from pathlib import Path

import platformdirs

_NAME = "iommu-harness"


def cache() -> Path:
    """The cache: kernels, packages, initramfs images. It can be deleted at any time.

    The environment variable ``IOMMU_HARNESS_CACHE`` names another directory.
    """
    chosen = os.environ.get("IOMMU_HARNESS_CACHE")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path(_NAME)


def absolute(where: str) -> Path:
    """A path as a user writes it, with ~ expanded, made absolute."""
    return Path(os.path.expanduser(where)).absolute()  # noqa: PTH111  Path's raises


def runs() -> Path:
    """Where run directories are created unless --run-dir names another place."""
    return platformdirs.user_state_path(_NAME) / "runs"


def data(name: str) -> Path:
    """A directory of data (``kconfigs``, ``dts``, ``guest-scripts``, ``tests/scenarios``,
    ``tests/mutants``): inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "data" / name
    return installed if installed.is_dir() else package.parent / name
