# SPDX-License-Identifier: GPL-2.0-only
"""``git bisect``, run in a private repository without a work tree. git chooses the next
revision, writes the log, and handles the terms and the skipped revisions.
"""

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import git

_FOUND = re.compile(r"^([0-9a-f]{40,64}) is the first .* commit$", re.MULTILINE)
_ONLY_SKIPPED = "There are only 'skip'ped commits left to test"
_HASH = re.compile(r"^[0-9a-f]{40,64}$", re.MULTILINE)

# bisect.c, check_merge_bases: the exit status of git bisect if a merge base is already new.
_MERGE_BASE = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """The user's terms for revisions without and with the change: good and bad, or old and
    new."""

    old: str = "good"
    new: str = "bad"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a search.

    ``new``: the revision with the change.
    ``old``: the revisions without the change.
    ``paths``: unless empty, only commits that change these paths are candidates.
    ``first_parent``: whether only the first parent of a merge commit is followed.
    """

    new: str
    old: tuple[str, ...]
    paths: tuple[str, ...] = ()
    first_parent: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """The state of a bisection: the ``next`` revision to test, or the first new revision
    ``found``, or the ``candidates`` if only skipped revisions are left."""

    next: str = ""
    found: str = ""
    candidates: tuple[str, ...] = ()


class GitBisect:
    """One bisection of the history in ``repository``. git is started with the user's terms; callers
    use ``old``, ``new`` and ``skip``.

    git bisects in a repository of its own, which shares the objects. The git process of a killed
    search may still be running when the search is resumed, and may hold locks or leave them behind.
    """

    def __init__(self, repository: Path, endpoints: Endpoints, terms: Terms) -> None:
        self._history = repository
        self._repository = repository = _private(repository)
        self._endpoints = endpoints
        self._terms = terms
        # git bisect start requires a HEAD that it can return to.
        git.run(repository, "update-ref", "--no-deref", "HEAD", endpoints.new)
        self._run("reset")
        options = [f"--term-old={terms.old}", f"--term-new={terms.new}", "--no-checkout"]
        options += _options(endpoints)
        words = [*options, endpoints.new, *endpoints.old, "--", *endpoints.paths]
        self.position = self._advance("start", *words)

    def mark(self, verdict: str, revision: str) -> Position:
        """Mark the revision ``old``, ``new`` or ``skip``, and return the new position."""
        terms = {"old": self._terms.old, "new": self._terms.new}
        self.position = self._advance(terms.get(verdict, verdict), revision)
        return self.position

    @property
    def left(self) -> int:
        """The number of candidates left."""
        new, olds = self._bounds()
        return count(self._repository, replace(self._endpoints, new=new, old=tuple(olds)))

    def predictions(self) -> list[str]:
        """The revisions that git will choose next if the current revision is new, and if it is
        old. Skipped revisions are not considered."""
        new, olds = self._bounds()
        now = self.position.next
        either = (self._middle(now, olds), self._middle(new, [*olds, now]))
        return [each for each in either if each]

    def _middle(self, new: str, olds: Sequence[str]) -> str:
        words = ["rev-list", "--bisect", *_options(self._endpoints), new]
        words += [f"^{each}" for each in olds]
        # rev-list --bisect also reads refs/bisect, which the history does not have.
        return git.run(self._history, *words, "--", *self._endpoints.paths)

    def _bounds(self) -> tuple[str, list[str]]:
        """The hashes of the current new bound and of the old bounds (refs/bisect)."""
        form = "--format=%(objectname) %(refname)"
        listed = git.run(self._repository, "for-each-ref", form, "refs/bisect")
        refs = {name: key for key, name in (line.split() for line in listed.splitlines())}
        olds = [key for name, key in refs.items() if f"/{self._terms.old}-" in name]
        return refs[f"refs/bisect/{self._terms.new}"], olds

    @property
    def log(self) -> str:
        """The output of ``git bisect log``, which ``git bisect replay`` reads."""
        return self._run("log")

    def _run(self, *words: str) -> str:
        return git.run(self._repository, "bisect", *words)

    def _advance(self, *words: str) -> Position:
        try:
            printed = self._run(*words)
        except ProgramFailed as failure:
            return self._stopped(failure)
        if found := _FOUND.search(printed):
            return Position(found=found[1])
        return Position(next=git.run(self._repository, "rev-parse", "--verify", "BISECT_HEAD"))

    def _stopped(self, failure: ProgramFailed) -> Position:
        if _ONLY_SKIPPED in failure.output:
            return Position(candidates=tuple(_HASH.findall(failure.output)))
        if failure.status == _MERGE_BASE:
            raise UsageError(
                f"the {self._terms.old} endpoint is not an ancestor of the {self._terms.new}"
                f" endpoint, and their merge base is already {self._terms.new}: {_gist(failure)}",
                f"give the merge base as --old and the {self._terms.old} endpoint as --new",
            )
        raise HostError(f"git bisect failed: {_gist(failure)}")


_PRIVATE = "bisecting-"


def repository_in(directory: Path) -> Path | None:
    """The repository in which git bisects, or None if the bisection has not begun."""
    return next((log.parent for log in directory.glob(f"{_PRIVATE}*/BISECT_LOG")), None)


def _private(repository: Path) -> Path:
    """Create a new repository for a bisection, and remove those of earlier searches."""
    for old in repository.parent.glob(f"{_PRIVATE}*"):
        shutil.rmtree(old, ignore_errors=True)
    into = repository.with_name(f"{_PRIVATE}{secrets.token_hex(4)}")
    git.create_with_alternates(repository, into)
    return into


def _gist(failure: ProgramFailed) -> str:
    lines = [line for line in failure.output.splitlines() if line.strip()]
    return " ".join(lines[:3]) or failure.message


def contains(repository: Path, revision: str, other: str) -> bool:
    """Whether ``other`` is the revision or one of its ancestors."""
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


def count(repository: Path, endpoints: Endpoints) -> int:
    """The number of candidates between the endpoints."""
    olds = [f"^{each}" for each in endpoints.old]
    words = ["rev-list", "--count", *_options(endpoints), endpoints.new, *olds]
    return int(git.run(repository, *words, "--", *endpoints.paths))


def _options(endpoints: Endpoints) -> list[str]:
    return ["--first-parent"] if endpoints.first_parent else []
