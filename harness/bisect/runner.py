# SPDX-License-Identifier: GPL-2.0-only
"""Revisions judged by real kernels: built, and run in fresh guests."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.bisect import prefetch
from harness.bisect.history import History
from harness.bisect.journal import Build, Run
from harness.bisect.prefetch import BackgroundBuilds
from harness.bisect.symptom import Symptom
from harness.errors import BuildError, HarnessError, OptionLost, PatchMismatch
from harness.guest import snapshot
from harness.host import cache
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import splat
from harness.klog.splat import Splat
from harness.symbols import symbolise

_SPLATS = "splats.txt"

# Of a kernel, what a guest gets to see.
_SEEN = ("Image", "modules/", "guest-modules/")


@dataclass(slots=True)
class GuestRunner:
    """``directory`` gets one directory for each run. ``builds_ahead`` where this host has
    cores for it."""

    history: History
    symptom: Symptom
    directory: Path
    builds_ahead: bool = field(default_factory=prefetch.worth_while)
    _builds: BackgroundBuilds = field(default_factory=BackgroundBuilds)
    _kernels: dict[str, Kernel] = field(default_factory=dict)
    _ours: list[Kernel] = field(default_factory=list)

    def build(self, revision: str) -> Build:
        """A patch that does not apply and an option that is not there are the revision's
        fault, as what the compiler says is."""
        try:
            kernel = self._kernel(revision)
        except (BuildError, PatchMismatch, OptionLost) as error:
            return Build(revision, "", error.message, 0)
        return Build(revision, _artifact(kernel), "", 0)

    def run(self, revision: str, number: int) -> Run:
        directory = self._free(revision, number)
        directory.mkdir(parents=True)
        seen = self.symptom.look(self._spec(revision), self._kernel(revision), directory)
        if seen.splats:
            text = [f"{line}\n" for each in seen.splats for line in each.text]
            (directory / _SPLATS).write_text("".join(text))
        return Run(revision, seen.word, seen.reason, 0, _titles(seen.splats), str(directory))

    def _free(self, revision: str, number: int) -> Path:
        """Where no run has left its evidence: one that judged nothing is not counted when a
        search goes on, nor is one that was killed."""
        directories = (self.directory / f"{revision[:20]}-{n}" for n in itertools.count(number))
        return next(each for each in directories if not each.exists())

    def splats(self, run: Run) -> tuple[Splat, ...]:
        """What the run's kernel reported, with places in the source; of splats that are
        alike the first."""
        path = Path(run.directory) / _SPLATS
        found = splat.find(path.read_text().splitlines()) if path.exists() else []
        if not found:
            return ()
        spec, kernel = self._spec(run.revision), self._kernel(run.revision)
        symbolised = [symbolise.symbolised(each, kernel, spec).splat for each in found]
        return tuple(first for first, *_ in symbolise.alike(symbolised))

    def expect(self, revisions: Callable[[], Sequence[str]]) -> None:
        """Begins to build them."""
        if self.builds_ahead:
            self._builds.start([self._spec(each) for each in revisions()])

    def _spec(self, revision: str) -> KernelSpec:
        return self.history.kernel(revision).with_variants(self.symptom.variants)

    def _kernel(self, revision: str) -> Kernel:
        if revision not in self._kernels:
            spec = self._spec(revision)
            self._builds.wanted(spec)
            kernel = build.build(spec)
            self._kernels[revision] = kernel
            if self._is_ours(kernel):
                self._ours.append(kernel)
        return self._kernels[revision]

    def _is_ours(self, kernel: Kernel) -> bool:
        """Whether its warm guests are made by this search, now or before it was killed."""
        noted = self.directory.with_name("warm-guests")
        ours = noted.read_text().split() if noted.exists() else []
        if kernel.key in ours:
            return True
        if snapshot.is_kept(kernel):
            return False
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.write_text("\n".join([*ours, kernel.key]))
        return True

    def close(self) -> None:
        """Endpoints what is being built, and removes the warm guests of kernels that had none
        before: nobody will start from them again."""
        self._builds.stop()
        for kernel in self._ours:
            with contextlib.suppress(HarnessError, OSError):
                snapshot.forget(kernel)


def _titles(splats: Sequence[Splat]) -> tuple[str, ...]:
    """Names for splats that stay the same from one revision to the next."""
    named = (f"{each.kind} in {each.function}" if each.function else each.title for each in splats)
    return tuple(dict.fromkeys(named))


def _artifact(kernel: Kernel) -> str:
    """A key of all that a guest sees of the kernel: revisions that differ in comments or
    in what is not built have the same."""
    files = cache.sealed(kernel.directory)
    seen = {name: key for name, key in files.items() if name.startswith(_SEEN)}
    return cache.digest_manifest(seen)
