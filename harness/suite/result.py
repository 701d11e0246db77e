# SPDX-License-Identifier: GPL-2.0-only
"""The result of a scenario, as the plugin records it and the suite reads it."""

from enum import StrEnum


class ScenarioResult(StrEnum):
    """How a scenario ended on a kernel and machine. The values are those of the JSON."""

    PASSED = "passed"
    FAILED = "failed"
    KNOWN_ISSUE = "known"
    """It failed by a bug that the kernel is known to have."""
    NOT_APPLICABLE = "not-applicable"
    """The kernel or machine cannot show what it is about."""
    SKIPPED = "skipped"
    """It was skipped for another reason."""
    INCONCLUSIVE = "inconclusive"
    """It failed because of the host, or by a wrong guess of the kernel's behaviours."""


# From the worst to the best: of several rounds of a scenario the worst counts.
WORST_FIRST = (
    ScenarioResult.FAILED,
    ScenarioResult.INCONCLUSIVE,
    ScenarioResult.SKIPPED,
    ScenarioResult.KNOWN_ISSUE,
    ScenarioResult.NOT_APPLICABLE,
    ScenarioResult.PASSED,
)

# It ran to its end, and the kernel did what it does.
RAN = frozenset({ScenarioResult.PASSED, ScenarioResult.KNOWN_ISSUE})
