# SPDX-License-Identifier: GPL-2.0-only
"""Run scenarios on two kernels, and find those with a different result. A scenario whose results
differ is run again on both, to tell a difference from a flake.
"""

import re
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
from harness.suite import resolved, run
from harness.suite.resolved import Resolved
from harness.suite.run import RunRequest, ScenarioOutcome

Line = tuple[str, str]
_Key = tuple[str, str]


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


class ScenarioRuns:
    """The scenarios of ``request`` on several kernels, each of which is built and run once. Logs
    and results are in ``directory``."""

    def __init__(self, request: RunRequest, directory: Path) -> None:
        self._request = request
        self._directory = directory
        self._rounds = 0
        self._built: dict[KernelSpec, Resolved] = {}
        self._first: dict[KernelSpec, list[ScenarioOutcome]] = {}

    def build(self, spec: KernelSpec) -> Resolved:
        """Build a kernel, with the variants that the machines require, and determine its profile.
        Raises as ``build.build`` does."""
        if spec not in self._built:
            made = resolved.build(
                [spec], self._request.machines, self._request.behaviours, self._request.known_issues
            )
            resolved.write(made.kernels, self._file(spec))
            self._built[spec] = made.kernels[0]
        return self._built[spec]

    def first(self, spec: KernelSpec) -> list[ScenarioOutcome]:
        """The outcomes of one run of each scenario on a kernel. Raises as ``run.run`` does."""
        if spec not in self._first:
            self._first[spec] = self._run(spec, self._request)
        return self._first[spec]

    def again(self, spec: KernelSpec, names: Sequence[str]) -> list[ScenarioOutcome]:
        """The outcomes of further runs of the scenarios with these names on a kernel, so that
        there are enough to tell a difference from a flake."""
        trials = replace(self._request, scenarios=tuple(names), trials=ENOUGH - 1)
        return self._run(spec, trials)

    def _run(self, spec: KernelSpec, request: RunRequest) -> list[ScenarioOutcome]:
        self.build(spec)
        self._rounds += 1
        on_one = replace(request, kernels=(spec,), resolved=self._file(spec))
        title = f"scenarios on {spec}"
        return run.run(on_one, self._directory, number=self._rounds, title=title)

    def _file(self, spec: KernelSpec) -> Path:
        known = [*self._built, spec]
        return self._directory / f"kernels-{known.index(spec) + 1}.json"


def compare(runs: ScenarioRuns, old: KernelSpec, new: KernelSpec) -> list[ScenarioCompared]:
    """Compare the results of the scenarios on two kernels. Raises as ``ScenarioRuns.first``
    does."""
    found: dict[_Key, ScenarioCompared] = {}
    _add(found, runs.first(old), runs.first(new))
    varying = [each for each in found.values() if each.varies]
    if varying:
        names = list(dict.fromkeys(_selector(each) for each in varying))
        _add(found, runs.again(old, names), runs.again(new, names))
    return sorted(found.values(), key=lambda each: (each.name, each.machine))


def _add(
    found: dict[_Key, ScenarioCompared],
    old: Sequence[ScenarioOutcome],
    new: Sequence[ScenarioOutcome],
) -> None:
    for outcomes, is_old in ((old, True), (new, False)):
        for each in outcomes:
            key = each.scenario, each.machine
            pair = found.setdefault(key, ScenarioCompared(*key))
            (pair.old if is_old else pair.new).append(each)


def _selector(each: ScenarioCompared) -> str:
    return (each.old or each.new)[0].selector


def _result(outcome: ScenarioOutcome) -> str:
    """The result, and the known issue that the scenario ran into."""
    return f"{outcome.result} ({outcome.issue})" if outcome.issue else str(outcome.result)


# The class of an error, as pytest prints it.
_CLASS = re.compile(r"(?:\w+\.)+(?=[A-Z]\w*: )")


def short_reason(outcome: ScenarioOutcome) -> str:
    """The first line of the reason, without the module of the error."""
    return _CLASS.sub("", outcome.reason.partition("\n")[0], count=1)


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
        reasons[_result(each)] = reasons[_result(each)] or short_reason(each)
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
