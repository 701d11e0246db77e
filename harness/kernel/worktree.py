# SPDX-License-Identifier: GPL-2.0-only
"""The private copy of a source that a build patches and compiles.

All builds of one source share it, one at a time, and those of one variant share
their objects, so that a change compiles only what it touches. Whoever has it open
brings it to the content wanted: files that differ are replaced, and get a new time
for make to see; the rest stays.
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

PATCHED = "patched"


@dataclass(frozen=True, slots=True)
class Worktree:
    """``root`` holds ``source``, what to compile, and ``objects``, where; ``manifest``
    is what is in ``source``, with "patched" for a file that a patch touched;
    ``notes`` say where patches did not apply exactly as they were made."""

    root: Path
    source: Path
    objects: Path
    manifest: Manifest
    notes: tuple[str, ...]


@contextlib.contextmanager
def opened(
    source: Source, patches: Sequence[Patch], variant: str, *, wait: bool = True
) -> Iterator[Worktree]:
    """The work tree of ``source`` with ``patches`` applied, locked meanwhile, and the
    objects of ``variant``.

    Raises UsageError for a patch that does not apply, HostError when the
    source's owner changes it meanwhile, and without ``wait`` when another has it open.
    """
    with cache.locked(f"work-{source.work}", f"a kernel of {source.label}", wait=wait):
        root = cache.directory(f"work/{source.work}")
        os.utime(root)  # when it was last used
        manifest = source.manifest()
        with progress.phase("work tree", f"copying {source.label}"):
            _bring(root, manifest, source)
        touched, notes = _apply_all(root, patches, manifest)
        final = manifest | dict.fromkeys(touched, PATCHED)
        objects = root / "objects" / variant
        with _objects(objects):
            yield Worktree(root, root / "source", objects, final, notes)


def has_objects(source: Source, variant: str) -> bool:
    """Whether a kernel of the source has been built, and its objects are still there."""
    return (paths.cache() / "work" / source.work / "objects" / variant).is_dir()


@contextlib.contextmanager
def _objects(objects: Path) -> Iterator[None]:
    """Objects of a build that was killed with its make may be torn, and look new:
    they are thrown away. A make that is told to end removes its half-made ones."""
    mark = objects.with_suffix(".in-use")
    if mark.exists():
        shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def _bring(root: Path, wanted: Manifest, source: Source) -> None:
    """Makes ``root/source`` what ``wanted`` says. The record of what is in it
    stands only while that is so: a run killed half-way starts afresh, objects
    included, because fresh files may be older than they are."""
    record = root / "manifest.json"
    tree = root / "source"
    present = _read(record)
    if not present:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(root / "objects", ignore_errors=True)
    if present == wanted:
        return
    record.unlink(missing_ok=True)
    tree.mkdir(exist_ok=True)
    different = [name for name, key in wanted.items() if present.get(name) != key]
    for name in sorted({*(present.keys() - wanted.keys()), *(set(different) & present.keys())}):
        _remove(tree, name)
    source.put(different, tree)
    if source.now() != source.identity:
        raise HostError(f"{source.label} was changed while it was read", "run again")
    _write(record, wanted)


def _remove(tree: Path, name: str) -> None:
    """A directory stands where a patch or a revision made one of a file; below a link
    that a patch made of a directory there is nothing of ours."""
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
    touched = {name for patch in patches for name in patching.touched(patch)}
    if not patches:
        return touched, ()
    # Recorded before they change, so that the next run puts them back.
    _write(root / "manifest.json", manifest | dict.fromkeys(touched, PATCHED))
    notes = [
        f"patch {number}, {note}"
        for number, patch in enumerate(patches, start=1)
        for note in patching.apply(root / "source", patch)
    ]
    return touched, tuple(notes)
