# SPDX-License-Identifier: GPL-2.0-only
"""Histories that git can bisect: the commits of a repository, or a linear history of empty
commits for the patches of a series, Debian's kernels or the options of a configuration.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bisect import gitbisect
from harness.bisect.gitbisect import Endpoints
from harness.errors import ProgramFailed, UsageError
from harness.host import git, paths
from harness.kernel import config, debian_source, git_source, series
from harness.kernel.config import Option
from harness.kernel.spec import KernelSpec

# Before the name of a revision, this prefix means the new endpoint without that revision.
WITHOUT = "without-"

_FIXUP = re.compile(r"(?P<since>[^:]*?)\.\.(?P<until>[^:]*?):(?P<file>.+)")


@dataclass(frozen=True, slots=True)
class History:
    """A history to bisect.

    ``repository``: a git repository that is private to the search.
    ``noun``: the noun for a revision in messages: commit, patch, release or option.
    ``spec``: returns the kernel of a revision.
    ``without``: returns the kernel of the new endpoint without a revision, or None if there is
    no such kernel.
    ``name``: returns the name of a revision in messages.
    ``notes``: remarks for the user.
    """

    repository: Path
    endpoints: Endpoints
    noun: str
    spec: Callable[[str], KernelSpec]
    without: Callable[[str], KernelSpec | None]
    name: Callable[[str], str]
    notes: tuple[str, ...] = ()

    def kernel(self, revision: str) -> KernelSpec:
        """The kernel of a revision or, if its name has the prefix ``WITHOUT``, of the new
        endpoint without the revision."""
        if not revision.startswith(WITHOUT):
            return self.spec(revision)
        found = self.without(revision.removeprefix(WITHOUT))
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Fixup:
    """A patch for every revision that contains ``since`` but not ``until``. Either may be "" for no
    bound."""

    patch: Path
    since: str = ""
    until: str = ""


def fixup(text: str, repository: Path | None) -> Fixup:
    """Parse an argument of --fixup: FILE, or SINCE..UNTIL:FILE. Raises UsageError if the file or
    a revision does not exist."""
    match = _FIXUP.fullmatch(text)
    bounds = (match["since"], match["until"]) if match else ("", "")
    if any(bounds) and repository is None:
        raise UsageError(
            f"--fixup {text}: a range of revisions requires --tree", "give FILE without a range"
        )
    file = Path(match["file"] if match else text)
    if not file.is_file():
        reason = paths.not_a_file(file)
        raise UsageError(
            f"cannot read {file}: {reason}", "write --fixup FILE or --fixup SINCE..UNTIL:FILE"
        )
    since, until = (
        git_source.commit_of(repository, each) if each and repository else "" for each in bounds
    )
    return Fixup(file, since, until)


def revisions(
    tree: Path, endpoints: Endpoints, base: KernelSpec, fixups: Sequence[Fixup], into: Path
) -> History:
    """The history of the commits between ``endpoints`` in the git repository ``tree``.

    The endpoints are hashes. ``tree`` is not modified; files are created in the directory
    ``into``. Raises UsageError if the endpoints have no common ancestor, or if there is no
    commit between them.
    """
    repository = into / "git"
    if not repository.exists():
        git.create_with_alternates(tree, repository)
    for old in endpoints.old:
        _check_related(tree, repository, endpoints.new, old)
    if not gitbisect.count(repository, endpoints):
        where = f" that changes {', '.join(endpoints.paths)}" if endpoints.paths else ""
        raise UsageError(
            f"there is no commit{where} between the endpoints",
            "choose endpoints that are further apart",
        )
    top = into / "reverts"
    top.mkdir(exist_ok=True)

    def kernel(revision: str) -> KernelSpec:
        patches = [each.patch for each in fixups if _applies(repository, each, revision)]
        return replace(
            base, kind="git", where=f"{tree}@{revision}", patches=(*base.patches, *patches)
        )

    def without(revision: str) -> KernelSpec | None:
        if len(gitbisect.parents(repository, revision)) != 1:
            return None
        patch = top / f"revert-{revision[:12]}.patch"
        words = ["diff", "--no-ext-diff", "--no-textconv", "--binary", f"--output={patch}"]
        git.run(repository, *words, revision, f"{revision}^")
        new = kernel(endpoints.new)
        return replace(new, patches=(*new.patches, patch)) if patch.stat().st_size else None

    return History(
        repository,
        endpoints,
        "commit",
        kernel,
        without,
        lambda revision: _named(repository, revision),
        tuple(_notes(tree, repository, endpoints)),
    )


def _check_related(tree: Path, repository: Path, new: str, old: str) -> None:
    try:
        git.run(repository, "merge-base", new, old)
    except ProgramFailed:
        what = f"{new[:12]} and {old[:12]} have no common ancestor"
        if git.run(tree, "rev-parse", "--is-shallow-repository") == "true":
            raise git_source.missing_error(tree, what) from None
        raise UsageError(what, "choose endpoints with a common history") from None


def _notes(tree: Path, repository: Path, endpoints: Endpoints) -> list[str]:
    notes = [
        f"{old[:12]} is not an ancestor of {endpoints.new[:12]}: git tests their merge base first"
        for old in endpoints.old
        if not gitbisect.contains(repository, endpoints.new, old)
    ]
    if git.run(tree, "rev-parse", "--is-bare-repository") == "false" and git.run(
        tree, "diff-files", "--name-only", "--ignore-submodules"
    ):
        notes.append(f"{tree} has uncommitted changes, which are ignored")
    return notes


def _applies(repository: Path, each: Fixup, revision: str) -> bool:
    if each.since and not gitbisect.contains(repository, revision, each.since):
        return False
    return not (each.until and gitbisect.contains(repository, revision, each.until))


def _named(repository: Path, revision: str) -> str:
    return f"{revision[:12]} {gitbisect.subject(repository, revision)}"


def patches(file: Path, base: KernelSpec, into: Path) -> History:
    """The history of a patch series on top of the kernel ``base``: the old endpoint is the
    kernel without the series, the new endpoint the kernel with all patches. Raises UsageError
    if ``base`` is prebuilt."""
    _check_source(base)
    found = series.read(file)
    files = []
    for number, patch in enumerate(found, start=1):
        path = into / "series" / f"{number:04}.patch"
        _write_once(path, patch.text)
        files.append(path)
    titles = [each.title or each.name for each in found]
    names = [f"{number}/{len(found)}: {title}" for number, title in enumerate(titles, start=1)]

    def kernel(number: int) -> KernelSpec:
        return replace(base, patches=(*base.patches, *files[:number]))

    def without(number: int) -> KernelSpec | None:
        others = [each for each in files if each != files[number - 1]]
        return replace(base, patches=(*base.patches, *others))

    return _line("patch", [f"{base} without the series", *names], kernel, without, into)


def _check_source(base: KernelSpec) -> None:
    if base.kind == "prebuilt":
        raise UsageError(
            "a prebuilt kernel cannot be patched or configured",
            "use a kernel that is built from source",
        )


def _write_once(path: Path, data: bytes) -> None:
    """Write the file atomically, unless it exists: a resumed search reuses it."""
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)


def releases(kernels: Sequence[KernelSpec], into: Path) -> History:
    """The history of Debian kernels, from the oldest to the newest. Raises UsageError if there
    are fewer than two."""
    if len(kernels) < 2:
        raise UsageError(
            "bisect requires at least two releases",
            "choose an older and a newer version as endpoints",
        )
    names = [str(each) for each in kernels]
    return _line("release", names, lambda number: kernels[number], lambda _number: None, into)


def debian_between(old: str, new: str) -> list[str]:
    """The specs of Debian's kernels from ``old`` to ``new``. "" is the oldest kernel for
    ``old``, the newest for ``new``. Raises UsageError if either is not one of them."""
    known = debian_source.versions()
    texts = [f"debian:{version}" for version in known]
    endpoints = [old or texts[0], new or texts[-1]]
    endpoints = [texts[-1] if each == "debian:newest" else each for each in endpoints]
    for each in endpoints:
        if each not in texts:
            raise UsageError(f"unknown Debian kernel {each!r}", f"use one of {', '.join(texts)}")
    return texts[texts.index(endpoints[0]) : texts.index(endpoints[1]) + 1]


def options(old: Path, new: Path, base: KernelSpec, into: Path) -> History:
    """The history of the options that differ between two configurations.

    They are in the order of the new configuration, which is Kconfig's: an option follows the
    options that it depends on. Raises UsageError if ``base`` is prebuilt, or if the
    configurations do not differ.
    """
    _check_source(base)
    before, after = (_configuration(each) for each in (old, new))
    either = list(dict.fromkeys((*after, *before)))
    names = [name for name in either if _value(before, name) != _value(after, name)]
    if not names:
        raise UsageError(
            f"{old.name} and {new.name} have the same options", "give two different configurations"
        )
    differing = set(names)
    shared = [each.line for name, each in after.items() if name not in differing]

    def configured(changed: set[str], name: str) -> KernelSpec:
        lines = [config.WHERE_IT_CAN_BE_HAD, *shared]
        lines += [_option(after if each in changed else before, each).line for each in names]
        path = into / "configs" / f"{name}.config"
        _write_once(path, ("\n".join(lines) + "\n").encode())
        return replace(base, fragments=(*base.fragments, path))

    def kernel(number: int) -> KernelSpec:
        return configured(set(names[:number]), f"{number:04}")

    def without(number: int) -> KernelSpec | None:
        left_out = names[number - 1]
        return configured(differing - {left_out}, f"without-{left_out}")

    titles = [f"CONFIG_{each}: {_value(before, each)} -> {_value(after, each)}" for each in names]
    return _line("option", [f"options of {old.name}", *titles], kernel, without, into)


def _configuration(path: Path) -> dict[str, Option]:
    try:
        return {each.name: each for each in config.read(path)}
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "give a kernel configuration"
        ) from None


def _option(options: dict[str, Option], name: str) -> Option:
    return options.get(name) or Option(name, "n", "")


def _value(options: dict[str, Option], name: str) -> str:
    return _option(options, name).value


def _line(
    noun: str,
    names: Sequence[str],
    kernel: Callable[[int], KernelSpec],
    without: Callable[[int], KernelSpec | None],
    into: Path,
) -> History:
    """A linear history with one commit for each name, from the old endpoint to the new one.
    ``kernel`` and ``without`` are called with the number of a revision, from 0."""
    repository = into / "git"
    if repository.exists():
        commits = git.run(repository, "rev-list", "--reverse", "refs/heads/line").splitlines()
    else:
        commits = git.create_linear_history(names, repository)
    numbers = {commit: number for number, commit in enumerate(commits)}
    return History(
        repository,
        Endpoints(commits[-1], (commits[0],)),
        noun,
        lambda revision: kernel(numbers[revision]),
        lambda revision: without(numbers[revision]),
        lambda revision: names[numbers[revision]],
    )
