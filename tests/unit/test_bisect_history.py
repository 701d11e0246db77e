# SPDX-License-Identifier: GPL-2.0-only
"""Histories to bisect, on ten-line kernels: real git and builds, no guest."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.bisect import gitbisect, history
from harness.bisect.classify import Parameters
from harness.bisect.gitbisect import Endpoints, GitBisect, Terms
from harness.bisect.guest_runner import GuestRunner
from harness.bisect.history import History
from harness.bisect.journal import Journal
from harness.bisect.search import Conclusion, Search
from harness.bisect.symptom import Observation
from harness.errors import UsageError
from harness.host import paths
from harness.kernel import spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from tests import command, fake_linux
from tests.processes import descendants, wait_until
from tests.unit.test_git_source import checkout_state, git

pytestmark = pytest.mark.usefixtures("no_fragments")

BASE = spec.parse("tree:/nowhere")


@dataclass(frozen=True)
class Contains:
    """A symptom: the image or the configuration contains ``text``."""

    text: str
    label: str = "the text is present"
    exact: bool = True
    variants: tuple[str, ...] = ()

    def check(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:  # noqa: ARG002
        found = self.text in kernel.image.read_text() + kernel.config.read_text()
        return Observation("shown" if found else "clean", "")


def find(found: History, text: str, tmp_path: Path, terms: Terms | None = None) -> Conclusion:
    runner = GuestRunner(found, Contains(text), tmp_path / "runs")
    journal = Journal(tmp_path / "journal", runner)
    parameters = Parameters(found.endpoints, terms or Terms())
    searching = Search(found.repository, parameters, journal)
    return searching.find(lambda rev: history.WITHOUT + rev if found.without(rev) else "")


@dataclass(frozen=True)
class Tree:
    """A repository, its commits from the oldest on, and a directory for a search."""

    path: Path
    commits: list[str]
    into: Path

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(self.commits[-1], (self.commits[0],))

    def number(self, revision: str) -> int:
        return self.commits.index(revision)


TEXTS = ("one", "two", "thr ee", "three", "bug", "bug and more", "bug!", "bug and seven")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Commit 2 builds only with a fixup, commit 4 introduces the bug, commit 6 does not build."""
    path = fake_linux.write(tmp_path / "linux")
    git(path, "init", "-q")
    for number, text in enumerate(TEXTS):
        line = f"int {text.replace(' and ', '; int ')};\n" + "\n" * 9 + f"/* {number} */\n"
        (path / "drivers/iommu/iommu.c").write_text(line)
        git(path, "add", "-A")
        git(path, "commit", "-qm", f"change {number}")
    into = tmp_path / "search"
    into.mkdir()
    return Tree(path, git(path, "log", "--reverse", "--format=%H").split(), into)


def test_searching_a_git_history_leaves_the_repository_unchanged(
    tree: Tree, tmp_path: Path
) -> None:
    (tree.path / "Makefile").write_text("changed, and not committed")
    before = checkout_state(tree.path)
    found = history.revisions(tree.path, tree.endpoints, BASE, (), tree.into)
    assert ["uncommitted" in note for note in found.notes] == [True]
    conclusion = find(found, "bug", tmp_path)
    assert tree.number(conclusion.first_bad) == 4
    assert conclusion.reverted.startswith("does not build: ")  # a later change conflicts
    assert checkout_state(tree.path) == before


def test_a_fixup_repairs_revisions_that_do_not_build(tree: Tree, tmp_path: Path) -> None:
    fix = tmp_path / "fix.patch"
    fix.write_text(
        "--- a/drivers/iommu/iommu.c\n+++ b/drivers/iommu/iommu.c\n@@ -1,4 +1,4 @@\n"
        "-int thr ee;\n+int three;\n \n \n \n"
    )
    since, until = tree.commits[2], tree.commits[3]
    text = f"{since}..{until}:{fix}"
    fixups = [history.fixup(text, tree.path)]
    found = history.revisions(tree.path, tree.endpoints, BASE, fixups, tree.into)
    runner = GuestRunner(found, Contains("bug"), tmp_path / "runs")
    failures = [runner.build(rev).failure for rev in tree.commits]
    assert [bool(each) for each in failures] == [False] * 6 + [True, False]
    assert "error" in failures[6]
    assert runner.build(tree.commits[2]).artifact != runner.build(tree.commits[3]).artifact


def test_each_run_has_its_own_directory(tree: Tree, tmp_path: Path) -> None:
    """Repeated runs with the same number, as in a resumed search, have different directories."""
    found = history.revisions(tree.path, tree.endpoints, BASE, (), tree.into)
    runner = GuestRunner(found, Contains("bug"), tmp_path / "runs")
    runs = [runner.run(tree.commits[7], number) for number in (1, 1, 2)]
    assert [Path(each.directory).name[-2:] for each in runs] == ["-1", "-2", "-3"]


