# SPDX-License-Identifier: GPL-2.0-only
"""The result of a scenario, which the plugin records and the suite reads."""

from enum import StrEnum


class ScenarioResult(StrEnum):
    """How a scenario ended on a kernel and machine. The values are used in JSON."""

    PASSED = "passed"
    FAILED = "failed"
    KNOWN_ISSUE = "known"
    """It failed because of a bug that the kernel is known to have."""
    NOT_APPLICABLE = "not-applicable"
    """The kernel or machine cannot show the rule."""
    SKIPPED = "skipped"
    """It was skipped for a different reason."""
    INCONCLUSIVE = "inconclusive"
    """It failed because of this host, or because a behaviour of the kernel was guessed wrongly."""


# From worst to best. Of several rounds of a scenario, the worst result counts.
WORST_FIRST = (
    ScenarioResult.FAILED,
    ScenarioResult.INCONCLUSIVE,
    ScenarioResult.SKIPPED,
    ScenarioResult.KNOWN_ISSUE,
    ScenarioResult.NOT_APPLICABLE,
    ScenarioResult.PASSED,
)

# The results of a scenario that ran to its end and found what is expected of the kernel.
RAN = frozenset({ScenarioResult.PASSED, ScenarioResult.KNOWN_ISSUE})
