# SPDX-License-Identifier: GPL-2.0-only
"""The search, with verdicts that are drawn: real git, no kernel."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.bisect import gitbisect, odds
from harness.bisect.classify import Question
from harness.bisect.gitbisect import Ends, GitBisect, Terms
from harness.bisect.ledger import Built, Ledger, Run
from harness.bisect.odds import Tally
from harness.bisect.search import Finding, Search
from harness.errors import HostError, UsageError
from harness.host import git
from tests.drawn import Drawn


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A repository with 33 commits in a row."""
    repository = tmp_path_factory.mktemp("line") / "git"
    return repository, git.line_of_commits([f"change {n}" for n in range(33)], repository)


Search_ = Callable[..., Finding]


@pytest.fixture
def find(line: tuple[Path, list[str]], tmp_path: Path) -> Search_:
    repository, commits = line

    def search(judge: Drawn, name: str = "ledger", **facts: object) -> Finding:
        ledger = Ledger(tmp_path / f"{name}.jsonl", judge)
        facts.setdefault("ends", Ends(commits[-1], (commits[0],)))
        facts.setdefault("terms", Terms())
        return Search(repository, Question(**facts), ledger).find()  # type: ignore[arg-type]

    return search


@pytest.fixture
def commits(line: tuple[Path, list[str]]) -> list[str]:
    return line[1]


@pytest.mark.parametrize("culprit", [1, 2, 17, 31, 32])
def test_the_culprit_is_found(find: Search_, commits: list[str], culprit: int) -> None:
    found = find(Drawn(commits, culprit))
    assert found.culprit == commits[culprit]
    assert found.parents == (commits[culprit - 1],)
    assert found.confidence >= 0.99
    assert f"first bad commit: [{commits[culprit]}]" in found.log


@pytest.mark.parametrize("seed", range(6))
def test_a_bug_that_shows_in_a_third_of_runs(find: Search_, commits: list[str], seed: int) -> None:
    culprit = random.Random(seed).randrange(1, 33)
    found = find(Drawn(commits, culprit, rate=0.3, seed=seed))
    assert found.culprit == commits[culprit]
    assert found.confidence >= 0.99


def test_a_step_that_was_mistaken_is_put_right(find: Search_, commits: list[str]) -> None:
    """Most runs of a step stay clean; the check of the parent finds that out."""
    judge = Drawn(commits, 3, rate=0.15)
    found = find(judge, most_runs=500)
    assert found.culprit == commits[3]
    verdicts: dict[str, set[str]] = {}
    for step in found.steps:
        verdicts.setdefault(step.revision, set()).add(step.verdict)
    assert any({"old", "new"} <= each for each in verdicts.values())


@pytest.mark.parametrize(("before", "seed"), [(0.2, 0), (0.3, 1)])
def test_a_change_that_makes_a_race_wider_is_not_the_culprit(
    find: Search_, commits: list[str], before: float, seed: int
) -> None:
    """The end always shows it; the revisions before that change in one of some runs."""
    draw = random.Random(seed)
    culprit = draw.randrange(1, 25)
    rates = dict.fromkeys(range(culprit, draw.randrange(culprit + 1, 33)), before)
    found = find(Drawn(commits, culprit, rates=rates, seed=seed))
    assert found.culprit == commits[culprit]
    assert found.confidence >= 0.99


def test_what_the_parent_is_held_to_is_part_of_the_answer(
    find: Search_, commits: list[str]
) -> None:
    (held,) = find(Drawn(commits, 17)).held
    assert held.revision == commits[16]
    assert held.error <= held.requested
    assert held.requested == pytest.approx(0.01 / 2 / 6)
    # The culprit has shown it ten times of ten; the rate is a fifth of what that says.
    assert held.rate == pytest.approx(11 / 12 / odds.WIDER)
    assert held.tally.shown == 0
    assert held.error >= (1 - held.rate) ** held.tally.runs


@pytest.mark.parametrize("seed", range(6))
def test_what_shows_by_chance_without_the_bug_too(
    find: Search_, commits: list[str], seed: int
) -> None:
    culprit = random.Random(seed).randrange(1, 33)
    found = find(Drawn(commits, culprit, rate=0.9, noise=0.1, seed=seed))
    assert found.culprit == commits[culprit]


def test_what_cannot_be_judged_is_skipped(find: Search_, commits: list[str]) -> None:
    odd = {16: "build", 24: "boot", 20: "splat"} | dict.fromkeys((15, 17), "boot")
    odd |= dict.fromkeys((19, 21), "splat")
    found = find(Drawn(commits, 26, odd=odd))
    assert found.culprit == commits[26]
    reasons = {step.reason.partition(":")[0] for step in found.steps if step.verdict == "skip"}
    assert reasons >= {"does not build", "does not boot"}
    assert reasons <= {"does not build", "does not boot", "reports another splat"}


