# SPDX-License-Identifier: GPL-2.0-only
"""``git:DIR@REV``: a revision of a git repository.

Only read: no file of the checkout, no index and no reference is touched, and
nothing is fetched. All revisions of a repository share one work tree, so going
from one to the next touches only what differs.
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
    """Raises UsageError for what is no repository or no Linux revision in one, and
    for a shallow or partial clone that lacks it."""
    repository, revision = _split(where)
    commit = commit_of(repository, revision)
    tree = git.run(repository, "rev-parse", "--verify", f"{commit}^{{tree}}")
    _check(repository, revision, tree)
    common = git.run(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Source(
        label=f"git:{repository}@{revision} ({commit[:12]})",
        identity=tree,
        work=f"git-{cache.digest(common)}",
        version=source.version(git.run(repository, "cat-file", "blob", f"{tree}:Makefile")),
        manifest=lambda: _manifest(repository, revision, tree),
        put=lambda names, into: _put(repository, revision, tree, names, into),
        now=lambda: tree,
    )


def pinned(where: str) -> str:
    """The kernel spec of a revision by its hash. Raises UsageError as ``source_of``."""
    repository, revision = _split(where)
    return f"git:{repository}@{commit_of(repository, revision)}"


def _split(where: str) -> tuple[Path, str]:
    """Both a directory and a revision may have "@" in them: the first one that has a
    repository before it parts them, else the first with a directory."""
    parts = [(where[:at], where[at + 1 :]) for at, each in enumerate(where) if each == "@"]
    places = [(paths.absolute(a), b) for a, b in parts if a and b and paths.absolute(a).is_dir()]
    if not places:
        raise UsageError(
            f"git:{where} names no directory and revision", "write git:DIR@REV, say git:.@v6.12"
        )
    tops = [place for place in places if (place[0] / ".git").exists() or _is_bare(place[0])]
    return (tops or places)[0]


def _is_bare(directory: Path) -> bool:
    return (directory / "HEAD").is_file() and (directory / "objects").is_dir()


def commit_of(repository: Path, revision: str) -> str:
    """The hash of a commit that the repository has. Raises UsageError for another name,
    with the hint for a clone that is not whole."""
    try:
        git.run(repository, "rev-parse", "--git-dir")
    except ProgramFailed:
        raise UsageError(
            f"{repository} is no git repository", "name one; sources without git are tree:DIR"
        ) from None
    try:
        wanted = ["--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
        # --end-of-options is echoed by older versions of git.
        return git.run(repository, "rev-parse", *wanted).splitlines()[-1]
    except ProgramFailed:
        raise missing(repository, f"{repository} has no revision {revision!r}") from None


def missing(repository: Path, what: str) -> UsageError:
    """The error for something that the repository lacks, with how to get it."""
    if git.run(repository, "rev-parse", "--is-shallow-repository") == "true":
        hint = f"it is a shallow clone: git -C {repository} fetch --unshallow"
        return UsageError(what, hint)
    if _is_partial(repository):
        return UsageError(
            what, f"it is a partial clone: git -C {repository} fetch --refetch --no-filter"
        )
    return UsageError(what, "name a commit, a tag or a branch that it has")


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
                raise missing(repository, what) from None
            raise UsageError(f"{what}: not Linux source", "name a revision of Linux") from None


def _manifest(repository: Path, revision: str, tree: str) -> Manifest:
    try:
        listing = git.run(repository, "ls-tree", "-r", "-z", "--full-tree", tree)
    except ProgramFailed as failure:
        raise _unreadable(repository, revision, failure) from failure
    entries = (line.partition("\t") for line in listing.split("\0") if line)
    split = ((name, facts.split(" ")) for facts, _, name in entries)
    return {name: f"{mode} {blob}" for name, (mode, _, blob) in split if mode != _SUBMODULE}


def _put(repository: Path, revision: str, tree: str, names: Sequence[str], into: Path) -> None:
    """Through a repository of our own that borrows the objects: no hook, filter or line
    end of the user's is in the way, and the files are what their keys say."""
    with cache.scratch() as scratch:
        ours = scratch / "git"
        wanted = scratch / "names"
        wanted.write_bytes(
            b"".join(name.encode(errors="surrogateescape") + b"\0" for name in names)
        )
        git.create_with_alternates(repository, ours)
        (ours / "info/attributes").write_text(
            "* -text -eol -filter -ident !working-tree-encoding\n"
        )
        try:
            git.run(ours, "read-tree", tree)
            out = [f"--work-tree={into}", "checkout-index", "--force", "-z", "--stdin"]
            git.run(ours, *out, stdin=wanted)
        except ProgramFailed as failure:
            raise _unreadable(repository, revision, failure) from failure


def _unreadable(repository: Path, revision: str, failure: ProgramFailed) -> HostError | UsageError:
    if _is_partial(repository):
        return missing(repository, f"{repository} lacks files of {revision}")
    return HostError(
        f"git cannot read {revision} of {repository}: {failure.message}",
        f"see what git -C {repository} fsck says",
    )


def has(where: str, commit: str) -> bool | None:
    """Whether the commit is in the revision's history; None where the repository does not
    have it, so that nothing follows."""
    repository, revision = _split(where)
    own = commit_of(repository, revision)
    try:
        common = git.run(repository, "merge-base", own, f"{commit}^{{commit}}")
        wanted = git.run(repository, "rev-parse", "--verify", f"{commit}^{{commit}}")
    except ProgramFailed:
        return None
    return common == wanted
