# SPDX-License-Identifier: GPL-2.0-only
"""What a run of the scenarios came to: by subject, kernel and machine."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from harness.suite import run
from harness.suite.run import Outcome

Line = tuple[str, str]

# In the order in which they are told; of several rounds of one scenario the worst counts.
_RESULTS = ("failed", "inconclusive", "skipped", "known", "not-applicable", "passed")
_SHORT = {result: result for result in _RESULTS[:-1]} | {"not-applicable": "n/a"}

_HEADINGS = {
    "known": "known: the scenario ran into a known issue, a listed bug of this kernel",
    "not-applicable": "n/a, not applicable: this kernel or machine cannot show the rule",
    "inconclusive": "inconclusive: this host, or a guess about the kernel, may be the cause",
}

_REASON_LINES = 24


def worst(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One for each scenario on each kernel and machine."""
    found: dict[tuple[str, str, str], Outcome] = {}
    for each in outcomes:
        key = (each.scenario, each.kernel, each.machine)
        before = found.get(key)
        if before is None or _RESULTS.index(each.result) < _RESULTS.index(before.result):
            found[key] = each
    return list(found.values())


def flaky(outcomes: Sequence[Outcome]) -> list[str]:
    """The scenarios that did not end alike in all rounds; a race that is a known issue
    may appear or not."""
    seen: dict[str, set[str]] = {}
    for number in sorted({each.round for each in outcomes}):
        for each in worst([each for each in outcomes if each.round == number]):
            name = f"{each.scenario} [{each.kernel} {each.machine}]"
            seen.setdefault(name, set()).add(each.result)
    fine = {"known", "passed"}
    return sorted(name for name, found in seen.items() if len(found) > 1 and not found <= fine)


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    found = Counter(each.result for each in outcomes)
    return {result: found[result] for result in reversed(_RESULTS)}


def retried(outcomes: Sequence[Outcome]) -> list[str]:
    """The scenarios that this host has kept from an end the first time, and how."""
    return [
        f"{each.scenario} [{each.kernel} {each.machine}]: {each.retried.splitlines()[-1]}"
        for each in outcomes
        if each.retried
    ]


def lines(outcomes: Sequence[Outcome]) -> Iterator[Line]:
    """A row for each subject, a column for each kernel and machine; then what did not
    simply pass, and why."""
    # Not in the order in which workers happened to end them.
    columns = sorted({(each.kernel, each.machine) for each in outcomes}, key=_natural)
    subjects = sorted({each.subject for each in outcomes})
    rows = [
        ["", *(kernel for kernel, _ in columns)],
        ["passed", *(machine for _, machine in columns)],
    ]
    for subject in subjects:
        mine = [each for each in outcomes if each.subject == subject]
        rows.append([subject, *(_cell(mine, column) for column in columns)])
    rows.append(["all", *(_cell(outcomes, column) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        text = "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True))
        yield "bold" if number < 2 or number == len(rows) - 1 else "", text.rstrip()
    yield from _grouped(outcomes, "known", "cyan")
    yield from _grouped(outcomes, "not-applicable", "")
    yield from _grouped(outcomes, "skipped", "yellow")
    yield from _grouped(outcomes, "inconclusive", "yellow")
    yield from _failures(outcomes)


def _natural(column: tuple[str, str]) -> list[tuple[int, str]]:
    """By machine, and then kernels by their version: 6.1 before 6.12."""
    kernel, machine = column
    parts = re.findall(r"\d+|\D+", f"{machine} {kernel}")
    return [(int(part) if part.isdigit() else 0, part) for part in parts]


def _cell(outcomes: Sequence[Outcome], column: tuple[str, str]) -> str:
    found = Counter(each.result for each in outcomes if (each.kernel, each.machine) == column)
    if not found:
        return "-"
    parts = [f"{found[result]} {short}" for result, short in _SHORT.items() if found[result]]
    return ", ".join([str(found["passed"]), *parts])


def _grouped(outcomes: Sequence[Outcome], result: str, style: str) -> Iterator[Line]:
    """Each reason once, with where it was met."""
    reasons: dict[str, list[Outcome]] = {}
    for each in outcomes:
        if each.result == result:
            reasons.setdefault(each.reason, []).append(each)
    if reasons:
        yield "", ""
        yield "bold", _HEADINGS.get(result, result)
    for reason, mine in sorted(reasons.items()):
        where = ", ".join(sorted({f"{each.kernel} {each.machine}".rstrip() for each in mine}))
        names = sorted({each.scenario.partition("[")[0] for each in mine})
        yield style, f"  {reason}"
        yield "", f"    {where}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


def _failures(outcomes: Sequence[Outcome]) -> Iterator[Line]:
    failed = [each for each in outcomes if each.result == "failed"]
    if failed:
        yield "", ""
        yield "bold", "failed"
    for each in failed:
        yield "red", f"  {each.scenario} [{each.kernel} {each.machine}]"
        if rule := run.rule(each.scenario):
            yield "", f"    rule: {rule}"
        reason = each.reason.splitlines()
        yield from (("", f"    {line}") for line in reason[:_REASON_LINES])
        if len(reason) > _REASON_LINES:
            yield "", f"    ... {len(reason) - _REASON_LINES} more lines in the run directory"
        yield from (("", f"    iommu-harness shell {state}") for state in each.kept)
    if failed and not any(each.kept for each in failed):
        yield "", "  run with --keep-failed to open a shell in the guest of a failed scenario"
