# SPDX-License-Identifier: GPL-2.0-only
"""Which tests are not applicable: the kernel or machine cannot show what they are about."""

from typing import NoReturn

import pytest
from _pytest.outcomes import Skipped

from harness.iommu.behaviour import Behaviour
from harness.kernel.spec import KernelSpec
from harness.plugin import kernels


@pytest.fixture(autouse=True)
def _require_behaviours(request: pytest.FixtureRequest) -> None:
    """Skip a test whose behaviours the kernel lacks, with the reason."""
    if "kernel_spec" not in request.fixturenames:
        return  # another project's test, with its own marker
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
    """Skips a test that the kernel or machine cannot show."""

    # pytest prints it with the reason.
    __module__ = "builtins"


def not_applicable(reason: str) -> NoReturn:
    """End a test that this kernel or machine cannot show."""
    raise NotApplicable(reason)
