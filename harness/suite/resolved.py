# SPDX-License-Identifier: GPL-2.0-only
"""The kernels of a run, built once: every worker and every round runs just these, however a
tree or a branch goes on meanwhile.
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
    """What a spec has come to, and what is believed of it."""

    spec: KernelSpec
    kernel: Kernel
    profile: KernelProfile


@dataclass(frozen=True, slots=True)
class Found:
    """Of the ``specs`` of a run, those that can be built on all of its machines; the
    ``kernels`` of them; and the ``errors`` of the others."""

    specs: tuple[KernelSpec, ...]
    kernels: tuple[Resolved, ...]
    errors: tuple[HarnessError, ...]


def build(specs: Sequence[KernelSpec], machines: Sequence[str], claims: Sequence[str]) -> Found:
    """The kernels with the variants that the machines need; one that cannot be built does not
    stop the others. ``claims`` are the user's behaviours. Raises the error where none can."""
    errors: dict[KernelSpec, HarnessError] = {}
    kernels: dict[KernelSpec, Kernel] = {}
    for name in machines:
        wanted = [spec.with_variants(machine_file.machine(name).variants) for spec in specs]
        for spec, outcome in zip(specs, kernel_build.build_all(wanted), strict=True):
            if outcome.kernel:
                kernels[outcome.spec] = outcome.kernel
            elif outcome.error:
                errors[spec] = outcome.error
    good = tuple(spec for spec in specs if spec not in errors)
    if not good:
        raise next(iter(errors.values()))
    found = (
        Resolved(spec, kernel, kernel_profile.of(spec, kernel, tuple(claims)))
        for spec, kernel in kernels.items()
    )
    return Found(good, tuple(found), tuple(errors.values()))


def file_in(directory: Path) -> Path:
    """Where a run's kernels are written down."""
    return directory / "kernels.json"


def write(kernels: Sequence[Resolved], file: Path) -> Path:
    """Writes the file for pytest's ``--resolved``, and returns it."""
    rows = {each.spec.key: _row(each) for each in kernels}
    file.write_text(json.dumps(rows, indent=1) + "\n")
    return file


def profiles(file: Path) -> dict[str, KernelProfile]:
    """What is believed of each kernel in the file, by its spec's key."""
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
    """What the kernels of a run's directory were made from."""
    rows: dict[str, Any] = json.loads(file_in(directory).read_text())
    return [row["provenance"] for row in rows.values()]