def test_a_parent_that_cannot_be_judged_leaves_a_doubt(find: Search_, commits: list[str]) -> None:
    """It stayed clean once, and was lost whenever it was to be checked."""

    class Lost(Drawn):
        def run(self, revision: str, number: int) -> Run:
            if revision == commits[21] and number > 1:
                return Run(revision, "inconclusive", "it hangs", 0)
            return super().run(revision, number)

    found = find(Lost(commits, 22))
    assert found.culprit == commits[22]
    assert found.confidence < 0.9


def test_a_run_that_was_lost_is_run_again_when_the_search_goes_on(
    find: Search_, commits: list[str]
) -> None:
    class Hangs(Drawn):
        def run(self, revision: str, number: int) -> Run:  # noqa: ARG002
            return Run(revision, "inconclusive", "it hangs", 0)

    with pytest.raises(HostError, match="cannot be judged: it hangs"):
        find(Hangs(commits, 17))
    assert find(Drawn(commits, 17)).culprit == commits[17]


@pytest.mark.parametrize(
    ("without", "verified"),
    [({}, None), ({0: "build"}, None), ({0: "clean"}, True), ({0: "shown"}, False)],
)
def test_a_revert_that_could_not_be_made_verifies_nothing(
    line: tuple[Path, list[str]], tmp_path: Path, without: dict[int, str], verified: bool | None
) -> None:
    repository, commits = line

    class Reverting(Drawn):
        def build(self, revision: str) -> Built:
            if revision == "without":
                return Built(revision, "", "no" if without[0] == "build" else "", 0)
            return super().build(revision)

        def run(self, revision: str, number: int) -> Run:
            if revision == "without":
                return Run(revision, without[0], "", 0)  # type: ignore[arg-type]
            return super().run(revision, number)

    question = Question(Ends(commits[-1], (commits[0],)), Terms())
    searching = Search(repository, question, Ledger(tmp_path / "ledger", Reverting(commits, 17)))
    found = searching.find(lambda _culprit: "without" if without else "")
    assert (found.culprit, found.verified) == (commits[17], verified)


def test_a_log_that_was_corrected_counts(
    line: tuple[Path, list[str]], commits: list[str], tmp_path: Path
) -> None:
    """Even against what the runs say, and for revisions that nobody has built."""
    ledger = Ledger(tmp_path / "ledger", Drawn(commits, 17))
    given = {commits[20]: "new", commits[19]: "old"}
    question = Question(Ends(commits[-1], (commits[0],)), Terms())
    found = Search(line[0], question, ledger, given=given).find()
    assert found.culprit == commits[20]


def test_what_a_guest_prints_cannot_break_the_ledger(
    line: tuple[Path, list[str]], tmp_path: Path
) -> None:
    commits = line[1]

    class Odd(Drawn):
        def run(self, revision: str, number: int) -> Run:  # noqa: ARG002
            return Run(revision, "clean", "a\u2028b\x85c\udcff\n", 0)

    for _ in range(2):
        ledger = Ledger(tmp_path / "ledger", Odd(commits, 0))
        ledger.build(commits[0])
        assert ledger.run(commits[0]).reason == "a\u2028b\x85c\udcff\n"
        ledger.close()


def test_a_splat_of_an_end_is_nothing_strange(find: Search_, commits: list[str]) -> None:
    found = find(Drawn(commits, 22, odd=dict.fromkeys(range(33), "splat")))
    assert found.culprit == commits[22]


def test_skipped_neighbours_of_the_culprit_stay_candidates(
    find: Search_, commits: list[str]
) -> None:
    found = find(Drawn(commits, 17, odd={17: "build", 16: "boot"}))
    assert not found.culprit
    assert set(found.candidates) == {commits[16], commits[17], commits[18]}


def test_candidates_are_not_named_before_what_is_below_them_is_sure(
    find: Search_, commits: list[str]
) -> None:
    """The revision below the one that does not build stayed clean when it was a step."""

    class Sly(Drawn):
        def run(self, revision: str, number: int) -> Run:
            if revision == commits[16] and number <= 12:
                return Run(revision, "clean", "", 0)
            return super().run(revision, number)

    judge = Sly(commits, 10, rate=0.3, odd={17: "build"})
    found = find(judge, most_runs=500)
    assert found.culprit == commits[10]
    assert "run 16 13" in judge.done


