# SPDX-License-Identifier: GPL-2.0-only
"""Build the kernel of a spec, or find it in the cache."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.errors import HarnessError, HostError, ProgramFailed, UsageError
from harness.host import cache, debian, paths, program, progress
from harness.kernel import (
    artifact,
    buildlog,
    config,
    debian_source,
    excerpt,
    git_source,
    install,
    kconfig,
    prebuilt,
    series,
    subject,
    tree_source,
    worktree,
)
from harness.kernel.artifact import Kernel
from harness.kernel.config import Option
from harness.kernel.excerpt import Excerpt
from harness.kernel.kbuild import Kbuild
from harness.kernel.series import Patch
from harness.kernel.source import Source
from harness.kernel.spec import KernelSpec
from harness.kernel.worktree import Worktree

T = TypeVar("T")

# Part of every key. Raise it when the steps below produce a different result.
_RECIPE = "2"

_SOURCES = {
    "debian": debian_source.source_of,
    "tree": tree_source.source_of,
    "git": git_source.source_of,
}


@dataclass(frozen=True, slots=True)
class _Job:
    """A build: all its inputs, and the keys of its outputs."""

    spec: KernelSpec
    source: Source
    patches: tuple[Patch, ...]
    options: tuple[Option, ...]
    compiler: str
    guest_modules: Path

    @property
    def label(self) -> str:
        return " + ".join([self.source.label, *self.spec.changes])

    @property
    def variant(self) -> str:
        """The name of the objects' directory, which builds of the same variant share."""
        return "+".join((self.spec.toolchain.name, *self.spec.variants))

    @property
    def kind(self) -> str:
        """The kernel version and variant, under which the durations of builds are recorded."""
        return "{}.{}+{}".format(*self.source.version, self.variant)

    @property
    def key(self) -> str:
        options = (option.request for option in self.options)
        modules = cache.digest_files(self.guest_modules)
        toolchain = "\n".join((self.compiler, *self.spec.toolchain.variables))
        patches = (patch.text for patch in self.patches)
        return cache.digest(
            _RECIPE, self.source.identity, toolchain, "\n".join(options), modules, *patches
        )

    @property
    def source_key(self) -> str:
        """The key of the patched source alone."""
        return cache.digest(self.source.identity, *(patch.text for patch in self.patches))


def build(spec: KernelSpec) -> Kernel:
    """Build a kernel, or return it from the cache.

    Raises UsageError for an invalid source, patch or option, and BuildError with the compiler's
    error if the kernel does not compile.
    """
    if spec.kind == "prebuilt":
        return prebuilt.kernel(spec.where)
    return _with_job(spec, _cached)


