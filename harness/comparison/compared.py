# SPDX-License-Identifier: GPL-2.0-only
"""Run the session of a report on two sides, until differences can be told from noise."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.comparison import difference, session
from harness.comparison.difference import Comparison, Difference, Run
from harness.comparison.session import Side
from harness.host import progress
from harness.repro.request import Request


@dataclass(frozen=True, slots=True)
class Compared:
    """A session and the comparison of its runs on both sides."""

    request: Request
    old: Side
    new: Side
    comparison: Comparison

    def of_step(self, number: int) -> list[Difference]:
        """The differences in a step, from 1; 0 is the guest before the first step."""
        return [each for each in self.comparison.differences if each.fact.step == number]

    @property
    def steps(self) -> list[int]:
        """The numbers of the steps that differ."""
        return sorted({each.fact.step for each in self.comparison.differences})


def compare(request: Request, old: Side, new: Side, directory: Path, least: int) -> Compared:
    """Run the session at least ``least`` times on each side, in turn. Raises as ``session.run``
    does."""
    runs: tuple[list[Run], list[Run]] = ([], [])
    with progress.phase("compare", f"comparing {request.name}") as phase:
        while True:
            found = difference.compare(*runs)
            needed = max(least, difference.runs_needed(found))
            if len(runs[0]) >= needed:
                return Compared(request, old, new, found)
            phase.expect(2 * needed)
            for word, side, done in zip(("old", "new"), (old, new), runs, strict=True):
                done.append(session.run(request, side, _directory(directory, word, len(done) + 1)))
                phase.step()


def _directory(below: Path, word: str, number: int) -> Path:
    path = below / f"{word}-{number}"
    path.mkdir(parents=True)
    return path


def record(compared: Compared) -> dict[str, Any]:
    """The comparison as a JSON object."""
    found = compared.comparison
    commands = compared.request.session.texts
    return {
        "report": compared.request.name,
        "old": _side(compared.old, found.old),
        "new": _side(compared.new, found.new),
        "steps": [
            {"number": number, "command": command, "differs": number in compared.steps}
            for number, command in enumerate(commands, start=1)
        ],
        "differences": [_difference(each) for each in found.differences],
        "noise": [_difference(each) for each in found.noise],
    }


def _side(side: Side, runs: int) -> dict[str, Any]:
    return {"kernel": side.kernel.label, "machine": side.machine.label, "runs": runs}


def _difference(each: Difference) -> dict[str, Any]:
    facts = asdict(each.fact)
    del facts["position"]
    return {**facts, "old_runs": each.old, "new_runs": each.new}
