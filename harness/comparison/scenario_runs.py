# SPDX-License-Identifier: GPL-2.0-only
"""Run scenarios on two kernels, and find those with a different result. A scenario whose results
differ is run again on both, to tell a difference from a flake.
"""

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.comparison import difference
from harness.comparison.difference import ENOUGH, Comparison
from harness.comparison.fact import Fact
from harness.kernel.spec import KernelSpec
from harness.suite import run
from harness.suite.run import RunRequest, ScenarioOutcome

Line = tuple[str, str]
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Kernels:
    """The two kernels of a comparison."""

    old: KernelSpec
    new: KernelSpec


@dataclass(slots=True)
class ScenarioCompared:
    """The outcomes of a scenario on a machine, on the old and on the new kernel."""

    name: str
    machine: str
    old: list[ScenarioOutcome] = field(default_factory=list)
    new: list[ScenarioOutcome] = field(default_factory=list)

    @property
    def comparison(self) -> Comparison:
        """The comparison of the results."""
        return difference.compare(_results(self.old), _results(self.new))

    @property
    def varies(self) -> bool:
        """Whether not all runs on both kernels had the same result."""
        return len({_result(each) for each in (*self.old, *self.new)}) > 1

    @property
    def differs(self) -> bool:
        """Whether the results differ between the kernels, and not only between runs."""
        return bool(self.comparison.differences)


def compare(kernels: Kernels, request: RunRequest, directory: Path) -> list[ScenarioCompared]:
    """Run the scenarios of ``request`` on both kernels, which have been built. Raises as
    ``run.run`` does."""
    found: dict[_Key, ScenarioCompared] = {}
    _run(kernels, request, directory, found, first=1)
    varying = [each for each in found.values() if each.varies]
    if varying:
        names = tuple(dict.fromkeys(_selector(each) for each in varying))
        again = replace(request, scenarios=names, trials=ENOUGH - 1)
        _run(kernels, again, directory, found, first=3)
    return sorted(found.values(), key=lambda each: (each.name, each.machine))


def _run(
    kernels: Kernels,
    request: RunRequest,
    directory: Path,
    found: dict[_Key, ScenarioCompared],
    *,
    first: int,
) -> None:
    """Run the scenarios on the old and on the new kernel, as the rounds ``first`` and the next,
    and add their outcomes to ``found``."""
    for spec in (kernels.old, kernels.new):
        number = first + (spec is kernels.new)
        on_one = replace(request, kernels=(spec,))
        for each in run.run(on_one, directory, number=number, title=f"scenarios on {spec}"):
            key = each.scenario, each.machine
            pair = found.setdefault(key, ScenarioCompared(*key))
            (pair.new if spec is kernels.new else pair.old).append(each)


def _selector(each: ScenarioCompared) -> str:
    return (each.old or each.new)[0].selector


def _result(outcome: ScenarioOutcome) -> str:
    """The result, and the known issue that the scenario ran into."""
    return f"{outcome.result} ({outcome.issue})" if outcome.issue else str(outcome.result)


def _results(outcomes: Sequence[ScenarioOutcome]) -> list[frozenset[Fact]]:
    return [frozenset({Fact(0, "status", _result(each))}) for each in outcomes]


def lines(found: Sequence[ScenarioCompared]) -> Iterator[Line]:
    """Render the scenarios that differ, and a summary, in at most 72 columns where words allow."""
    differing = [each for each in found if each.differs]
    for each in differing:
        yield "bold", f"{each.name} [{each.machine}]"
        for style, mark, outcomes in (("red", "-", each.old), ("green", "+", each.new)):
            for text in _summaries(outcomes):
                for number, line in enumerate(textwrap.wrap(text, 66, break_long_words=False)):
                    yield style, f" {mark if number == 0 else ' '}   {line}"
    noise = sum(each.varies and not each.differs for each in found)
    count = len(differing)
    yield "bold", f"{count or 'no'} of {len(found)} scenarios differ{'s' * (count == 1)}"
    if noise:
        yield "", f"noise: the results of {noise} vary between runs of one kernel"


def _summaries(outcomes: Sequence[ScenarioOutcome]) -> Iterator[str]:
    reasons: dict[str, str] = defaultdict(str)
    counts = Counter(map(_result, outcomes))
    for each in outcomes:
        reasons[_result(each)] = reasons[_result(each)] or each.reason.partition("\n")[0]
    for result, count in counts.items():
        reason = f": {reasons[result]}" if reasons[result] else ""
        yield f"{result} in {count} of {len(outcomes)} runs{reason}"


def record(found: Sequence[ScenarioCompared]) -> dict[str, Any]:
    """The comparison as a JSON object."""
    return {
        "scenarios": [
            {
                "scenario": each.name,
                "machine": each.machine,
                "differs": each.differs,
                "old": dict(Counter(map(_result, each.old))),
                "new": dict(Counter(map(_result, each.new))),
            }
            for each in found
            if each.varies
        ],
        "total": len(found),
    }