def test_prefetch_builds_expected_revisions_in_the_background(tree: Tree, tmp_path: Path) -> None:
    """A background build stops when its revision is no longer expected."""
    (tree.path / "drivers/slow").write_text("60\n")
    git(tree.path, "add", "-A")
    git(tree.path, "commit", "-qm", "slow")
    slow = git(tree.path, "rev-parse", "HEAD")
    found = history.revisions(tree.path, tree.endpoints, BASE, (), tree.into)
    runner = GuestRunner(found, Contains("bug"), tmp_path / "runs", prefetches=True)
    runner.prefetch(lambda: [tree.commits[1]])
    assert wait_until(lambda: any(built_kernels()), 120)
    runner.prefetch(lambda: [slow])
    assert wait_until(lambda: "sleep" in descendants(os.getpid()).values(), 120)
    assert not runner.build(tree.commits[1]).failure
    assert wait_until(no_child_is_running), descendants(os.getpid())
    runner.prefetch(lambda: [slow])
    runner.close()
    assert wait_until(no_child_is_running), descendants(os.getpid())


def no_child_is_running() -> bool:
    return not descendants(os.getpid())


def built_kernels() -> list[Path]:
    return list((paths.cache() / "kernel").glob("*/kernel.json"))


def test_gitbisect_predicts_the_next_revision_for_each_verdict(tree: Tree) -> None:
    found = history.revisions(tree.path, tree.endpoints, BASE, (), tree.into)
    for side in (0, 1):
        bisect = GitBisect(found.repository, found.endpoints, Terms())
        expected = bisect.predictions()[side]
        assert bisect.mark(("new", "old")[side], bisect.position.next).next == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("/nope", "cannot read /nope: no such file"), ("nope..:{}", "has no revision 'nope'")],
)
def test_fixup_rejects_a_missing_patch_and_an_unknown_revision(
    tree: Tree, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "fix").write_text("")
    with pytest.raises(UsageError, match=message):
        history.fixup(text.format(tmp_path / "fix"), tree.path)


def test_revisions_rejects_endpoints_without_a_common_commit(tree: Tree) -> None:
    git(tree.path, "checkout", "-q", "--orphan", "other")
    git(tree.path, "commit", "-qm", "other")
    other = git(tree.path, "rev-parse", "HEAD")
    with pytest.raises(UsageError, match="have no common ancestor"):
        history.revisions(tree.path, Endpoints(tree.commits[-1], (other,)), BASE, (), tree.into)


def test_bisect_suggests_unshallow_if_an_endpoint_is_missing_from_a_shallow_clone(
    tree: Tree, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth=2", f"file://{tree.path}", str(clone))
    words = ("bisect", "pinning", "--tree", clone, "--bad", "HEAD", "--good", tree.commits[0])
    done = command.run(*words)
    assert done.status == 2
    assert "fetch --unshallow" in done.err
    assert not list((tmp_path / "state").rglob("*bisect*"))
    endpoints = Endpoints(tree.commits[-1], (tree.commits[-2],))
    assert history.revisions(clone, endpoints, BASE, (), tree.into).endpoints == endpoints


def series(tmp_path: Path) -> Path:
    """Create an mbox with five patches; the third introduces the bug."""
    path = fake_linux.write(tmp_path / "series-tree")
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "base")
    for number in range(1, 6):
        file = path / f"drivers/iommu/{number}.c"
        file.write_text(f"int patch_{number};\n")
        if number == 3:
            (path / "drivers/iommu/iommu.c").write_text("int one; int bug;\n")
        git(path, "add", "-A")
        git(path, "commit", "-qm", f"change {number}")
    mbox = tmp_path / "series.mbox"
    mbox.write_text(git(path, "format-patch", "--stdout", "HEAD~5") + "\n")
    return mbox


def test_bisecting_a_series_finds_the_patch(tmp_path: Path) -> None:
    base = spec.parse(f"tree:{fake_linux.write(tmp_path / 'base')}")
    into = tmp_path / "search"
    into.mkdir()
    found = history.patches(series(tmp_path), base, into)
    conclusion = find(found, "bug", tmp_path)
    assert found.name(conclusion.first_bad) == "3/5: change 3"
    assert conclusion.reverted.startswith("is good, symptom in 0 of ")


