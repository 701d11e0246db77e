# SPDX-License-Identifier: GPL-2.0-only
"""The private copy of a source that a build patches and compiles.

All builds of one source share it, one at a time, so that a change compiles only
what it touches. Whoever has it open brings it to the content wanted: files that
differ are replaced, and get a new time for make to see; the rest stays.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import cache, paths, program, progress
from harness.kernel.source import Manifest, Source

PATCHED = "patched"

_DIFF = re.compile(rb"^(diff --git |--- )", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Worktree:
    """``source`` is what to compile, ``objects`` where; ``manifest`` what is in
    ``source``, with "patched" for a file that a patch touched."""

    source: Path
    objects: Path
    manifest: Manifest


@contextlib.contextmanager
def opened(source: Source, patches: Sequence[Path]) -> Iterator[Worktree]:
    """The work tree of ``source`` with ``patches`` applied, locked meanwhile.

    Raises UsageError for a patch that does not apply, HostError when the
    source's owner changes it meanwhile.
    """
    with cache.locked(f"work-{source.work}", f"building {source.label}"):
        root = paths.cache() / "work" / source.work
        root.mkdir(parents=True, exist_ok=True)
        origin, manifest = source.read()
        with progress.phase("work tree", f"copying {source.label}"):
            _bring(root, origin, manifest, source)
        touched = _apply_all(root, patches, manifest)
        tree = Worktree(
            root / "source", root / "objects", manifest | dict.fromkeys(touched, PATCHED)
        )
        with _objects(tree.objects, root / "in-use"):
            yield tree


@contextlib.contextmanager
def _objects(objects: Path, mark: Path) -> Iterator[None]:
    """Objects of a build that was killed with its make may be torn, and look new:
    they are thrown away. A make that is told to end removes its half-made ones."""
    if mark.exists():
        shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def _bring(root: Path, origin: Path, wanted: Manifest, source: Source) -> None:
    """Makes ``root/source`` what ``wanted`` says. The record of what is in it
    stands only while that is so: a run killed half-way starts afresh, objects
    included, because fresh files may be older than they are."""
    record = root / "manifest.json"
    tree = root / "source"
    try:
        present: Manifest = json.loads(record.read_text())
    except (OSError, ValueError):
        present = {}
    if not present:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(root / "objects", ignore_errors=True)
    if present == wanted:
        return
    record.unlink(missing_ok=True)
    fresh = not present
    for name in present.keys() - wanted.keys():
        (tree / name).unlink(missing_ok=True)
    made: set[Path] = set()
    for name, key in wanted.items():
        if present.get(name) != key:
            _put(origin / name, tree / name, made, link=source.links and fresh)
    if source.now() != source.identity:
        raise HostError(f"{source.label} was changed while it was read", "run again")
    _write(record, wanted)


def _put(origin: Path, target: Path, made: set[Path], *, link: bool) -> None:
    if target.parent not in made:
        target.parent.mkdir(parents=True, exist_ok=True)
        made.add(target.parent)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    try:
        if origin.is_symlink():
            target.symlink_to(origin.readlink())
        elif link:
            os.link(origin, target)
        else:
            shutil.copyfile(origin, target)
            target.chmod(origin.stat().st_mode)
    except FileNotFoundError as error:
        raise HostError(f"{origin} went away while it was read", "run again") from error


def _write(record: Path, manifest: Manifest) -> None:
    part = record.with_suffix(".part")
    part.write_text(json.dumps(manifest))
    part.rename(record)


def _apply_all(root: Path, patches: Sequence[Path], manifest: Manifest) -> set[str]:
    if not patches:
        return set()
    touched: set[str] = set()
    for patch in patches:
        touched |= _touched(root / "source", patch)
    # Recorded before they change, so that the next run puts them back.
    _write(root / "manifest.json", manifest | dict.fromkeys(touched, PATCHED))
    for patch in patches:
        _git_apply(root / "source", patch)
    return touched


def _touched(tree: Path, patch: Path) -> set[str]:
    """Paths the patch names, old and new, all of them inside the tree."""
    if not _DIFF.search(patch.read_bytes()):
        raise UsageError(f"{patch.name} has no diff in it", "name a patch")
    listing = _git_apply(tree, patch, "--numstat", "-z")
    names = {field.split("\t")[-1] for field in listing.split("\0")} - {""}
    # git lists only the new name of what it renames.
    moved = re.findall(rb"^(?:rename|copy) from (.+)$", patch.read_bytes(), re.MULTILINE)
    names |= {name.decode(errors="replace").strip() for name in moved}
    for name in names:
        if name.startswith("/") or ".." in Path(name).parts:
            raise UsageError(f"{patch.name} reaches out of the tree: {name}", "name another patch")
    return names


def _git_apply(tree: Path, patch: Path, *options: str) -> str:
    # A repository above the cache must not take the patch for its own.
    env = program.environment(GIT_CEILING_DIRECTORIES=str(tree.parent), HOME=str(tree.parent))
    command = ["git", "apply", "--whitespace=nowarn", *options, "--", str(patch.absolute())]
    try:
        return program.run(command, cwd=tree, env=env)
    except ProgramFailed as failure:
        errors = [line for line in failure.output.splitlines() if line.startswith("error: ")]
        reason = (errors or [failure.message])[0].removeprefix("error: ")
        raise UsageError(
            f"{patch.name} does not apply: {reason}",
            "name a patch made for this kernel",
        ) from failure
