# SPDX-License-Identifier: GPL-2.0-only
"""``git bisect`` itself, in a repository of ours without files: its choice of the next
revision, its log, its terms, its skipping.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import git

_FOUND = re.compile(r"^([0-9a-f]{40,64}) is the first .* commit$", re.MULTILINE)
_ONLY_SKIPPED = "There are only 'skip'ped commits left to test"
_HASH = re.compile(r"^[0-9a-f]{40,64}$", re.MULTILINE)

# bisect.c, check_merge_bases: exit status for a merge base on the wrong side.
_MERGE_BASE = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """What a user calls the revisions without and with the change: good and bad, old
    and new."""

    old: str = "good"
    new: str = "bad"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where to look: between revisions without the change, ``old``, and one with it,
    ``new``; only at changes of ``paths`` where some are given, along ``first_parent``."""

    new: str
    old: tuple[str, ...]
    paths: tuple[str, ...] = ()
    first_parent: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """Where git has got to: the ``next`` revision to judge, or the ``found`` one; else
    nothing but skipped ones are left, the ``candidates``."""

    next: str = ""
    found: str = ""
    candidates: tuple[str, ...] = ()


class GitBisect:
    """One search by git, in its ``repository``. Its terms are always git's own words; a
    user's are for what is printed."""

    def __init__(self, repository: Path, ends: Endpoints, terms: Terms) -> None:
        self._repository = repository
        self._ends = ends
        self._terms = terms
        # git wants a HEAD to go back to.
        git.run(repository, "update-ref", "--no-deref", "HEAD", ends.new)
        self._run("reset")
        options = [f"--term-old={terms.old}", f"--term-new={terms.new}", "--no-checkout"]
        options += _options(ends)
        self.position = self._told("start", *options, ends.new, *ends.old, "--", *ends.paths)

    def mark(self, term: str, revision: str) -> Position:
        """Says ``old``, ``new`` or ``skip`` of a revision; where that leads to."""
        words = {"old": self._terms.old, "new": self._terms.new}
        self.position = self._told(words.get(term, term), revision)
        return self.position

    @property
    def left(self) -> int:
        """How many revisions may still be the one."""
        new, olds = self._known()
        ends = replace(self._ends, new=new, old=tuple(olds))
        return count(self._repository, ends)

    def ahead(self) -> list[str]:
        """The revisions that git would want next: where this one is new, and where it is
        old. Skipped ones are not thought of."""
        new, olds = self._known()
        now = self.position.next
        either = (self._middle(now, olds), self._middle(new, [*olds, now]))
        return [each for each in either if each]

    def _middle(self, new: str, olds: Sequence[str]) -> str:
        # rev-list --bisect takes the references of a search under way too.
        aside = self._repository.with_name(f"{self._repository.name}-ahead")
        if not aside.exists():
            git.borrowing(self._repository, aside)
        words = ["rev-list", "--bisect", *_options(self._ends), new]
        words += [f"^{each}" for each in olds]
        return git.run(aside, *words, "--", *self._ends.paths)

    def _known(self) -> tuple[str, list[str]]:
        """The hashes of the new end and the old ones, as far as git has moved them."""
        form = "--format=%(objectname) %(refname)"
        listed = git.run(self._repository, "for-each-ref", form, "refs/bisect")
        refs = {name: key for key, name in (line.split() for line in listed.splitlines())}
        olds = [key for name, key in refs.items() if f"/{self._terms.old}-" in name]
        return refs[f"refs/bisect/{self._terms.new}"], olds

    @property
    def log(self) -> str:
        """git's own log, which ``git bisect replay`` takes."""
        return self._run("log")

    def _run(self, *words: str) -> str:
        return git.run(self._repository, "bisect", *words)

    def _told(self, *words: str) -> Position:
        try:
            said = self._run(*words)
        except ProgramFailed as failure:
            return self._stopped(failure)
        if found := _FOUND.search(said):
            return Position(found=found[1])
        return Position(next=git.run(self._repository, "rev-parse", "--verify", "BISECT_HEAD"))

    def _stopped(self, failure: ProgramFailed) -> Position:
        if _ONLY_SKIPPED in failure.output:
            return Position(candidates=tuple(_HASH.findall(failure.output)))
        if failure.status == _MERGE_BASE:
            raise UsageError(
                f"the revisions are on two branches, and where they part it is"
                f" {self._terms.new} already: {_gist(failure)}",
                "that was changed on the way to the other end: look for that change",
            )
        raise HostError(f"git bisect: {_gist(failure)}")


def _gist(failure: ProgramFailed) -> str:
    lines = [line for line in failure.output.splitlines() if line.strip()]
    return " ".join(lines[:3]) or failure.message


def contains(repository: Path, revision: str, other: str) -> bool:
    """Whether the revision has the other one in its history, or is it."""
    try:
        git.run(repository, "merge-base", "--is-ancestor", other, revision)
    except ProgramFailed as failure:
        if failure.status == 1:
            return False
        raise
    return True


def parents(repository: Path, revision: str) -> list[str]:
    return git.run(repository, "rev-list", "--parents", "-1", revision).split()[1:]


def subject(repository: Path, revision: str) -> str:
    found = git.run(repository, "log", "-1", "--format=%s", revision)
    return found.encode(errors="surrogateescape").decode(errors="replace")


def count(repository: Path, ends: Endpoints) -> int:
    """How many revisions may be the one."""
    olds = [f"^{each}" for each in ends.old]
    words = ["rev-list", "--count", *_options(ends), ends.new, *olds, "--", *ends.paths]
    return int(git.run(repository, *words))


def _options(ends: Endpoints) -> list[str]:
    return ["--first-parent"] if ends.first_parent else []
