# SPDX-License-Identifier: GPL-2.0-only
"""The search space of a request, and its conversion to a history."""

from dataclasses import dataclass, replace
from pathlib import Path

from harness.bisect import history
from harness.bisect.gitbisect import Endpoints
from harness.bisect.history import History
from harness.bisect.inputs import Inputs
from harness.host import paths
from harness.kernel import git_source, spec
from harness.kernel.spec import KernelSpec


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The search space as given on the command line. It is one of these:

    ``tree``: a git repository with the endpoints ``new`` and ``old``. ``paths`` and
    ``first_parent`` limit the candidates.
    ``series``: a patch series that is applied to ``kernel``.
    ``releases``: Debian's kernels.
    ``configs``: two configurations of ``kernel``.

    ``patches``, ``fragments``, ``variants``: apply to all kernels.
    ``fixups``: the arguments of --fixup.
    """

    tree: str = ""
    new: str = ""
    old: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    first_parent: bool = False
    series: str = ""
    releases: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    kernel: str = spec.DEFAULT_KERNEL
    patches: tuple[str, ...] = ()
    fragments: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    fixups: tuple[str, ...] = ()


def resolved(space: SearchSpace, inputs: Inputs) -> SearchSpace:
    """The space with its revisions resolved to hashes, absolute paths, and copies of its input
    files. Raises UsageError if a revision or a file does not exist."""
    tree = paths.absolute(space.tree) if space.tree else None
    if tree:
        new, *old = (git_source.commit_of(tree, each) for each in (space.new, *space.old))
        space = replace(space, tree=str(tree), new=new, old=tuple(old))
    return replace(
        space,
        series=inputs.copy(space.series),
        configs=inputs.copy_all(space.configs),
        patches=inputs.copy_all(space.patches),
        fragments=inputs.copy_all(space.fragments),
        fixups=tuple(_resolved_fixup(each, tree, inputs) for each in space.fixups),
        kernel=_resolved_kernel(space.kernel),
    )


def _resolved_fixup(text: str, tree: Path | None, inputs: Inputs) -> str:
    each = history.fixup(text, tree)
    return f"{each.since}..{each.until}:{inputs.copy(str(each.patch))}"


def _resolved_kernel(text: str) -> str:
    kind, _, where = text.partition(":")
    if kind in ("tree", "prebuilt"):
        return f"{kind}:{paths.absolute(where)}"
    return git_source.by_hash(where) if kind == "git" else text


def history_of(space: SearchSpace, directory: Path) -> History:
    """Create the history of a resolved search space (see ``resolved``), with its files in
    ``directory``. Raises UsageError if the space cannot be bisected."""
    if space.releases:
        kernels = [_kernel(each, space) for each in space.releases]
        return history.releases(kernels, directory)
    if space.series:
        return history.patches(Path(space.series), _kernel(space.kernel, space), directory)
    if space.configs:
        old, new = (Path(each) for each in space.configs)
        return history.options(old, new, _kernel(space.kernel, space), directory)
    tree = Path(space.tree)
    endpoints = Endpoints(space.new, space.old, space.paths, space.first_parent)
    fixups = [history.fixup(each, tree) for each in space.fixups]
    base = _kernel(f"git:{tree}@{space.new}", space)
    return history.revisions(tree, endpoints, base, fixups, directory)


def _kernel(text: str, space: SearchSpace) -> KernelSpec:
    patches = [Path(each) for each in space.patches]
    if not space.tree:
        patches += [history.fixup(each, None).patch for each in space.fixups]
    return spec.parse(text, patches, [Path(each) for each in space.fragments], space.variants)
