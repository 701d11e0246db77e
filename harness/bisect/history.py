# SPDX-License-Identifier: GPL-2.0-only
"""What can be searched, each as a line or graph of commits that git can bisect: the
revisions of a repository, the patches of a series, Debian's kernels, the options of a
configuration.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bisect import gitbisect
from harness.bisect.gitbisect import Endpoints
from harness.errors import ProgramFailed, UsageError
from harness.host import git
from harness.kernel import config, debian_source, git_source, series
from harness.kernel.config import Option
from harness.kernel.spec import KernelSpec

# How the new end without a revision is called, beside the revisions themselves.
WITHOUT = "without-"

_FIXUP = re.compile(r"(?P<since>[^:]*?)\.\.(?P<until>[^:]*?):(?P<file>.+)")


@dataclass(frozen=True, slots=True)
class History:
    """``repository`` is ours, for git bisect; ``spec`` says which kernel a revision is,
    ``without`` the one of the new end without that revision (None where there is no such
    thing), ``name`` what people call it. ``notes`` are for the user."""

    repository: Path
    ends: Endpoints
    spec: Callable[[str], KernelSpec]
    without: Callable[[str], KernelSpec | None]
    name: Callable[[str], str]
    notes: tuple[str, ...] = ()

    def kernel(self, revision: str) -> KernelSpec:
        """The kernel of a revision, or of the new end without one."""
        if not revision.startswith(WITHOUT):
            return self.spec(revision)
        found = self.without(revision.removeprefix(WITHOUT))
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Fixup:
    """A patch that every revision needs which has ``since`` in its history and not yet
    ``until``; "" is no bound."""

    patch: Path
    since: str = ""
    until: str = ""


def fixup(text: str, repository: Path | None) -> Fixup:
    """What a user writes: FILE, or SINCE..UNTIL:FILE. Raises UsageError for what is not
    there."""
    match = _FIXUP.fullmatch(text)
    bounds = (match["since"], match["until"]) if match else ("", "")
    if any(bounds) and repository is None:
        raise UsageError(f"--fixup {text}: only a git history has revisions", "name the file alone")
    file = Path(match["file"] if match else text)
    if not file.is_file():
        raise UsageError(f"no such patch: {file}", "write FILE, or SINCE..UNTIL:FILE")
    since, until = (
        git_source.commit_of(repository, each) if each and repository else "" for each in bounds
    )
    return Fixup(file, since, until)


def revisions(
    tree: Path, ends: Endpoints, base: KernelSpec, fixups: Sequence[Fixup], into: Path
) -> History:
    """Those of a git repository, of which only objects are read; ``ends`` are hashes.
    Raises UsageError for ends that have nothing to do with each other."""
    ours = into / "git"
    if not ours.exists():
        git.borrowing(tree, ours)
    for old in ends.old:
        _check_related(tree, ours, ends.new, old)
    if not gitbisect.count(ours, ends):
        where = f" that changes {', '.join(ends.paths)}" if ends.paths else ""
        raise UsageError(f"there is no revision{where} between the ends", "name others")
    top = into / "reverts"
    top.mkdir(exist_ok=True)

    def kernel(revision: str) -> KernelSpec:
        wanted = [each.patch for each in fixups if _applies(ours, each, revision)]
        return replace(
            base, kind="git", where=f"{tree}@{revision}", patches=(*base.patches, *wanted)
        )

    def without(revision: str) -> KernelSpec | None:
        if len(gitbisect.parents(ours, revision)) != 1:
            return None
        patch = top / f"revert-{revision[:12]}.patch"
        words = ["diff", "--no-ext-diff", "--no-textconv", "--binary", f"--output={patch}"]
        git.run(ours, *words, revision, f"{revision}^")
        end = kernel(ends.new)
        return replace(end, patches=(*end.patches, patch)) if patch.stat().st_size else None

    return History(
        ours, ends, kernel, without, lambda rev: _named(ours, rev), tuple(_notes(tree, ours, ends))
    )


def _check_related(tree: Path, ours: Path, new: str, old: str) -> None:
    try:
        git.run(ours, "merge-base", new, old)
    except ProgramFailed:
        what = f"{new[:12]} and {old[:12]} have no commit in common"
        if git.run(tree, "rev-parse", "--is-shallow-repository") == "true":
            raise git_source.missing(tree, what) from None
        raise UsageError(what, "name two revisions of one history") from None


def _notes(tree: Path, ours: Path, ends: Endpoints) -> list[str]:
    notes = [
        f"{old[:12]} is not in the history of {ends.new[:12]}: git looks first where they part"
        for old in ends.old
        if not gitbisect.contains(ours, ends.new, old)
    ]
    if git.run(tree, "rev-parse", "--is-bare-repository") == "false" and git.run(
        tree, "diff-files", "--name-only", "--ignore-submodules"
    ):
        notes.append(f"{tree} has changes that are not committed: they are left, and out of this")
    return notes


def _applies(repository: Path, each: Fixup, revision: str) -> bool:
    if each.since and not gitbisect.contains(repository, revision, each.since):
        return False
    return not (each.until and gitbisect.contains(repository, revision, each.until))


def _named(repository: Path, revision: str) -> str:
    return f"{revision[:12]} {gitbisect.subject(repository, revision)}"


def patches(file: Path, base: KernelSpec, into: Path) -> History:
    """Those of a series on top of a kernel: the old end has none, the new one all."""
    _check_source(base)
    found = series.read(file)
    files = []
    for number, patch in enumerate(found, start=1):
        path = into / "series" / f"{number:04}.patch"
        _written(path, patch.text)
        files.append(path)
    titles = [each.title or each.name for each in found]
    names = [f"{number}/{len(found)}: {title}" for number, title in enumerate(titles, start=1)]

    def kernel(number: int) -> KernelSpec:
        return replace(base, patches=(*base.patches, *files[:number]))

    def without(number: int) -> KernelSpec | None:
        others = [each for each in files if each != files[number - 1]]
        return replace(base, patches=(*base.patches, *others))

    return _line([f"{base} without the series", *names], kernel, without, into)


def _check_source(base: KernelSpec) -> None:
    if base.kind == "prebuilt":
        raise UsageError(
            "a prebuilt kernel cannot be patched or configured", "name one with its source"
        )


def _written(path: Path, data: bytes) -> None:
    """Once, and whole: a search that goes on finds it there."""
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)


def releases(kernels: Sequence[KernelSpec], into: Path) -> History:
    """One Debian kernel after the other."""
    if len(kernels) < 2:
        raise UsageError("a search needs two releases at least", "name two of different versions")
    return _line([str(each) for each in kernels], lambda at: kernels[at], lambda _at: None, into)


def debian_between(old: str, new: str) -> list[str]:
    """The Debian kernels from one to the other, "" for the oldest or newest."""
    known = debian_source.versions()
    texts = [f"debian:{version}" for version in known]
    ends = [old or texts[0], new or texts[-1]]
    ends = [texts[-1] if each == "debian:newest" else each for each in ends]
    for each in ends:
        if each not in texts:
            raise UsageError(f"{each} is no kernel of Debian's", f"there are {', '.join(texts)}")
    return texts[texts.index(ends[0]) : texts.index(ends[1]) + 1]


def options(old: Path, new: Path, base: KernelSpec, into: Path) -> History:
    """The options in which two configurations differ, in the order in which Kconfig has
    them in the new one: an option comes after what it depends on."""
    _check_source(base)
    before, after = (_configuration(each) for each in (old, new))
    either = list(dict.fromkeys((*after, *before)))
    names = [name for name in either if _value(before, name) != _value(after, name)]
    if not names:
        raise UsageError(f"{old.name} and {new.name} say the same", "name two that differ")
    differing = set(names)
    shared = [each.line for name, each in after.items() if name not in differing]

    def configured(changed: set[str], name: str) -> KernelSpec:
        lines = [config.WHERE_IT_CAN_BE_HAD, *shared]
        lines += [_option(after if each in changed else before, each).line for each in names]
        path = into / "configs" / f"{name}.config"
        _written(path, ("\n".join(lines) + "\n").encode())
        return replace(base, fragments=(*base.fragments, path))

    def kernel(number: int) -> KernelSpec:
        return configured(set(names[:number]), f"{number:04}")

    def without(number: int) -> KernelSpec | None:
        left_out = names[number - 1]
        return configured(differing - {left_out}, f"without-{left_out}")

    titles = [f"CONFIG_{each}: {_value(before, each)} -> {_value(after, each)}" for each in names]
    return _line([f"as {old.name}", *titles], kernel, without, into)


def _configuration(path: Path) -> dict[str, Option]:
    try:
        return {each.name: each for each in config.read(path)}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "name a .config") from None


def _option(options: dict[str, Option], name: str) -> Option:
    return options.get(name) or Option(name, "n", "")


def _value(options: dict[str, Option], name: str) -> str:
    return _option(options, name).value


def _line(
    names: Sequence[str],
    kernel: Callable[[int], KernelSpec],
    without: Callable[[int], KernelSpec | None],
    into: Path,
) -> History:
    """A history of our own making, with a commit for each name; the first is the old end,
    the last the new one. What each is, and what the new end is without it, is asked by
    number."""
    ours = into / "git"
    if ours.exists():
        commits = git.run(ours, "rev-list", "--reverse", "refs/heads/line").splitlines()
    else:
        commits = git.line_of_commits(names, ours)
    number = {commit: at for at, commit in enumerate(commits)}
    return History(
        ours,
        Endpoints(commits[-1], (commits[0],)),
        lambda revision: kernel(number[revision]),
        lambda revision: without(number[revision]),
        lambda revision: names[number[revision]],
    )
