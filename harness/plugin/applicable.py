# SPDX-License-Identifier: GPL-2.0-only
"""Skip tests that are not applicable, because the kernel or machine cannot show what they check."""

from typing import NoReturn

import pytest
from _pytest.outcomes import Skipped

from harness.iommu.behaviour import Behaviour
from harness.kernel.spec import KernelSpec
from harness.plugin import kernels


@pytest.fixture(autouse=True)
def _require_behaviours(request: pytest.FixtureRequest) -> None:
    """Skip a test if the kernel lacks a behaviour that the test needs."""
    if "kernel_spec" not in request.fixturenames:
        return  # a test of another project, which has a different marker of this name
    needed: list[Behaviour] = [
        each for marker in request.node.iter_markers("needs") for each in marker.args
    ]
    if not needed:
        return
    spec: KernelSpec = request.getfixturevalue("kernel_spec")
    table = kernels.profile(request.config, spec).behaviours
    for each in needed:
        evidence = table[each.name]
        if not evidence.shown:
            not_applicable(f"requires that {each.summary} ({each.source}): {evidence.why}")


class NotApplicable(Skipped):
    """Ends a test that is not applicable to the kernel or machine."""

    # pytest prints the module with the reason, unless it is "builtins".
    __module__ = "builtins"


def not_applicable(reason: str) -> NoReturn:
    """End the test, because this kernel or machine cannot show what it checks."""
    raise NotApplicable(reason)