def test_bisecting_configurations_finds_the_option(tmp_path: Path) -> None:
    names = [f"OPTION_{number}" for number in range(40)]
    old, new = tmp_path / "old.config", tmp_path / "new.config"
    shared = "CONFIG_SHARED=y\n"
    old.write_text("\n" + shared + "".join(f"# CONFIG_{name} is not set\n" for name in names))
    new.write_text(shared + "".join(f"CONFIG_{name}=y\n" for name in names))
    root = fake_linux.write(tmp_path / "base")
    compiled = "cat drivers/iommu/iommu.c"
    makefile = fake_linux.MAKEFILE.replace(compiled, f"{compiled} $(O)/.config")
    (root / "Makefile").write_text(makefile)
    (root / "Kconfig").write_text("".join(f"config {name}\n" for name in (*names, "SHARED")))
    into = tmp_path / "search"
    into.mkdir()
    found = history.options(old, new, spec.parse(f"tree:{root}"), into)
    assert gitbisect.count(found.repository, found.endpoints) == 40
    conclusion = find(found, "CONFIG_OPTION_23=y", tmp_path)
    assert found.name(conclusion.first_bad) == "CONFIG_OPTION_23: n -> y"
    assert conclusion.reverted.startswith("is good")


def test_options_rejects_equal_configurations(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("CONFIG_A=y\n")
    new.write_text("\n# CONFIG_B is not set\nCONFIG_A=y\n")
    with pytest.raises(UsageError, match="have the same options"):
        history.options(old, new, BASE, tmp_path)


def test_patches_rejects_a_prebuilt_kernel(tmp_path: Path) -> None:
    base = spec.parse("prebuilt:/boot")
    with pytest.raises(UsageError, match="cannot be patched"):
        history.patches(series(tmp_path), base, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resmue", "/tmp"), "did you mean resume?"),
        (("report.mbox", "--releases"), "cannot read report.mbox: no such file"),
        (("pinning",), "no search space given; use one of --tree,"),
        (("pinning", "--tree", "."), "--tree requires both endpoints"),
        (("pinning", "--tree", "{}", "--good", "nope", "--bad", "HEAD"), "no revision 'nope'"),
        (("pinning", "--tree", "/", "--good", "a", "--bad", "b"), "/ is not a git repository"),
        (("pinning", "--tree", "{}", "--good", "HEAD", "--bad", "HEAD"), "there is no commit"),
        (("nope", "--tree", "{}", "--good", "HEAD~3", "--bad", "HEAD"), "unknown subject 'nope'"),
        (("--tree", "{}", "--good", "HEAD~3", "--bad", "HEAD"), "no symptom given; use one of"),
        (("pinning", "--releases", "--good", "debian:6.1", "--old", "debian:6.1"), "use one pair"),
        (
            ("pinning", "--boot", "--releases"),
            "more than one symptom: scenarios and --boot",
        ),
        (("pinning", "--releases", "--confidence", "2"), "must be at least 0.5 and below 1, not"),
        (
            ("--command", "a", "--matches", "(", "--tree", "{}", "--good", "HEAD~3", "--bad=HEAD"),
            "invalid regular expression '('",
        ),
        (("--command", "a", "--figure", "x", "--releases"), "--figure must be combined"),
        (("--matches", "a", "--splat", "b", "--releases"), "--splat and --matches are mut"),
        (("--hang", "--boot", "--releases"), "--hang requires --command"),
        (("--splat", "a", "--releases"), "--splat requires --command"),
        (("--command", "a", "--hang", "--splat", "b", "--releases"), "--splat and --hang are"),
        (("pinning", "--releases", "--frobnicate"), "No such option"),
        (("pinning", "--series", "x", "--path", "a"), "--path requires --tree"),
        (("pinning", "--kconfig", "a", "b", "--good", "a"), "--good requires --tree or --releases"),
        (
            ("--command", "a", "--figure", "(x)", "--above=1", "--below=2", "--releases"),
            "--above and --below are mutually exclusive",
        ),
        (
            ("pinning", "--tree", "{}", "--good", "HEAD~3", "--bad", "HEAD", "--path", "nope"),
            "there is no commit that changes nope between the endpoints",
        ),
        (("resume", "/nope"), "there is no bisection in /nope"),
        (("status", "/"), "there is no bisection in /"),
        (("log", "/"), "there is no bisection in /"),
    ],
)
def test_a_usage_error_prints_one_line_with_a_hint(
    arguments: tuple[str, ...], message: str, tree: Tree, tmp_path: Path
) -> None:
    done = command.run("bisect", *(each.format(tree.path) for each in arguments))
    assert done.status == 2, done.err
    assert message in done.err
    (line,) = done.err.splitlines()
    assert line.startswith("iommu-harness: ")
    assert "; " in line
    assert not list((tmp_path / "state").rglob("*bisect*"))
