# SPDX-License-Identifier: GPL-2.0-only
"""The kernels of ``--iommu-kernel`` that pytest builds and runs on, and their profiles.

A job that runs pytest has built the kernels already, and lists them in a file
(``--iommu-resolved``). All of its processes then run the same kernels, even if a source tree
changes meanwhile.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.iommu import behaviour, kernel_profile
from harness.iommu.kernel_profile import KernelProfile
from harness.iommu.known_issues import KnownIssue, issues
from harness.kernel import artifact, build
from harness.kernel import spec as kernel_spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec


def named(config: pytest.Config) -> list[KernelSpec]:
    """Parse the kernels on the command line. Raises UsageError for an invalid kernel."""
    variants: list[str] = config.getoption("--iommu-variant")
    patches = [Path(each) for each in config.getoption("--iommu-patch")]
    fragments = [Path(each) for each in config.getoption("--iommu-fragment")]
    texts: list[str] = config.getoption("--iommu-kernel") or [kernel_spec.DEFAULT_KERNEL]
    return [kernel_spec.parse(text, patches, fragments, variants) for text in texts]


def overrides(config: pytest.Config) -> tuple[str, ...]:
    """The behaviours that the user overrides. Raises UsageError for an unknown behaviour."""
    texts: list[str] = config.getoption("--iommu-behaviour")
    behaviour.overrides(texts)
    return tuple(texts)


def known_issues(config: pytest.Config) -> dict[str, KnownIssue]:
    """Read the bundled known issues and the files of ``--iommu-known-issues``, and return the
    issues by id. Raises UsageError for an invalid file."""
    return issues(_issue_files(config))


def _issue_files(config: pytest.Config) -> tuple[Path, ...]:
    return tuple(Path(each) for each in config.getoption("--iommu-known-issues"))


def built(config: pytest.Config, spec: KernelSpec) -> Kernel:
    """Return the kernel for a spec. It is built if it is not in the cache."""
    row = _resolved(config).get(spec.key)
    if row:
        return artifact.load(Path(row["directory"]), label=row["label"])
    return _built(spec)


_built = functools.cache(build.build)


def profile(config: pytest.Config, spec: KernelSpec) -> KernelProfile:
    """Return the behaviours and known issues of the kernel for a spec."""
    row = _resolved(config).get(spec.key)
    if row:
        return kernel_profile.read(row["profile"])
    return kernel_profile.of(spec, _built(spec), overrides(config), _issue_files(config))


def _resolved(config: pytest.Config) -> Mapping[str, Any]:
    file: str | None = config.getoption("--iommu-resolved")
    return _read(Path(file)) if file else {}


@functools.cache
def _read(file: Path) -> Mapping[str, Any]:
    rows: Mapping[str, Any] = json.loads(file.read_text())
    return rows
