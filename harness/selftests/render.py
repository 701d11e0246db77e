# SPDX-License-Identifier: GPL-2.0-only
"""Format the outcomes of a kernel's own tests: a table, and the reasons below it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from harness.selftests.ktap import Result
from harness.selftests.run import SelftestOutcome
from harness.suite.scenario_result import WORST_FIRST, ScenarioResult

Line = tuple[str, str]

_HEADINGS = {
    ScenarioResult.FAILED: "failed",
    ScenarioResult.INCONCLUSIVE: "inconclusive: this host, or the source of the test, is the cause",
    ScenarioResult.NOT_APPLICABLE: "n/a: not applicable to this kernel or machine",
}
_REASON_LINES = 12


def lines(outcomes: Sequence[SelftestOutcome]) -> Iterator[Line]:
    """Format a table with a row for each test and a column for each kernel and machine. A cell has
    the number of subtests with each result."""
    columns = list(dict.fromkeys((each.kernel, each.machine) for each in outcomes))
    rows = [["", *(kernel for kernel, _ in columns)], ["", *(name for _, name in columns)]]
    for title in dict.fromkeys(_title(each) for each in outcomes):
        own = {(each.kernel, each.machine): each for each in outcomes if _title(each) == title}
        rows.append([title, *(_cell(own.get(column)) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        text = "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True))
        yield "bold" if number < 2 else "", text.rstrip()
    for result, heading in _HEADINGS.items():
        yield from _reasons(outcomes, result, heading)


def record(outcome: SelftestOutcome) -> dict[str, Any]:
    """The outcome as JSON."""
    found = asdict(outcome)
    for each in found["subtests"]:
        del each["line"]
    return found


def counts(outcomes: Sequence[SelftestOutcome]) -> dict[str, int]:
    """Count the tests with each result, from the best result to the worst."""
    found = Counter(each.result for each in outcomes)
    return {str(result): found[result] for result in reversed(WORST_FIRST) if result in _COUNTED}


_COUNTED = {ScenarioResult.PASSED, *_HEADINGS}


def _title(outcome: SelftestOutcome) -> str:
    return f"{outcome.suite}/{outcome.name}"


def _cell(outcome: SelftestOutcome | None) -> str:
    if outcome is None:
        return "-"
    found = Counter(each.result for each in outcome.subtests)
    parts = [f"{found[each]} {each}" for each in Result if found[each]]
    # A test can fail although all its subtests pass, for example by a splat.
    if outcome.result != ScenarioResult.PASSED and not (
        outcome.result == ScenarioResult.FAILED and found[Result.FAILED]
    ):
        short = "n/a" if outcome.result == ScenarioResult.NOT_APPLICABLE else str(outcome.result)
        parts = [short] if not parts or short == "n/a" else [short, *parts]
    return ", ".join(parts)


def _reasons(
    outcomes: Sequence[SelftestOutcome], result: ScenarioResult, heading: str
) -> Iterator[Line]:
    """List each reason for the result once, with its tests, kernels and machines."""
    reasons: dict[str, list[SelftestOutcome]] = {}
    for each in outcomes:
        if each.result == result:
            reasons.setdefault(each.reason, []).append(each)
    if reasons:
        yield "", ""
        yield "bold", heading
    for reason, own in reasons.items():
        tests = ", ".join(dict.fromkeys(_title(each) for each in own))
        where = ", ".join(dict.fromkeys(f"{each.kernel} {each.machine}" for each in own))
        yield "red" if result == ScenarioResult.FAILED else "", f"  {tests} [{where}]"
        text = reason.splitlines()
        yield from (("", f"    {line}") for line in text[:_REASON_LINES])
        if len(text) > _REASON_LINES:
            yield "", f"    ... {len(text) - _REASON_LINES} more lines in the run directory"
