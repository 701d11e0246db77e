# SPDX-License-Identifier: GPL-2.0-only
"""The profile of a kernel: which behaviours and known issues it has, each with the evidence.
Only a prebuilt kernel must be booted for its profile, to read its symbols.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.iommu import behaviour, evidence, known_issues
from harness.iommu.evidence import Evidence
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """The evidence for or against each behaviour and known issue, by name."""

    behaviours: dict[str, Evidence]
    issues: dict[str, Evidence]


@functools.cache
def of(
    spec: KernelSpec,
    kernel: Kernel,
    overrides: tuple[str, ...] = (),
    issue_files: tuple[Path, ...] = (),
) -> KernelProfile:
    """Determine the profile of ``kernel``, which was built from ``spec``.

    ``overrides`` are behaviours that the kernel has (NAME) or does not have (no-NAME), regardless
    of its source. ``issue_files`` are files of known issues in addition to the bundled ones.
    Raises UsageError for an unknown behaviour, and as ``known_issues.issues`` does."""
    known = known_issues.issues(issue_files)
    signs = [sign for each in behaviour.TABLE.values() for sign in each.signs]
    signs += [sign for each in known.values() for sign in each.signs]
    examined = evidence.examine(spec, kernel, {sign.symbol for sign in signs if sign.symbol})
    table = behaviour.table(examined, behaviour.overrides(overrides))
    issues = {name: issue.of(examined, table) for name, issue in known.items()}
    return KernelProfile(table, issues)


def read(record: Mapping[str, Any]) -> KernelProfile:
    """Read a profile from its JSON record, which ``asdict`` made."""
    return KernelProfile(_table(record["behaviours"]), _table(record["issues"]))


def _table(rows: Mapping[str, Any]) -> dict[str, Evidence]:
    return {name: Evidence(**row) for name, row in rows.items()}
