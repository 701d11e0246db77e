# SPDX-License-Identifier: GPL-2.0-only
"""Format the outcomes of a run as a table, by subject, kernel and machine."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from harness.suite import scenarios
from harness.suite.run import ScenarioOutcome
from harness.suite.scenario_result import RAN, WORST_FIRST, ScenarioResult

Line = tuple[str, str]

_SHORT = {result: str(result) for result in WORST_FIRST[:-1]} | {
    ScenarioResult.NOT_APPLICABLE: "n/a"
}

# The results whose reasons are listed below the table, with their styles.
_LISTED = {
    ScenarioResult.KNOWN_ISSUE: "cyan",
    ScenarioResult.NOT_APPLICABLE: "",
    ScenarioResult.SKIPPED: "yellow",
    ScenarioResult.INCONCLUSIVE: "yellow",
}

_HEADINGS = {
    ScenarioResult.KNOWN_ISSUE: (
        "known: the scenario ran into a known issue, a listed bug in this kernel"
    ),
    ScenarioResult.NOT_APPLICABLE: (
        "n/a, not applicable: this kernel or machine cannot show the rule"
    ),
    ScenarioResult.INCONCLUSIVE: (
        "inconclusive: this host, or a guess about the kernel, may be the cause"
    ),
}

_REASON_LINES = 24


def worst(outcomes: Sequence[ScenarioOutcome]) -> list[ScenarioOutcome]:
    """The worst outcome of each scenario on each kernel and machine."""
    found: dict[tuple[str, str, str], ScenarioOutcome] = {}
    for each in outcomes:
        key = (each.scenario, each.kernel, each.machine)
        before = found.get(key)
        if before is None or WORST_FIRST.index(each.result) < WORST_FIRST.index(before.result):
            found[key] = each
    return list(found.values())


def flaky(outcomes: Sequence[ScenarioOutcome]) -> list[str]:
    """The scenarios that did not have the same result in all rounds. A known issue may appear in
    some rounds only, because it can be a race."""
    seen: dict[str, set[ScenarioResult]] = {}
    for number in sorted({each.round for each in outcomes}):
        for each in worst([each for each in outcomes if each.round == number]):
            name = f"{each.scenario} [{each.kernel} {each.machine}]"
            seen.setdefault(name, set()).add(each.result)
    return sorted(name for name, found in seen.items() if len(found) > 1 and not found <= RAN)


def counts(outcomes: Sequence[ScenarioOutcome]) -> dict[str, int]:
    """Count the outcomes with each result, from the best result to the worst."""
    found = Counter(each.result for each in outcomes)
    return {str(result): found[result] for result in reversed(WORST_FIRST)}


def retried(outcomes: Sequence[ScenarioOutcome]) -> list[str]:
    """Describe the scenarios that were rerun because of an error on this host, with the error."""
    return [
        f"{each.scenario} [{each.kernel} {each.machine}]: {each.retried.splitlines()[-1]}"
        for each in outcomes
        if each.retried
    ]


def lines(outcomes: Sequence[ScenarioOutcome]) -> Iterator[Line]:
    """Format a table with a row for each subject and a column for each kernel and machine. Below
    the table, list the scenarios that did not pass, with the reasons."""
    # Sorted, because workers finish in any order.
    columns = sorted({(each.kernel, each.machine) for each in outcomes}, key=_natural)
    subjects = sorted({each.subject for each in outcomes})
    rows = [
        ["", *(kernel for kernel, _ in columns)],
        ["passed", *(machine for _, machine in columns)],
    ]
    for subject in subjects:
        own = [each for each in outcomes if each.subject == subject]
        rows.append([subject, *(_cell(own, column) for column in columns)])
    rows.append(["all", *(_cell(outcomes, column) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        text = "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True))
        yield "bold" if number < 2 or number == len(rows) - 1 else "", text.rstrip()
    for result, style in _LISTED.items():
        yield from _reasons(outcomes, result, style)
    yield from _failures(outcomes)


def _natural(column: tuple[str, str]) -> list[tuple[int, str]]:
    """Return a key that sorts columns by machine, then by the kernel's version: 6.1 before 6.12."""
    kernel, machine = column
    parts = re.findall(r"\d+|\D+", f"{machine} {kernel}")
    return [(int(part) if part.isdigit() else 0, part) for part in parts]


def _cell(outcomes: Sequence[ScenarioOutcome], column: tuple[str, str]) -> str:
    found = Counter(each.result for each in outcomes if (each.kernel, each.machine) == column)
    if not found:
        return "-"
    parts = [f"{found[result]} {short}" for result, short in _SHORT.items() if found[result]]
    return ", ".join([str(found[ScenarioResult.PASSED]), *parts])


def _reasons(
    outcomes: Sequence[ScenarioOutcome], result: ScenarioResult, style: str
) -> Iterator[Line]:
    """List each reason for the result once, with its scenarios, kernels and machines."""
    reasons: dict[str, list[ScenarioOutcome]] = {}
    for each in outcomes:
        if each.result == result:
            reasons.setdefault(each.reason, []).append(each)
    if reasons:
        yield "", ""
        yield "bold", _HEADINGS.get(result, str(result))
    for reason, own in sorted(reasons.items()):
        where = ", ".join(sorted({f"{each.kernel} {each.machine}".rstrip() for each in own}))
        names = sorted({each.scenario.partition("[")[0] for each in own})
        yield style, f"  {reason}"
        yield "", f"    {where}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


def _failures(outcomes: Sequence[ScenarioOutcome]) -> Iterator[Line]:
    failed = [each for each in outcomes if each.result == ScenarioResult.FAILED]
    if failed:
        yield "", ""
        yield "bold", "failed"
    for each in failed:
        yield "red", f"  {each.scenario} [{each.kernel} {each.machine}]"
        if rule := scenarios.rule(each.selector):
            yield "", f"    rule: {rule}"
        reason = each.reason.splitlines()
        yield from (("", f"    {line}") for line in reason[:_REASON_LINES])
        if len(reason) > _REASON_LINES:
            yield "", f"    ... {len(reason) - _REASON_LINES} more lines in the run directory"
        yield from (("", f"    iommu-harness shell {state}") for state in each.kept)
    if failed and not any(each.kept for each in failed):
        yield "", "  run with --keep-failed to open a shell in the guest of a failed scenario"
