# SPDX-License-Identifier: GPL-2.0-only
"""``git:DIR@REV``: a revision of a git repository.

Only read: no file of the checkout, no index and no reference is touched, and
nothing is fetched. All revisions of a repository share one work tree, so going
from one to the next touches only what differs.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import cache, program
from harness.host.contents import Manifest
from harness.kernel import source
from harness.kernel.source import Source

_SUBMODULE = "160000"


def source_of(where: str) -> Source:
    """Raises UsageError for what is no repository or no Linux revision in one, and
    for a shallow or partial clone that lacks it."""
    repository, revision = _split(where)
    commit = _commit(repository, revision)
    tree = _git(repository, "rev-parse", "--verify", f"{commit}^{{tree}}")
    _check(repository, revision, tree)
    common = _git(repository, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Source(
        label=f"git:{repository}@{revision} ({commit[:12]})",
        identity=tree,
        work=f"git-{cache.digest(common)}",
        version=source.version(_git(repository, "cat-file", "blob", f"{tree}:Makefile")),
        manifest=lambda: _manifest(repository, revision, tree),
        put=lambda names, into: _put(repository, revision, tree, names, into),
        now=lambda: tree,
    )


def _split(where: str) -> tuple[Path, str]:
    """Both a directory and a revision may have "@" in them: the first one that has a
    directory before it parts them."""
    for number, character in enumerate(where):
        directory = Path(where[:number]).expanduser()
        if character == "@" and where[:number] and directory.is_dir() and where[number + 1 :]:
            return directory.absolute(), where[number + 1 :]
    raise UsageError(
        f"git:{where} names no directory and revision", "write git:DIR@REV, say git:.@v6.12"
    )


def _commit(repository: Path, revision: str) -> str:
    try:
        _git(repository, "rev-parse", "--git-dir")
    except ProgramFailed:
        raise UsageError(f"{repository} is no git repository", "name one, or use tree:") from None
    try:
        wanted = ["--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
        # --end-of-options is echoed by older versions of git.
        return _git(repository, "rev-parse", *wanted).splitlines()[-1]
    except ProgramFailed:
        raise _missing(repository, f"{repository} has no revision {revision!r}") from None


def _missing(repository: Path, what: str) -> UsageError:
    """The error for something that the repository lacks, with how to get it."""
    if _git(repository, "rev-parse", "--is-shallow-repository") == "true":
        mend = f"it is a shallow clone: git -C {repository} fetch --unshallow"
        return UsageError(what, mend)
    if _is_partial(repository):
        return UsageError(
            what, f"it is a partial clone: git -C {repository} fetch --refetch --no-filter"
        )
    return UsageError(what, "name a commit, a tag or a branch that it has")


def _is_partial(repository: Path) -> bool:
    try:
        return bool(_git(repository, "config", "--get-regexp", r"remote\..*\.promisor"))
    except ProgramFailed:
        return False


def _check(repository: Path, revision: str, tree: str) -> None:
    names = [f"{tree}:{name}" for name in source.NEEDED]
    for name in names:
        try:
            _git(repository, "cat-file", "-e", name)
        except ProgramFailed:
            what = f"{repository} at {revision} has no {name.partition(':')[2]}"
            if _is_partial(repository):
                raise _missing(repository, what) from None
            raise UsageError(f"{what}: not Linux source", "name a revision of Linux") from None


def _manifest(repository: Path, revision: str, tree: str) -> Manifest:
    try:
        listing = _git(repository, "ls-tree", "-r", "-z", "--full-tree", tree)
    except ProgramFailed as failure:
        raise _unreadable(repository, revision, failure) from failure
    entries = (line.partition("\t") for line in listing.split("\0") if line)
    split = ((name, facts.split(" ")) for facts, _, name in entries)
    return {name: f"{mode} {blob}" for name, (mode, _, blob) in split if mode != _SUBMODULE}


def _put(repository: Path, revision: str, tree: str, names: Sequence[str], into: Path) -> None:
    """Through an index of our own, and without the line ends that the user's
    configuration would make: the files are what their keys say."""
    with cache.scratch() as scratch:
        index = str(scratch / "index")
        wanted = scratch / "names"
        wanted.write_text("".join(f"{name}\0" for name in names))
        plain = ["-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null"]
        try:
            _git(repository, "read-tree", tree, index=index)
            out = [f"--work-tree={into}", "checkout-index", "--force", "-z", "--stdin"]
            _git(repository, *plain, *out, stdin=wanted, index=index)
        except ProgramFailed as failure:
            raise _unreadable(repository, revision, failure) from failure


def _unreadable(repository: Path, revision: str, failure: ProgramFailed) -> HostError | UsageError:
    if _is_partial(repository):
        return _missing(repository, f"{repository} lacks files of {revision}")
    return HostError(
        f"git cannot read {revision} of {repository}: {failure.message}",
        f"see what git -C {repository} fsck says",
    )


def _git(repository: Path, *words: str, stdin: Path | None = None, index: str = "") -> str:
    env = program.environment(
        GIT_OPTIONAL_LOCKS="0",
        # A partial clone would fetch what it lacks, from anywhere.
        GIT_NO_LAZY_FETCH="1",
        GIT_ALLOW_PROTOCOL="none",
        **({"GIT_INDEX_FILE": index} if index else {}),
    )
    safe = ["-c", f"safe.directory={repository}", "-c", "core.fsmonitor=false"]
    command = ["git", *safe, "-C", str(repository), *words]
    return program.run(command, env=env, stdin=stdin).strip("\n")
