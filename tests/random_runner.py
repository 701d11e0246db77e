# SPDX-License-Identifier: GPL-2.0-only
"""A runner with random results, for bisect searches without kernels."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.bisect.journal import Build, Run
from harness.errors import HostError


@dataclass
class RandomRunner:
    """A runner for a linear history of ``commits``, which are numbered from 0.

    ``first_bad``: the number of the first commit that shows the symptom.
    ``rate``: the fraction of runs in which the first bad commit and later commits show the symptom.
    ``rates``: overrides ``rate``, by number.
    ``noise``: the fraction of runs in which commits before the first bad commit show the symptom.
    ``faults``: the faults of commits, by number: "build" and "boot" fail, "splat" is an unrelated
    splat, "lost" kills QEMU.
    ``identical``: maps a number to the commit with the same artifact.
    ``calls``: records each build and run.
    ``max_calls``: the number of builds and runs after which KeyboardInterrupt is raised.
    """

    commits: list[str]
    first_bad: int
    rate: float = 1.0
    noise: float = 0.0
    seed: int = 0
    faults: dict[int, str] = field(default_factory=dict)
    identical: dict[int, int] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    max_calls: int = 10**9

    def build(self, revision: str) -> Build:
        self._count()
        number = self.commits.index(revision)
        self.calls.append(f"build {number}")
        if self.faults.get(number) == "build":
            return Build(revision, "", "iommu.c:1:1: error: no", 0)
        return Build(revision, f"artifact {self.identical.get(number, number)}", "", 0)

    def run(self, revision: str, number: int) -> Run:
        self._count()
        position = self.commits.index(revision)
        self.calls.append(f"run {position} {number}")
        fault = self.faults.get(position)
        if fault == "boot":
            return Run(revision, "no-boot", "panic", 0)
        if fault == "lost":
            raise HostError("QEMU was killed")
        draw = random.Random(f"{self.seed} {position} {number}").random()
        shown = draw < self._rate(position)
        splats = ("WARNING in other",) if fault == "splat" else ()
        return Run(revision, "shown" if shown else "clean", "", 0, splats)

    def _rate(self, position: int) -> float:
        return self.rates.get(position, self.rate) if position >= self.first_bad else self.noise

    def prefetch(self, revisions: Callable[[], Sequence[str]]) -> None:
        pass

    def _count(self) -> None:
        self.max_calls -= 1
        if self.max_calls < 0:
            raise KeyboardInterrupt
