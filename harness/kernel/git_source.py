# SPDX-License-Identifier: GPL-2.0-only
"""``git:DIR@REV``: a revision of a git repository.

The repository is only read: no file of the checkout, no index and no reference is changed, and
nothing is fetched. All revisions of a repository share one work tree, so a build of another
revision changes only the files that differ.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import cache, git, paths
from harness.host.manifest import Manifest
from harness.kernel import source, subject
from harness.kernel.source import Source

_SUBMODULE = "160000"


def source_of(where: str) -> Source:
    """The source of ``where`` (DIR@REV). Raises UsageError if DIR is not a repository, if REV is
    not a Linux tree, or if REV is missing, for example because the clone is shallow or partial."""
    repository, revision = _split(where)
    commit = commit_of(repository, revision)
    tree = git.run(repository, "rev-parse", "--verify", f"{commit}^{{tree}}")
    _check(repository, revision, tree)
    common = git.run(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Source(
        label=f"git:{repository}@{revision} ({commit[:12]})",
        identity=tree,
        worktree=f"git-{cache.digest(common)}",
        version=source.version(git.run(repository, "cat-file", "blob", f"{tree}:Makefile")),
        manifest=lambda: _manifest(repository, revision, tree),
        export=lambda names, into: _export(repository, revision, tree, names, into),
        current_identity=lambda: tree,
    )


def by_hash(where: str) -> str:
    """The kernel spec, with the hash of the commit in place of REV. Raises UsageError if there is
    no repository or no such revision."""
    repository, revision = _split(where)
    return f"git:{repository}@{commit_of(repository, revision)}"


def _split(where: str) -> tuple[Path, str]:
    """Split DIR@REV, where both may contain "@", after the first DIR that is a repository,
    otherwise after the first DIR that is a directory."""
    parts = [(where[:at], where[at + 1 :]) for at, each in enumerate(where) if each == "@"]
    places = [(paths.absolute(a), b) for a, b in parts if a and b and paths.absolute(a).is_dir()]
    if not places:
        raise UsageError(
            f"invalid kernel git:{where}: DIR does not exist, or @REV is missing",
            "write git:DIR@REV, for example git:.@v6.12",
        )
    tops = [place for place in places if (place[0] / ".git").exists() or _is_bare(place[0])]
    return (tops or places)[0]


def _is_bare(directory: Path) -> bool:
    return (directory / "HEAD").is_file() and (directory / "objects").is_dir()


def commit_of(repository: Path, revision: str) -> str:
    """The hash of the commit that ``revision`` names. Raises UsageError if ``repository`` is not a
    git repository or does not have the commit, with a hint for shallow and partial clones."""
    try:
        git.run(repository, "rev-parse", "--git-dir")
    except ProgramFailed:
        raise UsageError(
            f"{repository} is not a git repository", "for source without git, use tree:DIR"
        ) from None
    try:
        query = ["--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
        # Older versions of git print --end-of-options too.
        return git.run(repository, "rev-parse", *query).splitlines()[-1]
    except ProgramFailed:
        raise missing_error(repository, f"{repository} has no revision {revision!r}") from None


def missing_error(repository: Path, what: str) -> UsageError:
    """The error for an object that the repository lacks, with the command that fetches it."""
    if git.run(repository, "rev-parse", "--is-shallow-repository") == "true":
        hint = f"the clone is shallow: run git -C {repository} fetch --unshallow"
        return UsageError(what, hint)
    if _is_partial(repository):
        return UsageError(
            what, f"the clone is partial: run git -C {repository} fetch --refetch --no-filter"
        )
    return UsageError(what, "use a commit, a tag or a branch of this repository")


def _is_partial(repository: Path) -> bool:
    try:
        return bool(git.run(repository, "config", "--get-regexp", r"remote\..*\.promisor"))
    except ProgramFailed:
        return False


def _check(repository: Path, revision: str, tree: str) -> None:
    names = [f"{tree}:{name}" for name in subject.REQUIRED_FILES]
    for name in names:
        try:
            git.run(repository, "cat-file", "-e", name)
        except ProgramFailed:
            what = f"{repository} at {revision} has no {name.partition(':')[2]}"
            if _is_partial(repository):
                raise missing_error(repository, what) from None
            raise UsageError(f"not Linux source: {what}", "use a revision of Linux") from None


def _manifest(repository: Path, revision: str, tree: str) -> Manifest:
    try:
        listing = git.run(repository, "ls-tree", "-r", "-z", "--full-tree", tree)
    except ProgramFailed as failure:
        raise _unreadable(repository, revision, failure) from failure
    entries = (line.partition("\t") for line in listing.split("\0") if line)
    split = ((name, facts.split(" ")) for facts, _, name in entries)
    return {name: f"{mode} {blob}" for name, (mode, _, blob) in split if mode != _SUBMODULE}


def _export(repository: Path, revision: str, tree: str, names: Sequence[str], into: Path) -> None:
    """Write files from a private repository that shares the objects. No hook, filter or
    line-ending conversion of the user applies there, and the contents match their keys."""
    with cache.scratch() as scratch:
        ours = scratch / "git"
        listed = scratch / "names"
        listed.write_bytes(
            b"".join(name.encode(errors="surrogateescape") + b"\0" for name in names)
        )
        git.create_with_alternates(repository, ours)
        (ours / "info/attributes").write_text(
            "* -text -eol -filter -ident !working-tree-encoding\n"
        )
        try:
            git.run(ours, "read-tree", tree)
            out = [f"--work-tree={into}", "checkout-index", "--force", "-z", "--stdin"]
            git.run(ours, *out, stdin=listed)
        except ProgramFailed as failure:
            raise _unreadable(repository, revision, failure) from failure


def _unreadable(repository: Path, revision: str, failure: ProgramFailed) -> HostError | UsageError:
    if _is_partial(repository):
        return missing_error(repository, f"{repository} lacks files of {revision}")
    return HostError(
        f"git cannot read {revision} of {repository}: {failure.message}",
        f"check the free disk space, or run git -C {repository} fsck",
    )


def is_ancestor(where: str, commit: str) -> bool | None:
    """Whether the commit is in the history of the revision ``where``, or None if the repository
    does not have the commit."""
    repository, revision = _split(where)
    head = commit_of(repository, revision)
    try:
        common = git.run(repository, "merge-base", head, f"{commit}^{{commit}}")
        ancestor = git.run(repository, "rev-parse", "--verify", f"{commit}^{{commit}}")
    except ProgramFailed:
        return None
    return common == ancestor
