# SPDX-License-Identifier: GPL-2.0-only
"""What is believed of a kernel before it boots: its behaviours, and the known issues that it
has, each with the evidence.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.iommu import behaviour, known_issues, probe
from harness.iommu.probe import Evidence
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Both by name."""

    behaviours: dict[str, Evidence]
    issues: dict[str, Evidence]


@functools.cache
def of(spec: KernelSpec, kernel: Kernel, claims: tuple[str, ...] = ()) -> Beliefs:
    """Of the kernel that was built from the spec; ``claims`` are the user's, NAME or no-NAME.
    Raises UsageError for other names."""
    signs = [sign for each in behaviour.TABLE.values() for sign in each.signs]
    signs += [sign for each in known_issues.issues().values() for sign in each.signs]
    examined = probe.examined(spec, kernel, {sign.symbol for sign in signs if sign.symbol})
    table = behaviour.table(examined, behaviour.claims(claims))
    issues = {name: issue.of(examined, table) for name, issue in known_issues.issues().items()}
    return Beliefs(table, issues)


def read(record: Mapping[str, Any]) -> Beliefs:
    """From JSON, which has it as ``asdict`` gives it."""
    return Beliefs(_table(record["behaviours"]), _table(record["issues"]))


def _table(rows: Mapping[str, Any]) -> dict[str, Evidence]:
    return {name: Evidence(**row) for name, row in rows.items()}
