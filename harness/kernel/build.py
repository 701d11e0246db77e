# SPDX-License-Identifier: GPL-2.0-only
"""From a kernel spec to a built kernel in the cache."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.errors import BuildError, HostError, ProgramFailed, UsageError
from harness.host import cache, paths, program, progress, tools
from harness.kernel import artifact, config, source, worktree
from harness.kernel.artifact import Kernel
from harness.kernel.source import Source
from harness.kernel.spec import KernelSpec
from harness.kernel.worktree import Worktree

# Part of every key: raise it when the steps below make something else.
_RECIPE = "1"

# What make prints for each thing it makes: "  CC [M]  drivers/net/dummy.o".
_MADE = re.compile(r"  [A-Z][A-Z0-9]+\s+(\[M\]\s+)?\S")

# In the order in which they name the cause best.
_CAUSES = (
    re.compile(r".*No space left on device.*"),
    re.compile(r"\S+:\d+(:\d+)?: (fatal )?error: .*"),
    re.compile(r"ERROR: modpost: .*"),
    re.compile(r".*undefined reference to .*"),
    re.compile(r"make(\[\d+\])?: \*\*\* No rule to make target .*"),
    re.compile(r".*\berror:.*", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class _Job:
    """One build: what goes in, and the key of what comes out. ``patches`` are as they
    were when the key was made; their files may be edited meanwhile."""

    spec: KernelSpec
    patches: tuple[bytes, ...]
    source: Source
    options: list[config.Option]
    compiler: str
    guest_modules: Path

    @property
    def label(self) -> str:
        extra = [path.name for path in (*self.spec.patches, *self.spec.fragments)]
        return " + ".join([self.source.label, *extra])

    @property
    def key(self) -> str:
        lines = "\n".join(option.line for option in self.options)
        modules = cache.digest_files(self.guest_modules)
        return cache.digest(
            _RECIPE, self.source.identity, self.compiler, lines, modules, *self.patches
        )


def build(spec: KernelSpec) -> Kernel:
    """The kernel, from the cache when it has been built before.

    Raises UsageError for a source, patch or option that does not fit, BuildError
    with the first error of the compiler.
    """
    fragments = [*config.fragments(), *spec.fragments]
    options = config.merged(option for path in fragments for option in config.read(path))
    modules = paths.data("guest-scripts") / "modules"
    patches = tuple(patch.read_bytes() for patch in spec.patches)
    job = _Job(spec, patches, source.resolve(spec), options, _compiler(), modules)
    directory = cache.entry(
        "kernel", job.key, f"building {job.label}", lambda into: _build(job, into)
    )
    return artifact.load(directory)


def built() -> list[Kernel]:
    """The kernels in the cache."""
    entries = (paths.cache() / "kernel").glob("*/kernel.json")
    return sorted((artifact.load(path.parent) for path in entries), key=lambda k: k.label)


def _compiler() -> str:
    version = program.run([tools.CROSS + "gcc", "--version"])
    return version.splitlines()[0]


def _build(job: _Job, into: Path) -> None:
    for name in ("make", "flex", "bison", "bc"):
        program.require(name)
    cache.require_space(3, f"building {job.label}")
    if any(character in str(paths.cache()) for character in " :\t"):
        raise UsageError(
            f"kbuild cannot build below {paths.cache()}: there is a blank or a colon in it",
            "set IOMMU_HARNESS_CACHE to another directory",
        )
    log_path = into / "build.log"
    patches = _store_patches(job, into / "patches")
    with worktree.opened(job.source, patches) as tree, log_path.open("wb") as log:
        try:
            release = _compile(job, tree, into, log)
        except ProgramFailed as failure:
            log.flush()
            raise _first_error(log_path, tree.source, failure) from failure
    artifact.write(into, job.key, job.label, release, job.compiler)


def _store_patches(job: _Job, directory: Path) -> list[Path]:
    """The patches as files of the artifact, in the order in which they apply."""
    directory.mkdir()
    stored = []
    for number, (path, text) in enumerate(zip(job.spec.patches, job.patches, strict=True), 1):
        stored.append(directory / f"{number:04}-{path.name}")
        stored[-1].write_bytes(text)
    return stored


def _compile(job: _Job, tree: Worktree, into: Path, log: BinaryIO) -> str:
    make = _Make(tree, log)
    _configure(job, tree, make)
    # make compiles only what a change touches, and nobody knows how much that is.
    kind = "kernel rebuild" if (tree.objects / "vmlinux").exists() else "kernel build"
    with progress.phase(kind, f"building {job.label}") as phase:
        make("Image", "modules", phase=phase)
        guest_modules = tree.objects / "guest-modules"
        # Afresh: another checkout's sources may be older than the objects here.
        shutil.rmtree(guest_modules, ignore_errors=True)
        shutil.copytree(job.guest_modules, guest_modules)
        make(f"M={guest_modules}", "modules", phase=phase)
    with progress.phase("kernel install", f"storing {job.label}"):
        return _install(tree, make, into)


class _Make:
    """kbuild in one work tree, with everything that shapes its output fixed."""

    def __init__(self, tree: Worktree, log: BinaryIO) -> None:
        self._tree = tree
        self._log = log
        compiler = tools.CROSS + "gcc"
        self._compiler = f"ccache {compiler}" if tools.find("ccache") else compiler

    def __call__(self, *targets: str, phase: progress.Phase | None = None) -> str:
        def on_line(line: str) -> None:
            if phase and _MADE.match(line):
                phase.step()

        variables = ["ARCH=arm64", f"CROSS_COMPILE={tools.CROSS}", f"CC={self._compiler}"]
        command = ["make", "-C", str(self._tree.source), f"O={self._tree.objects}"]
        command += [f"-j{os.cpu_count() or 1}", *variables, *targets]
        return program.run(command, env=self._environment(), log=self._log, on_line=on_line)

    def _environment(self) -> dict[str, str]:
        return program.environment(
            KBUILD_BUILD_TIMESTAMP="@0",
            KBUILD_BUILD_USER="iommu-harness",
            KBUILD_BUILD_HOST="iommu-harness",
            KBUILD_BUILD_VERSION="1",
            CCACHE_DIR=str(paths.cache() / "ccache"),
            CCACHE_BASEDIR=str(self._tree.source.parent),
            CCACHE_NOHASHDIR="1",
        )


def _configure(job: _Job, tree: Worktree, make: _Make) -> None:
    """Leaves a checked .config; nothing is run when all that shapes it is as before."""
    stamp = tree.objects / "configured-for"
    key = _config_key(job, tree)
    if stamp.exists() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    dotconfig = tree.objects / ".config"
    with progress.phase("kernel configuration", f"configuring {job.label}"):
        make("tinyconfig")
        with dotconfig.open("a") as file:
            file.writelines(option.line + "\n" for option in job.options)
        make("olddefconfig")
    config.check(job.options, dotconfig.read_text(), tree.source)
    stamp.write_text(key)


def _config_key(job: _Job, tree: Worktree) -> str:
    """Of Kconfig's inputs: the options, the Kconfig files and the default configs."""
    parts = [job.compiler, *(option.line for option in job.options)]
    for name, key in sorted(tree.manifest.items()):
        if "Kconfig" in name or name.endswith(".config") or name.startswith("scripts/kconfig/"):
            parts += [name, key if key != worktree.PATCHED else _patched(tree.source / name)]
    return cache.digest(*parts)


