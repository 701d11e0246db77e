# SPDX-License-Identifier: GPL-2.0-only
"""Searches for a bug that shows in some runs only, beside the rule that repeats every
revision equally often: how often each is right, and what it costs.
"""

import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.bisect.classify import Question
from harness.bisect.gitbisect import Ends, GitBisect, Terms
from harness.bisect.ledger import Ledger
from harness.bisect.search import Search
from harness.host import git
from tests.drawn import Drawn


@dataclass(frozen=True)
class Searched:
    """One history, searched both ways: whether each was ``right``, and its runs."""

    right: bool
    runs: int
    fixed_right: bool
    fixed_runs: int


def searches(
    count: int, rate: float, before: float, length: int, confidence: float
) -> Iterator[Searched]:
    """Histories in a line, with the culprit anywhere; from there to some later change it
    shows in ``before`` of its runs."""
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch, "git")
        messages = [f"change {number}" for number in range(length + 1)]
        commits = git.line_of_commits(messages, repository)
        ends = Ends(commits[-1], (commits[0],))
        for seed in range(count):
            draw = random.Random(seed)
            culprit = draw.randrange(1, length + 1)
            rates = dict.fromkeys(range(culprit, draw.randrange(culprit, length + 1)), before)
            judge = Drawn(commits, culprit, rate=rate, rates=rates, seed=seed)
            ledger = Ledger(Path(scratch, f"{seed}"), judge)
            found = Search(repository, Question(ends, Terms(), confidence), ledger).find()
            ledger.close()
            runs = sum(each.startswith("run") for each in judge.done)
            fixed = Drawn(commits, culprit, rate=rate, rates=rates, seed=count + seed)
            named = _by_fixed_repeats(repository, ends, fixed, confidence)
            fixed_runs = sum(each.startswith("run") for each in fixed.done)
            culprit_is = commits[culprit]
            yield Searched(found.culprit == culprit_is, runs, named == culprit_is, fixed_runs)


def _by_fixed_repeats(repository: Path, ends: Ends, judge: Drawn, confidence: float) -> str:
    """As often for each revision as the whole search needs, if it is told the rate: until
    the first run that shows it. The rate is not known, so the bad end is measured too, and
    the good end confirmed."""
    steps = math.ceil(math.log2(len(judge.commits) - 1))
    doubt = (1 - confidence) / steps
    repeats = 1 if judge.rate == 1 else math.ceil(math.log(doubt) / math.log(1 - judge.rate))

    def shows(revision: str) -> bool:
        return any(judge.run(revision, n + 1).word == "shown" for n in range(repeats))

    shown = number = 0
    while shown < 5:
        number += 1
        shown += judge.run(ends.new, number).word == "shown"
    shows(ends.old[0])
    bisect = GitBisect(repository, ends, Terms())
    while bisect.position.next:
        revision = bisect.position.next
        bisect.mark("new" if shows(revision) else "old", revision)
    return bisect.position.found