def _with_job(spec: KernelSpec, work: Callable[[_Job], T]) -> T:
    """Call ``work`` with the job of a spec. If Debian has replaced the package in the meantime,
    resolve the spec again and repeat the call."""
    try:
        return work(_resolve(spec))
    except debian.Moved as moved:
        progress.note(f"{moved.message}; using that version")
        return work(_resolve(spec))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one of several builds: either the ``kernel`` or the ``error``."""

    spec: KernelSpec
    kernel: Kernel | None
    error: HarnessError | None


def build_all(specs: Sequence[KernelSpec]) -> list[Outcome]:
    """Build several kernels, and show the progress of all on one board. A failed build does not
    stop the others. Return the outcomes in the order of ``specs``.

    Kernels of the same source are built one after the other, because they share a work tree.
    """
    outcomes: dict[KernelSpec, Outcome] = {}
    order = sorted(dict.fromkeys(specs), key=lambda each: (each.kind, each.where))
    with progress.board([str(spec) for spec in order]) as board:
        for spec in order:
            with board.row(str(spec)) as row:
                outcomes[spec] = _outcome(spec)
                row.end(str(outcomes[spec].error or "built"))
    return [outcomes[spec] for spec in specs]


def _outcome(spec: KernelSpec) -> Outcome:
    try:
        return Outcome(spec, build(spec), None)
    except HarnessError as error:
        return Outcome(spec, None, error)
    except OSError as error:
        return Outcome(spec, None, HostError(f"cannot build {spec}: {error}"))


def configuration(spec: KernelSpec) -> list[kconfig.Line]:
    """The whole configuration of a kernel, each option with its origin. The kernel is not
    compiled. Raises UsageError as ``build`` does."""
    if spec.kind == "prebuilt":
        raise UsageError(
            f"cannot print the origin of each option of {spec}: a prebuilt kernel has no fragments",
            f"read the config in {spec.where}, for example .config or boot/config-*",
        )
    return _with_job(spec, _origins)


def source(spec: KernelSpec) -> Excerpt:
    """The excerpt of a kernel's source, empty for a prebuilt kernel. The kernel is not compiled.
    Raises UsageError as ``build`` does."""
    if spec.kind == "prebuilt":
        return Excerpt()
    return _with_job(spec, _excerpt)


def _excerpt(job: _Job) -> Excerpt:
    """Create the excerpt without the work tree, which another build may lock for minutes."""

    def make(into: Path) -> None:
        with cache.scratch() as scratch:
            excerpt.check_out(job.source, job.patches, scratch)
            excerpt.write(scratch, into)

    return Excerpt(cache.entry("excerpt", job.source_key, f"source of {job.label}", make))


def _origins(job: _Job) -> list[kconfig.Line]:
    _check_host()
    with (
        _open_worktree(job) as tree,
        cache.scratch() as scratch,
        _open_kbuild(job, tree, scratch / "log") as kbuild,
    ):
        _configure(job, kbuild)
        return kconfig.origins(kbuild, job.options)


def _resolve(spec: KernelSpec) -> _Job:
    fragments = [*config.fragments(spec.variants), *spec.fragments]
    source = _SOURCES[spec.kind](spec.where)
    requested = (option for path in fragments for option in config.read(path))
    options = config.merged(option for option in requested if source.version >= option.since)
    patches = tuple(patch for path in spec.patches for patch in series.read(path))
    modules = paths.data("guest-scripts") / "modules"
    return _Job(spec, source, patches, tuple(options), spec.toolchain.version(), modules)


def _cached(job: _Job) -> Kernel:
    title = f"kernel {job.label}"
    entry = cache.entry("kernel", job.key, title, lambda into: _build(job, into))
    # The same content may have been built under a different name.
    return artifact.load(entry, job.label)


def cached_kernels() -> list[Kernel]:
    """The kernels in the cache, by label."""
    kernels = []
    for path in (paths.cache() / "kernel").glob("*/kernel.json"):
        # Damaged entries and entries of an older format are built again at their next use.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            kernels.append(artifact.load(path.parent))
    return sorted(kernels, key=lambda kernel: kernel.label)


def _check_host() -> None:
    for name in ("make", "flex", "bison", "bc"):
        program.require(name)
    if any(character in str(paths.cache()) for character in " :\t"):
        raise UsageError(
            f"kbuild cannot build below {paths.cache()}: the path contains a blank or a colon",
            "set IOMMU_HARNESS_CACHE to a different directory",
        )


def _open_worktree(job: _Job, *, wait: bool = True) -> contextlib.AbstractContextManager[Worktree]:
    return worktree.open_worktree(job.source, job.patches, job.variant, wait=wait)


def _build(job: _Job, into: Path) -> None:
    _check_host()
    cache.ensure_space(3, f"building {job.label}")
    _store_patches(job.patches, into / "patches")
    with _open_worktree(job) as tree:
        with _open_kbuild(job, tree, into / "build.log") as kbuild:
            _compile(job, kbuild)
            with progress.phase("kernel install", f"storing {job.label}"):
                release = install.install(tree.objects, into)
        options = config.notes(job.options, (into / "config").read_text())
        notes = (*tree.notes, *options, *_age_notes(job.source.version))
    artifact.write(
        Kernel(
            key=job.key,
            label=job.label,
            release=release,
            compiler=job.compiler,
            notes=notes,
            directory=into,
            source=job.source.identity,
        )
    )


def _age_notes(version: tuple[int, int]) -> tuple[str, ...]:
    """Report a kernel that is newer than all with which the harness was tested."""
    if version <= subject.NEWEST_TESTED:
        return ()
    own, newest = ("{}.{}".format(*each) for each in (version, subject.NEWEST_TESTED))
    return (
        f"{own} is newer than {newest}, the newest kernel with which this version of the harness"
        " was tested",
    )


@dataclass(frozen=True, slots=True)
class BuildTree:
    """A work tree with the source of the kernel ``key``, and its kbuild. ``refresh(name)`` runs
    make for one object, a path relative to the objects' directory."""

    key: str
    tree: Worktree
    kbuild: Kbuild
    refresh: Callable[[str], None]