def _patched(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else "deleted"


def _install(tree: Worktree, make: _Make, into: Path) -> str:
    """Copies what a guest and a debugger need; returns the kernel's release."""
    staging = into / "staging"
    make("modules_install", f"INSTALL_MOD_PATH={staging}", "DEPMOD=true")
    installed = next((staging / "lib/modules").iterdir())
    for link in ("build", "source"):
        (installed / link).unlink(missing_ok=True)
    (into / "modules").mkdir()
    installed.rename(into / "modules" / installed.name)
    shutil.rmtree(staging)
    for name in ("arch/arm64/boot/Image", "vmlinux", "Module.symvers"):
        shutil.copy(tree.objects / name, into)
    shutil.copy(tree.objects / ".config", into / "config")
    (into / "guest-modules").mkdir()
    for module in (tree.objects / "guest-modules").glob("*.ko"):
        shutil.copy(module, into / "guest-modules")
    return installed.name


def _first_error(log: Path, source_tree: Path, failure: ProgramFailed) -> HostError:
    """The error a person would look for, with the log kept where it can be read."""
    kept = paths.cache() / "failed-build.log"
    shutil.copy(log, kept)
    text = log.read_text(errors="replace").replace(f"{source_tree}/", "")
    lines = text.splitlines()
    for cause in _CAUSES:
        found = next((line.strip() for line in lines if cause.fullmatch(line.strip())), None)
        if found:
            return BuildError(f"the kernel does not build: {found}", f"the whole log is {kept}")
    return BuildError(f"the kernel does not build: {failure.message}", f"the log is {kept}")
