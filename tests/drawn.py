# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts that are drawn: searches without kernels."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.bisect.ledger import Built, Run
from harness.errors import HostError


@dataclass
class Drawn:
    """A judge of a line of commits: those from ``culprit`` on show it in ``rate`` of their
    runs, or in those that ``rates`` has for them, the others in ``noise``. ``odd`` says what else
    becomes of some."""

    commits: list[str]
    culprit: int
    rate: float = 1.0
    noise: float = 0.0
    seed: int = 0
    odd: dict[int, str] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    limit: int = 10**9

    def build(self, revision: str) -> Built:
        self._count()
        number = self.commits.index(revision)
        self.done.append(f"build {number}")
        if self.odd.get(number) == "build":
            return Built(revision, "", "iommu.c:1:1: error: no", 0)
        return Built(revision, f"artifact {self.same.get(number, number)}", "", 0)

    def run(self, revision: str, number: int) -> Run:
        self._count()
        place = self.commits.index(revision)
        self.done.append(f"run {place} {number}")
        odd = self.odd.get(place)
        if odd == "boot":
            return Run(revision, "no-boot", "panic", 0)
        if odd == "lost":
            raise HostError("QEMU is gone")
        draw = random.Random(f"{self.seed} {place} {number}").random()
        shown = draw < self._rate(place)
        splats = ("WARNING in other",) if odd == "splat" else ()
        return Run(revision, "shown" if shown else "clean", "", 0, splats)

    def _rate(self, place: int) -> float:
        return self.rates.get(place, self.rate) if place >= self.culprit else self.noise

    def expect(self, revisions: Callable[[], Sequence[str]]) -> None:
        pass

    def _count(self) -> None:
        self.limit -= 1
        if self.limit < 0:
            raise KeyboardInterrupt
