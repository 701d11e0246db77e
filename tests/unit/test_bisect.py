# SPDX-License-Identifier: GPL-2.0-only
"""The bisect search on simulated runs: real git, no kernels."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.bisect import confidence, gitbisect
from harness.bisect.classify import Parameters
from harness.bisect.confidence import Tally
from harness.bisect.gitbisect import Endpoints, GitBisect, Terms
from harness.bisect.journal import Build, Journal, Run
from harness.bisect.search import Conclusion, Search
from harness.errors import HostError, UsageError
from harness.host import git
from tests.random_runner import RandomRunner


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A repository with 33 linear commits, and their hashes."""
    repository = tmp_path_factory.mktemp("history") / "git"
    return repository, git.create_linear_history([f"change {n}" for n in range(33)], repository)


Find = Callable[..., Conclusion]


@pytest.fixture
def find(history: tuple[Path, list[str]], tmp_path: Path) -> Find:
    repository, commits = history

    def search(runner: RandomRunner, name: str = "journal", **facts: object) -> Conclusion:
        journal = Journal(tmp_path / f"{name}.jsonl", runner)
        facts.setdefault("endpoints", Endpoints(commits[-1], (commits[0],)))
        facts.setdefault("terms", Terms())
        return Search(repository, Parameters(**facts), journal).find()  # type: ignore[arg-type]

    return search


@pytest.fixture
def commits(history: tuple[Path, list[str]]) -> list[str]:
    return history[1]


@pytest.mark.parametrize("first_bad", [1, 2, 17, 31, 32])
def test_search_finds_the_first_bad_commit(find: Find, commits: list[str], first_bad: int) -> None:
    found = find(RandomRunner(commits, first_bad))
    assert found.first_bad == commits[first_bad]
    assert found.parents == (commits[first_bad - 1],)
    assert found.confidence >= 0.99
    assert f"first bad commit: [{commits[first_bad]}]" in found.log


@pytest.mark.parametrize("seed", range(6))
def test_search_finds_the_first_bad_commit_if_30_percent_of_runs_show_the_symptom(
    find: Find, commits: list[str], seed: int
) -> None:
    first_bad = random.Random(seed).randrange(1, 33)
    found = find(RandomRunner(commits, first_bad, rate=0.3, seed=seed))
    assert found.first_bad == commits[first_bad]
    assert found.confidence >= 0.99


def test_checking_the_parent_corrects_a_wrong_step(find: Find, commits: list[str]) -> None:
    """A revision with a rare symptom passes as good; the check of the parent finds it bad."""
    runner = RandomRunner(commits, 3, rate=0.15)
    found = find(runner, max_runs=500)
    assert found.first_bad == commits[3]
    verdicts: dict[str, set[str]] = {}
    for step in found.steps:
        verdicts.setdefault(step.revision, set()).add(step.verdict)
    assert any({"old", "new"} <= each for each in verdicts.values())


@pytest.mark.parametrize(("before", "seed"), [(0.2, 0), (0.3, 1)])
def test_search_finds_the_first_bad_commit_before_a_change_that_widens_the_race(
    find: Find, commits: list[str], before: float, seed: int
) -> None:
    """The first bad commit makes some runs show the symptom; the later change makes all of them
    show it."""
    draw = random.Random(seed)
    first_bad = draw.randrange(1, 25)
    rates = dict.fromkeys(range(first_bad, draw.randrange(first_bad + 1, 33)), before)
    found = find(RandomRunner(commits, first_bad, rates=rates, seed=seed))
    assert found.first_bad == commits[first_bad]
    assert found.confidence >= 0.99


def test_the_conclusion_includes_the_rate_excluded_for_the_parent(
    find: Find, commits: list[str]
) -> None:
    (held,) = find(RandomRunner(commits, 17)).held
    assert held.revision == commits[16]
    assert held.error <= held.requested
    assert held.requested == pytest.approx(0.01 / 2 / 6)
    # 10 of 10 runs of the first bad commit show the symptom. The parent's rate must be below a
    # fifth.
    assert held.rate == pytest.approx(11 / 12 / confidence.MAX_RATE_RATIO)
    assert held.tally.shown == 0
    assert held.error >= (1 - held.rate) ** held.tally.runs


@pytest.mark.parametrize("seed", range(6))
def test_search_finds_the_first_bad_commit_despite_false_positives(
    find: Find, commits: list[str], seed: int
) -> None:
    first_bad = random.Random(seed).randrange(1, 33)
    found = find(RandomRunner(commits, first_bad, rate=0.9, noise=0.1, seed=seed))
    assert found.first_bad == commits[first_bad]


def test_search_skips_untestable_revisions(find: Find, commits: list[str]) -> None:
    faults = {16: "build", 24: "boot", 20: "splat"} | dict.fromkeys((15, 17), "boot")
    faults |= dict.fromkeys((19, 21), "splat")
    found = find(RandomRunner(commits, 26, faults=faults))
    assert found.first_bad == commits[26]
    reasons = {step.reason.partition(":")[0] for step in found.steps if step.verdict == "skip"}
    assert reasons >= {"does not build", "does not boot"}
    assert reasons <= {"does not build", "does not boot", "reports a different splat"}


