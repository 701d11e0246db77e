# SPDX-License-Identifier: GPL-2.0-only
"""The work tree of a source: a private copy, in which builds apply patches and compile.

All builds of a source share its work tree, one at a time. Builds of the same variant also share
their objects, so a change compiles only what it touches. A build first updates the work tree to
its source: files that differ are replaced, with a new time for make, and all other files stay.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError
from harness.host import cache, paths, progress
from harness.host.manifest import Manifest
from harness.kernel import patching
from harness.kernel.series import Patch
from harness.kernel.source import Source

# The directory of the cache with the work trees. Part of the paths in debug information.
DIRECTORY = "work"

PATCHED = "patched"


@dataclass(frozen=True, slots=True)
class Worktree:
    """A work tree. ``source`` is the directory that is compiled, and ``objects`` the directory of
    the objects, both below ``root``. ``manifest`` describes ``source``, with the key "patched" for
    a file that a patch touched. ``notes`` report where patches did not apply exactly."""

    root: Path
    source: Path
    objects: Path
    manifest: Manifest
    notes: tuple[str, ...]


@contextlib.contextmanager
def open_worktree(
    source: Source, patches: Sequence[Patch], variant: str, *, wait: bool = True
) -> Iterator[Worktree]:
    """Lock the work tree of ``source``, apply ``patches`` to it, and yield it with the objects of
    ``variant``.

    Raises UsageError for a patch that does not apply, and HostError if the source changes in the
    meantime, or without ``wait`` if another process uses the work tree.
    """
    with cache.locked(f"work-{source.worktree}", f"building a kernel of {source.label}", wait=wait):
        root = cache.directory(f"{DIRECTORY}/{source.worktree}")
        os.utime(root)  # the time of the last use
        manifest = source.manifest()
        with progress.phase("work tree", f"copying {source.label}"):
            _update(root, manifest, source)
        touched, notes = _apply_all(root, patches, manifest)
        final = manifest | dict.fromkeys(touched, PATCHED)
        objects = root / "objects" / variant
        with _intact(objects):
            yield Worktree(root, root / "source", objects, final, notes)


def has_objects(source: Source, variant: str) -> bool:
    """Whether the objects of an earlier build of the source still exist. A configuration without a
    vmlinux does not count."""
    objects = paths.cache() / DIRECTORY / source.worktree / "objects" / variant
    return (objects / "vmlinux").is_file()


@contextlib.contextmanager
def _intact(objects: Path) -> Iterator[None]:
    """Mark the objects as in use while the block runs. If an earlier build was killed together
    with make, first remove its objects: they may be incomplete, and have a new time. (A make that
    receives SIGTERM removes incomplete targets itself.)"""
    mark = objects.with_suffix(".in-use")
    if mark.exists():
        shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def _update(root: Path, target: Manifest, source: Source) -> None:
    """Update ``root/source`` to the manifest ``target``. The record of its content is removed
    during the update. If an update was killed, everything is removed, including objects, because
    files may now be older than the objects."""
    record = root / "manifest.json"
    tree = root / "source"
    present = _read(record)
    if not present:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(root / "objects", ignore_errors=True)
    if present == target:
        return
    record.unlink(missing_ok=True)
    tree.mkdir(exist_ok=True)
    different = [name for name, key in target.items() if present.get(name) != key]
    for name in sorted({*(present.keys() - target.keys()), *(set(different) & present.keys())}):
        _remove(tree, name)
    source.export(different, tree)
    if source.current_identity() != source.identity:
        raise HostError(f"{source.label} was changed while it was read", "run the command again")
    _write(record, target)


def _remove(tree: Path, name: str) -> None:
    """Remove a file, or the directory with which a patch or a revision replaced it. Nothing is
    removed below a symbolic link with which a patch replaced a directory."""
    path = tree / name
    if any((tree / parent).is_symlink() for parent in Path(name).parents):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _read(record: Path) -> Manifest:
    try:
        present = json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return present if isinstance(present, dict) else {}


def _write(record: Path, manifest: Manifest) -> None:
    part = record.with_suffix(".part")
    part.write_text(json.dumps(manifest))
    part.rename(record)


def _apply_all(
    root: Path, patches: Sequence[Patch], manifest: Manifest
) -> tuple[set[str], tuple[str, ...]]:
    touched = {name for patch in patches for name in patching.touched_files(patch)}
    if not patches:
        return touched, ()
    # Recorded before the files change, so that the next build restores them.
    _write(root / "manifest.json", manifest | dict.fromkeys(touched, PATCHED))
    notes = [
        f"patch {number}, {note}"
        for number, patch in enumerate(patches, start=1)
        for note in patching.apply(root / "source", patch)
    ]
    return touched, tuple(notes)
