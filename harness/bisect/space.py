# SPDX-License-Identifier: GPL-2.0-only
"""The search space of a request, and the history that it becomes."""

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
    """What is bisected, as the command line has it: the revisions of ``tree``, the patches of
    ``series`` on ``kernel``, Debian's ``releases``, or the options between two ``configs``.
    ``patches``, ``fragments`` and ``variants`` are for all of its kernels; ``fixups`` are
    arguments of --fixup."""

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


def pinned(space: SearchSpace, inputs: Inputs) -> SearchSpace:
    """The space with hashes for revisions, absolute paths, and copies of its files."""
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
        fixups=tuple(_pinned_fixup(each, tree, inputs) for each in space.fixups),
        kernel=_pinned_kernel(space.kernel),
    )


def _pinned_fixup(text: str, tree: Path | None, inputs: Inputs) -> str:
    each = history.fixup(text, tree)
    return f"{each.since}..{each.until}:{inputs.copy(str(each.patch))}"


def _pinned_kernel(text: str) -> str:
    kind, _, where = text.partition(":")
    if kind in ("tree", "prebuilt"):
        return f"{kind}:{paths.absolute(where)}"
    return git_source.by_hash(where) if kind == "git" else text


def history_of(space: SearchSpace, directory: Path) -> History:
    """The history of a pinned space; its files are in ``directory``. Raises UsageError for one
    that cannot be bisected."""
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
