# SPDX-License-Identifier: GPL-2.0-only
"""Searches for an intermittent bug, with our search and with a fixed number of runs per revision:
how often each finds the first bad commit, and how many runs it takes.
"""

import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.bisect.classify import Parameters
from harness.bisect.gitbisect import Endpoints, GitBisect, Terms
from harness.bisect.journal import Journal
from harness.bisect.search import Search
from harness.host import git
from tests.random_runner import RandomRunner


@dataclass(frozen=True)
class Searched:
    """One history, searched by our search and with a fixed number of runs per revision: whether
    each finds the first bad commit, and its number of runs."""

    right: bool
    runs: int
    fixed_right: bool
    fixed_runs: int


def searches(
    count: int, rate: float, before: float, length: int, confidence: float
) -> Iterator[Searched]:
    """Search ``count`` linear histories of ``length`` changes with a random first bad commit. From
    that commit to a random later change, ``before`` of the runs show the bug, then ``rate`` of
    them."""
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch, "git")
        messages = [f"change {number}" for number in range(length + 1)]
        commits = git.create_linear_history(messages, repository)
        endpoints = Endpoints(commits[-1], (commits[0],))
        for seed in range(count):
            draw = random.Random(seed)
            first_bad = draw.randrange(1, length + 1)
            rates = dict.fromkeys(range(first_bad, draw.randrange(first_bad, length + 1)), before)
            runner = RandomRunner(commits, first_bad, rate=rate, rates=rates, seed=seed)
            journal = Journal(Path(scratch, f"{seed}"), runner)
            found = Search(repository, Parameters(endpoints, Terms(), confidence), journal).find()
            journal.close()
            runs = sum(each.startswith("run") for each in runner.calls)
            fixed = RandomRunner(commits, first_bad, rate=rate, rates=rates, seed=count + seed)
            fixed_found = _with_fixed_repeats(repository, endpoints, fixed, confidence)
            fixed_runs = sum(each.startswith("run") for each in fixed.calls)
            expected = commits[first_bad]
            yield Searched(found.first_bad == expected, runs, fixed_found == expected, fixed_runs)


def _with_fixed_repeats(
    repository: Path, endpoints: Endpoints, runner: RandomRunner, confidence: float
) -> str:
    """Search with a fixed number of runs per revision, and return the first bad commit found.

    The number of runs suffices for ``confidence`` in the whole search at the known rate. The
    first run that shows the bug ends the runs of a revision. The rate is unknown in practice, so
    the cost of measuring the bad endpoint and of confirming the good endpoint is included.
    """
    steps = math.ceil(math.log2(len(runner.commits) - 1))
    doubt = (1 - confidence) / steps
    repeats = 1 if runner.rate == 1 else math.ceil(math.log(doubt) / math.log(1 - runner.rate))

    def shows(revision: str) -> bool:
        return any(runner.run(revision, n + 1).result == "shown" for n in range(repeats))

    shown = number = 0
    while shown < 5:
        number += 1
        shown += runner.run(endpoints.new, number).result == "shown"
    shows(endpoints.old[0])
    bisect = GitBisect(repository, endpoints, Terms())
    while bisect.position.next:
        revision = bisect.position.next
        bisect.mark("new" if shows(revision) else "old", revision)
    return bisect.position.found