@contextlib.contextmanager
def open_build_tree(spec: KernelSpec, *, wait: bool) -> Iterator[BuildTree]:
    """Lock the work tree of a kernel as a build does, and yield it with the objects of the last
    build.

    If the objects have been removed, they are compiled again, or without ``wait`` HostError is
    raised. Without ``wait`` it is also raised if another process uses the work tree. Raises
    UsageError as ``build`` does.
    """
    job = _resolve(spec)
    if not wait and not worktree.has_objects(job.source, job.variant):
        hint = "run iommu-harness decode with this kernel to compile them again"
        raise HostError(f"the build objects of {job.label} are not in the cache", hint)
    with (
        _open_worktree(job, wait=wait) as tree,
        cache.scratch() as scratch,
        _open_kbuild(job, tree, scratch / "log") as kbuild,
    ):
        if not worktree.has_objects(job.source, job.variant):
            _compile(job, kbuild)
        yield BuildTree(job.key, tree, kbuild, partial(_refresh, job, kbuild))


def _refresh(job: _Job, kbuild: Kbuild, name: str) -> None:
    _configure(job, kbuild)
    if name.startswith("guest-modules/"):
        kbuild.make(f"M={_guest_modules(job, kbuild.tree.objects)}", "modules")
    else:
        kbuild.make(name)


@contextlib.contextmanager
def open_source(spec: KernelSpec) -> Iterator[Kbuild]:
    """Lock the work tree of a kernel as a build does, and yield its kbuild. The objects may be
    those of a different configuration, or missing. Raises UsageError as ``build`` does."""
    job = _resolve(spec)
    with (
        _open_worktree(job) as tree,
        cache.scratch() as scratch,
        _open_kbuild(job, tree, scratch / "log") as kbuild,
    ):
        yield kbuild


@contextlib.contextmanager
def _open_kbuild(job: _Job, tree: Worktree, path: Path) -> Iterator[Kbuild]:
    """Yield kbuild with its log in ``path``. If a program fails in the block, raise an error with
    the cause from the log."""
    with path.open("wb") as log:
        try:
            yield Kbuild(tree, job.spec.toolchain, log)
        except ProgramFailed as failure:
            log.flush()
            raise buildlog.error(path, tree.source, job.key, failure) from failure


def _store_patches(patches: Sequence[Patch], directory: Path) -> None:
    """Store the patches in the artifact, as a record of the applied changes."""
    directory.mkdir()
    for number, patch in enumerate(patches, start=1):
        (directory / f"{number:04}.patch").write_bytes(patch.text)


def _compile(job: _Job, kbuild: Kbuild) -> None:
    _configure(job, kbuild)
    objects = kbuild.tree.objects
    # make compiles only what a change touches, so the duration of the last build does not predict
    # this one.
    kind = "kernel rebuild" if (objects / "vmlinux").exists() else f"kernel build:{job.kind}"
    with progress.phase(kind, f"building {job.label}") as phase:
        kbuild.make("Image", "modules", phase=phase)
        kbuild.make(f"M={_guest_modules(job, objects)}", "modules", phase=phase)


def _guest_modules(job: _Job, objects: Path) -> Path:
    """Copy the sources of the guest modules to the directory of the objects, and return the copy.
    If the sources have changed, for example in a different checkout, the whole copy is replaced,
    because make does not rebuild an object that is newer than its changed source."""
    directory, stamp = objects / "guest-modules", objects / "guest-modules-of"
    key = cache.digest_files(job.guest_modules)
    if not (directory.is_dir() and stamp.exists() and stamp.read_text() == key):
        stamp.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(job.guest_modules, directory)
        stamp.write_text(key)
    return directory


def _configure(job: _Job, kbuild: Kbuild) -> None:
    """Write and check .config, unless its inputs are the same as before."""
    stamp = kbuild.tree.objects / "configured-for"
    key = _config_key(job, kbuild.tree)
    if stamp.exists() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    with progress.phase("kernel configuration", f"configuring {job.label}"):
        kconfig.configure(kbuild, job.options)
    stamp.write_text(key)


def _config_key(job: _Job, tree: Worktree) -> str:
    """A key of Kconfig's inputs: the options, the compiler and the files that Kconfig reads."""
    parts = [job.compiler, *(option.request for option in job.options)]
    for name, key in sorted(tree.manifest.items()):
        if _is_kconfig_input(name):
            parts += [name, key if key != worktree.PATCHED else _content(tree.source / name)]
    return cache.digest(*parts)


def _is_kconfig_input(name: str) -> bool:
    """Whether the file is a Kconfig file, a program that Kconfig files run, or a Makefile with
    flags for these programs."""
    return (
        "Kconfig" in name
        or name.startswith("scripts/")
        or name in ("Makefile", "arch/arm64/Makefile")
    )


def _content(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else "deleted"