def test_an_inconclusive_parent_lowers_the_confidence(find: Find, commits: list[str]) -> None:
    """The parent's first run is clean, and all its later runs are inconclusive."""

    class Inconclusive(RandomRunner):
        def run(self, revision: str, number: int) -> Run:
            if revision == commits[21] and number > 1:
                return Run(revision, "inconclusive", "it hangs", 0)
            return super().run(revision, number)

    found = find(Inconclusive(commits, 22))
    assert found.first_bad == commits[22]
    assert found.confidence < 0.9


def test_a_resumed_search_repeats_inconclusive_runs(find: Find, commits: list[str]) -> None:
    class Hangs(RandomRunner):
        def run(self, revision: str, number: int) -> Run:  # noqa: ARG002
            return Run(revision, "inconclusive", "it hangs", 0)

    with pytest.raises(HostError, match="is inconclusive: it hangs"):
        find(Hangs(commits, 17))
    assert find(RandomRunner(commits, 17)).first_bad == commits[17]


@pytest.mark.parametrize(
    ("reverted", "verified"),
    [("", None), ("build", None), ("clean", True), ("shown", False)],
)
def test_a_clean_run_without_the_first_bad_commit_verifies_it(
    history: tuple[Path, list[str]], tmp_path: Path, reverted: str, verified: bool | None
) -> None:
    repository, commits = history

    class Reverting(RandomRunner):
        def build(self, revision: str) -> Build:
            if revision == "without":
                return Build(revision, "", "no" if reverted == "build" else "", 0)
            return super().build(revision)

        def run(self, revision: str, number: int) -> Run:
            if revision == "without":
                return Run(revision, reverted, "", 0)  # type: ignore[arg-type]
            return super().run(revision, number)

    parameters = Parameters(Endpoints(commits[-1], (commits[0],)), Terms())
    searching = Search(
        repository, parameters, Journal(tmp_path / "journal", Reverting(commits, 17))
    )
    found = searching.find(lambda _first_bad: "without" if reverted else "")
    assert (found.first_bad, found.verified) == (commits[17], verified)


def test_verdicts_in_an_edited_log_override_runs(
    history: tuple[Path, list[str]], commits: list[str], tmp_path: Path
) -> None:
    """An override applies even if runs contradict it or its revision is never built."""
    journal = Journal(tmp_path / "journal", RandomRunner(commits, 17))
    overrides = {commits[20]: "new", commits[19]: "old"}
    parameters = Parameters(Endpoints(commits[-1], (commits[0],)), Terms())
    found = Search(history[0], parameters, journal, overrides=overrides).find()
    assert found.first_bad == commits[20]


