# SPDX-License-Identifier: GPL-2.0-only
"""The kernels that pytest runs on: what ``--iommu-kernel`` names, built, and what is believed of
each. A job that runs pytest has built them, and hands over which (``--iommu-resolved``), so that
all of its processes run just these, whatever becomes of a tree meanwhile.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.iommu import behaviour, kernel_profile
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import artifact, build, spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec


def add_options(group: pytest.OptionGroup) -> None:
    for name, metavar in (
        ("--iommu-kernel", "SPEC"),
        ("--iommu-variant", "NAME"),
        ("--iommu-patch", "FILE"),
        ("--iommu-fragment", "FILE"),
    ):
        group.addoption(name, action="append", default=[], metavar=metavar, help="repeatable")
    group.addoption(
        "--iommu-behaviour",
        action="append",
        default=[],
        metavar="NAME",
        help="the kernel shows it, or with no-NAME does not, whatever its source; repeatable",
    )
    group.addoption(
        "--iommu-resolved", metavar="FILE", help="these kernels, as a job has built them"
    )


def named(config: pytest.Config) -> list[KernelSpec]:
    """Those of the command line. Raises UsageError for what is no kernel."""
    variants: list[str] = config.getoption("--iommu-variant")
    patches = [Path(each) for each in config.getoption("--iommu-patch")]
    fragments = [Path(each) for each in config.getoption("--iommu-fragment")]
    texts: list[str] = config.getoption("--iommu-kernel") or [DEFAULT_KERNEL]
    return [spec.parse(text, patches, fragments, variants) for text in texts]


def claims(config: pytest.Config) -> tuple[str, ...]:
    """The behaviours that the user names. Raises UsageError for others."""
    texts: list[str] = config.getoption("--iommu-behaviour")
    behaviour.claims(texts)
    return tuple(texts)


def built(config: pytest.Config, wanted: KernelSpec) -> Kernel:
    """The kernel, built if it is not yet in the cache."""
    row = _resolved(config).get(wanted.key)
    if row:
        return artifact.load(Path(row["directory"]), label=row["label"])
    return _built(wanted)


_built = functools.cache(build.build)


def profile(config: pytest.Config, wanted: KernelSpec) -> KernelProfile:
    """What is believed of the kernel."""
    row = _resolved(config).get(wanted.key)
    if row:
        return kernel_profile.read(row["profile"])
    return kernel_profile.of(wanted, _built(wanted), claims(config))


def _resolved(config: pytest.Config) -> Mapping[str, Any]:
    given: str | None = config.getoption("--iommu-resolved")
    return _read(Path(given)) if given else {}


@functools.cache
def _read(file: Path) -> Mapping[str, Any]:
    rows: Mapping[str, Any] = json.loads(file.read_text())
    return rows