def test_a_kernel_that_is_the_same_is_not_run_again(find: Search_, commits: list[str]) -> None:
    judge = Drawn(commits, 9, same=dict.fromkeys(range(9), 0) | dict.fromkeys(range(9, 33), 32))
    assert find(judge).culprit == commits[9]
    run = {each.split()[1] for each in judge.done if each.startswith("run")}
    # Both anew for the last word on them: the culprit, and its parent.
    assert run == {"0", "32", "8", "9"}


def test_an_old_and_a_new_end_tell_which_way(find: Search_, commits: list[str]) -> None:
    @dataclass
    class Fixed(Drawn):
        def run(self, revision: str, number: int) -> Run:
            run = super().run(revision, number)
            other = "clean" if run.word == "shown" else "shown"
            return Run(revision, other, "", 0)  # type: ignore[arg-type]

    found = find(Fixed(commits, 12), terms=Terms("old", "new"), either_way=True)
    assert found.culprit == commits[12]
    assert not found.appears
    with pytest.raises(UsageError, match=r"good end.* does; exchange the two"):
        find(Fixed(commits, 12), "other")


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ({"culprit": 0}, "both ends show it"),
        ({"culprit": 33}, "shows it in 0 of 30 runs"),
        ({"culprit": 5, "odd": {0: "build"}}, "the good end, .* does not build"),
        ({"culprit": 5, "odd": {32: "boot"}}, "the bad end, .* does not boot"),
        ({"culprit": 5, "odd": {16: "lost"}}, "QEMU is gone"),
    ],
)
def test_ends_that_are_no_ends(
    find: Search_, commits: list[str], judge: dict[str, object], told: str
) -> None:
    with pytest.raises((UsageError, HostError), match=told):
        find(Drawn(commits, **judge))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_a_search_that_is_killed_goes_on_where_it_was(
    find: Search_, commits: list[str], tmp_path: Path, seed: int
) -> None:
    """And does nothing twice that it had written down, half lines left out."""
    whole = Drawn(commits, 13, rate=0.5)
    expected = find(whole, "whole")
    draw = random.Random(seed)
    done: list[str] = []
    for _ in range(4):
        judge = Drawn(commits, 13, rate=0.5, limit=draw.randrange(1, len(whole.done) // 5))
        with pytest.raises(KeyboardInterrupt):
            find(judge, "killed")
        done += judge.done
        with (tmp_path / "killed.jsonl").open("a") as file:
            file.write('{"run": {"revi')
    rest = Drawn(commits, 13, rate=0.5)
    assert find(rest, "killed").culprit == expected.culprit
    assert done + rest.done == whole.done


def test_paths_and_first_parents_go_to_git(line: tuple[Path, list[str]]) -> None:
    repository, commits = line
    ends = Ends(commits[-1], (commits[0],), first_parent=True)
    bisect = GitBisect(repository, ends, Terms("fast", "slow"))
    assert bisect.left == 32
    bisect.mark("new", bisect.position.next)
    assert "git bisect slow" in bisect.log
    assert "--first-parent" in bisect.log
    assert bisect.left == 16


def test_an_old_end_on_another_branch(tmp_path: Path) -> None:
    """git asks first where the branches part; what was there already was mended since."""
    repository = tmp_path / "git"
    commits = git.line_of_commits([f"change {n}" for n in range(9)], repository)
    tree = git.run(repository, "rev-parse", f"{commits[0]}^{{tree}}")
    words = ["-c", "user.name=a", "-c", "user.email=b"]
    side = git.run(repository, *words, "commit-tree", tree, "-p", commits[4], "-m", "side")
    bisect = GitBisect(repository, Ends(commits[8], (side,)), Terms())
    assert bisect.position.next == commits[4]
    with pytest.raises(UsageError, match="where they part it is bad already"):
        bisect.mark("new", commits[4])
    bisect = GitBisect(repository, Ends(commits[8], (side,)), Terms())
    assert commits.index(bisect.mark("old", commits[4]).next) == 6


def test_a_ledger_counts_each_kernel_once(line: tuple[Path, list[str]], tmp_path: Path) -> None:
    commits = line[1]
    ledger = Ledger(tmp_path / "ledger", Drawn(commits, 0, same={1: 2}))
    for number in (1, 2, 3):
        ledger.build(commits[number])
        ledger.run(commits[number])
    assert ledger.tally(commits[1]) == Tally(2, 0)
    assert ledger.total(commits[1:4]) == Tally(3, 0)
    lines = (tmp_path / "ledger").read_text().splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ["build", "run"] * 3


def test_contains_and_parents(line: tuple[Path, list[str]]) -> None:
    repository, commits = line
    assert gitbisect.contains(repository, commits[5], commits[3])
    assert not gitbisect.contains(repository, commits[3], commits[5])
    assert gitbisect.parents(repository, commits[5]) == [commits[4]]
    assert gitbisect.subject(repository, commits[5]) == "change 5"
