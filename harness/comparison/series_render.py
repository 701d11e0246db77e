# SPDX-License-Identifier: GPL-2.0-only
"""Render the results of a series, a line for each patch and what differs below it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from harness.comparison import patch_series
from harness.comparison.patch_series import Broken, PatchResult
from harness.comparison.scenario_runs import ScenarioCompared, short_reason

Line = tuple[str, str]

# The maximum number of scenarios that are listed below a patch.
_MAX_LISTED = 10


def patch(result: PatchResult, total: int) -> Iterator[Line]:
    """Render the result of one patch of ``total``."""
    style = "green" if result.is_good else "red"
    yield style, f"{result.number}/{total} {result.title}: {', '.join(_summary(result))}"
    if result.error:
        yield "", f"      {result.error}"
    for text in (*result.warnings, *result.behaviours):
        yield "", f"      {text}"
    yield from _listed("fails", result.broken)
    yield from _listed("fixed", result.fixed)


def _listed(word: str, found: Sequence[ScenarioCompared]) -> Iterator[Line]:
    for each in found[:_MAX_LISTED]:
        yield "", f"      {word}: {each.name} [{each.machine}]{_reason(each)}"
    if len(found) > _MAX_LISTED:
        yield "", f"      {word}: {len(found) - _MAX_LISTED} more"


def _summary(result: PatchResult) -> Iterator[str]:
    if result.error:
        yield "error"
        return
    if result.warnings:
        yield _count(len(result.warnings), "new warning")
    if result.behaviours:
        yield _count(len(result.behaviours), "changed behaviour")
    if result.broken:
        yield f"{_count(len(result.broken), 'scenario')} broken"
    if result.fixed:
        yield f"{_count(len(result.fixed), 'scenario')} fixed"
    others = len(result.scenarios) - len(result.broken) - len(result.fixed)
    if others:
        yield f"{_count(others, 'scenario')} with another result"
    if not result.scenarios:
        yield f"no difference in {result.total} scenarios"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _reason(each: ScenarioCompared) -> str:
    reasons = map(short_reason, each.new)
    first = next((reason for reason in reasons if reason), "")
    return f": {first}" if first else ""


def closing(results: Sequence[PatchResult], total: int) -> Iterator[Line]:
    """Render the summary of the series."""
    good = sum(each.is_good for each in results)
    yield "bold", f"{good} of {total} patches build without warnings and break no scenario"
    pairs = Counter((each.number, each.fixed) for each in patch_series.broken(results))
    for (number, fixed), count in pairs.items():
        text = _count(count, "scenario")
        if fixed:
            text = f"not bisectable: patch {number} breaks {text} until patch {fixed}"
            yield "yellow", text
        else:
            yield "red", f"patch {number} breaks {text}, without a fix in a later patch"


def record(results: Sequence[PatchResult], total: int) -> dict[str, Any]:
    """The results as a JSON object."""
    return {
        "total": total,
        "patches": [_patch(each) for each in results],
        "broken": [_broken(each) for each in patch_series.broken(results)],
    }


def _patch(result: PatchResult) -> dict[str, Any]:
    return {
        "number": result.number,
        "title": result.title,
        "applies": result.applies,
        "error": result.error,
        "warnings": list(result.warnings),
        "behaviours": list(result.behaviours),
        "broken": [_scenario(each) for each in result.broken],
        "fixed": [_scenario(each) for each in result.fixed],
        "scenarios": result.total,
    }


def _scenario(each: ScenarioCompared) -> dict[str, str]:
    reason = _reason(each).removeprefix(": ")
    return {"scenario": each.name, "machine": each.machine, "reason": reason}


def _broken(each: Broken) -> dict[str, Any]:
    return {
        "scenario": each.scenario,
        "machine": each.machine,
        "patch": each.number,
        "fixed_by": each.fixed,
    }