def test_the_journal_preserves_unicode_line_separators_and_surrogates(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    commits = history[1]

    class OddOutput(RandomRunner):
        def run(self, revision: str, number: int) -> Run:  # noqa: ARG002
            return Run(revision, "clean", "a\u2028b\x85c\udcff\n", 0)

    for _ in range(2):
        journal = Journal(tmp_path / "journal", OddOutput(commits, 0))
        journal.build(commits[0])
        assert journal.run(commits[0]).reason == "a\u2028b\x85c\udcff\n"
        journal.close()


def test_search_ignores_a_splat_that_both_endpoints_report(find: Find, commits: list[str]) -> None:
    found = find(RandomRunner(commits, 22, faults=dict.fromkeys(range(33), "splat")))
    assert found.first_bad == commits[22]


def test_search_returns_candidates_if_the_first_bad_commit_and_its_parent_are_skipped(
    find: Find, commits: list[str]
) -> None:
    found = find(RandomRunner(commits, 17, faults={17: "build", 16: "boot"}))
    assert not found.first_bad
    assert set(found.candidates) == {commits[16], commits[17], commits[18]}


def test_search_confirms_the_revision_before_skipped_candidates(
    find: Find, commits: list[str]
) -> None:
    """Revision 16 is bad but clean in its first 12 runs, and revision 17 does not build."""

    class CleanAtFirst(RandomRunner):
        def run(self, revision: str, number: int) -> Run:
            if revision == commits[16] and number <= 12:
                return Run(revision, "clean", "", 0)
            return super().run(revision, number)

    runner = CleanAtFirst(commits, 10, rate=0.3, faults={17: "build"})
    found = find(runner, max_runs=500)
    assert found.first_bad == commits[10]
    assert "run 16 13" in runner.calls


def test_search_steps_share_the_runs_of_identical_kernels(find: Find, commits: list[str]) -> None:
    runner = RandomRunner(
        commits, 9, identical=dict.fromkeys(range(9), 0) | dict.fromkeys(range(9, 33), 32)
    )
    assert find(runner).first_bad == commits[9]
    run = {each.split()[1] for each in runner.calls if each.startswith("run")}
    # The first bad commit and its parent are run again for the final check.
    assert run == {"0", "32", "8", "9"}


def test_search_determines_the_direction_only_with_old_and_new_endpoints(
    find: Find, commits: list[str]
) -> None:
    @dataclass
    class Fixed(RandomRunner):
        def run(self, revision: str, number: int) -> Run:
            run = super().run(revision, number)
            other = "clean" if run.result == "shown" else "shown"
            return Run(revision, other, "", 0)  # type: ignore[arg-type]

    found = find(Fixed(commits, 12), terms=Terms("old", "new"), either_way=True)
    assert found.first_bad == commits[12]
    assert not found.appears
    with pytest.raises(UsageError, match=r"good endpoint.* shows it; swap the endpoints"):
        find(Fixed(commits, 12), "other")


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        ({"first_bad": 0}, "the symptom is about as frequent at both endpoints"),
        ({"first_bad": 33}, "shows the symptom in 0 of 30 runs"),
        ({"first_bad": 5, "faults": {0: "build"}}, "the good endpoint .* does not build"),
        ({"first_bad": 5, "faults": {32: "boot"}}, "the bad endpoint .* does not boot"),
        ({"first_bad": 5, "faults": {16: "lost"}}, "QEMU was killed"),
    ],
)
def test_search_reports_an_unusable_endpoint_or_a_lost_guest(
    find: Find, commits: list[str], runner: dict[str, object], message: str
) -> None:
    with pytest.raises((UsageError, HostError), match=message):
        find(RandomRunner(commits, **runner))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_an_interrupted_search_resumes_from_its_journal(
    find: Find, commits: list[str], tmp_path: Path, seed: int
) -> None:
    """No recorded build or run is repeated; truncated lines are ignored."""
    uninterrupted = RandomRunner(commits, 13, rate=0.5)
    expected = find(uninterrupted, "uninterrupted")
    draw = random.Random(seed)
    calls: list[str] = []
    for _ in range(4):
        runner = RandomRunner(
            commits, 13, rate=0.5, max_calls=draw.randrange(1, len(uninterrupted.calls) // 5)
        )
        with pytest.raises(KeyboardInterrupt):
            find(runner, "killed")
        calls += runner.calls
        with (tmp_path / "killed.jsonl").open("a") as file:
            file.write('{"run": {"revi')
    rest = RandomRunner(commits, 13, rate=0.5)
    assert find(rest, "killed").first_bad == expected.first_bad
    assert calls + rest.calls == uninterrupted.calls


def test_gitbisect_passes_terms_and_first_parent_to_git(history: tuple[Path, list[str]]) -> None:
    repository, commits = history
    endpoints = Endpoints(commits[-1], (commits[0],), first_parent=True)
    bisect = GitBisect(repository, endpoints, Terms("fast", "slow"))
    assert bisect.left == 32
    bisect.mark("new", bisect.position.next)
    assert "git bisect slow" in bisect.log
    assert "--first-parent" in bisect.log
    assert bisect.left == 16


def test_gitbisect_tests_the_merge_base_of_a_good_endpoint_on_another_branch(
    tmp_path: Path,
) -> None:
    """A bad merge base means that the other branch contains a fix, and is an error."""
    repository = tmp_path / "git"
    commits = git.create_linear_history([f"change {n}" for n in range(9)], repository)
    tree = git.run(repository, "rev-parse", f"{commits[0]}^{{tree}}")
    words = ["-c", "user.name=a", "-c", "user.email=b"]
    side = git.run(repository, *words, "commit-tree", tree, "-p", commits[4], "-m", "side")
    bisect = GitBisect(repository, Endpoints(commits[8], (side,)), Terms())
    assert bisect.position.next == commits[4]
    with pytest.raises(UsageError, match="merge base is already bad"):
        bisect.mark("new", commits[4])
    bisect = GitBisect(repository, Endpoints(commits[8], (side,)), Terms())
    assert commits.index(bisect.mark("old", commits[4]).next) == 6


def test_the_journal_sums_runs_of_identical_kernels(
    history: tuple[Path, list[str]], tmp_path: Path
) -> None:
    commits = history[1]
    journal = Journal(tmp_path / "journal", RandomRunner(commits, 0, identical={1: 2}))
    for number in (1, 2, 3):
        journal.build(commits[number])
        journal.run(commits[number])
    assert journal.tally(commits[1]) == Tally(2, 0)
    assert journal.total(commits[1:4]) == Tally(3, 0)
    lines = (tmp_path / "journal").read_text().splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ["build", "run"] * 3


def test_gitbisect_reads_ancestry_parents_and_subject(history: tuple[Path, list[str]]) -> None:
    repository, commits = history
    assert gitbisect.contains(repository, commits[5], commits[3])
    assert not gitbisect.contains(repository, commits[3], commits[5])
    assert gitbisect.parents(repository, commits[5]) == [commits[4]]
    assert gitbisect.subject(repository, commits[5]) == "change 5"
