# SPDX-License-Identifier: GPL-2.0-only
"""The kernels of a run, which are built once, so all workers and rounds run the same kernels even
if a source tree or branch changes meanwhile.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.iommu import kernel_profile, machine_file
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import build as kernel_build
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.machine import provenance


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec, the kernel that was built from it, and the kernel's profile."""

    spec: KernelSpec
    kernel: Kernel
    profile: KernelProfile


@dataclass(frozen=True, slots=True)
class Resolution:
    """The result of building the kernels of a run.

    ``specs`` are the specs that could be built for all machines of the run. ``kernels`` are the
    kernels that were built. ``errors`` are the errors of the kernels that could not be built."""

    specs: tuple[KernelSpec, ...]
    kernels: tuple[Resolved, ...]
    errors: tuple[HarnessError, ...]


def build(
    specs: Sequence[KernelSpec],
    machines: Sequence[str],
    overrides: Sequence[str],
    known_issues: Sequence[Path] = (),
) -> Resolution:
    """Build the kernels with the variants that the machines require, and determine their profiles.

    ``overrides`` are the behaviours that the user overrides. ``known_issues`` are files of known
    issues in addition to the bundled ones. A kernel that cannot be built does not stop the other
    builds. If no kernel can be built for all machines, raises the error of the first."""
    errors: dict[KernelSpec, HarnessError] = {}
    kernels: dict[KernelSpec, Kernel] = {}
    for name in machines:
        variants = machine_file.machine(name).variants
        outcomes = kernel_build.build_all([spec.with_variants(variants) for spec in specs])
        for spec, outcome in zip(specs, outcomes, strict=True):
            if outcome.kernel:
                kernels[outcome.spec] = outcome.kernel
            elif outcome.error:
                errors[spec] = outcome.error
    good = tuple(spec for spec in specs if spec not in errors)
    if not good:
        raise next(iter(errors.values()))
    rules = tuple(overrides), tuple(known_issues)
    found = (
        Resolved(spec, kernel, kernel_profile.of(spec, kernel, *rules))
        for spec, kernel in kernels.items()
    )
    return Resolution(good, tuple(found), tuple(errors.values()))


def file_in(directory: Path) -> Path:
    """The path of the file that lists the kernels of a run, in the directory of the run."""
    return directory / "kernels.json"


def write(kernels: Sequence[Resolved], file: Path) -> Path:
    """Write the file for pytest's ``--iommu-resolved``, and return its path."""
    rows = {each.spec.key: _row(each) for each in kernels}
    file.write_text(json.dumps(rows, indent=1) + "\n")
    return file


def profiles(file: Path) -> dict[str, KernelProfile]:
    """Read the profiles of the kernels in the file, by the keys of their specs."""
    rows: dict[str, Any] = json.loads(file.read_text())
    return {key: kernel_profile.read(row["profile"]) for key, row in rows.items()}


def _row(each: Resolved) -> dict[str, Any]:
    return {
        "directory": str(each.kernel.directory),
        "label": each.kernel.label,
        "provenance": provenance.of_kernel(each.kernel),
        "profile": asdict(each.profile),
    }


def provenance_of(directory: Path) -> list[dict[str, Any]]:
    """Read the provenance of the kernels of the run in this directory."""
    rows: dict[str, Any] = json.loads(file_in(directory).read_text())
    return [row["provenance"] for row in rows.values()]
