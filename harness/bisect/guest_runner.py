# SPDX-License-Identifier: GPL-2.0-only
"""A runner that builds revisions, and checks them in fresh guests."""

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

# The files of a kernel's artifact that a guest reads.
_READ_BY_GUESTS = ("Image", "modules/", "guest-modules/")


@dataclass(slots=True)
class GuestRunner:
    """Builds the revisions of ``history``, and checks fresh guests for the ``symptom``.

    ``directory``: has a subdirectory for each run.
    ``prefetches``: whether kernels are built in the background.
    """

    history: History
    symptom: Symptom
    directory: Path
    prefetches: bool = field(default_factory=prefetch.is_worthwhile)
    _builds: BackgroundBuilds = field(default_factory=BackgroundBuilds)
    _kernels: dict[str, Kernel] = field(default_factory=dict)
    _warmed: list[Kernel] = field(default_factory=list)

    def build(self, revision: str) -> Build:
        """Build the revision. A compiler error, a patch that does not apply, and an option that
        the kernel lacks are returned as the build's failure."""
        try:
            kernel = self._kernel(revision)
        except (BuildError, PatchMismatch, OptionLost) as error:
            return Build(revision, "", error.message, 0)
        return Build(revision, _artifact(kernel), "", 0)

    def run(self, revision: str, number: int) -> Run:
        """Check a fresh guest with the revision's kernel for the symptom."""
        directory = self._unused(revision, number)
        directory.mkdir(parents=True)
        seen = self.symptom.check(self._spec(revision), self._kernel(revision), directory)
        if seen.splats:
            text = [f"{line}\n" for each in seen.splats for line in each.text]
            (directory / _SPLATS).write_text("".join(text))
        return Run(revision, seen.result, seen.reason, 0, _names(seen.splats), str(directory))

    def _unused(self, revision: str, number: int) -> Path:
        """A directory that no run has used. A resumed search reuses the numbers of inconclusive
        runs and of a run that was killed, but keeps the evidence of these runs."""
        directories = (self.directory / f"{revision[:20]}-{n}" for n in itertools.count(number))
        return next(each for each in directories if not each.exists())

    def splats(self, run: Run) -> tuple[Splat, ...]:
        """The splats of the run, symbolised. A splat with the same title and call trace as an
        earlier one is omitted."""
        path = Path(run.directory) / _SPLATS
        found = splat.find(path.read_text().splitlines()) if path.exists() else []
        if not found:
            return ()
        spec, kernel = self._spec(run.revision), self._kernel(run.revision)
        symbolised = [symbolise.symbolised(each, kernel, spec).splat for each in found]
        return tuple(first for first, *_ in symbolise.grouped(symbolised))

    def prefetch(self, revisions: Callable[[], Sequence[str]]) -> None:
        """Start building the revisions in the background, if ``prefetches`` is set."""
        if self.prefetches:
            self._builds.start([self._spec(each) for each in revisions()])

    def _spec(self, revision: str) -> KernelSpec:
        return self.history.kernel(revision).with_variants(self.symptom.variants)

    def _kernel(self, revision: str) -> Kernel:
        if revision not in self._kernels:
            spec = self._spec(revision)
            self._builds.keep_only(spec)
            kernel = build.build(spec)
            self._kernels[revision] = kernel
            if self._makes_warm_guests(kernel):
                self._warmed.append(kernel)
        return self._kernels[revision]

    def _makes_warm_guests(self, kernel: Kernel) -> bool:
        """Whether the kernel had no warm guest before this search. If so, the search removes
        the warm guests that it makes. A file records this for a resumed search."""
        file = self.directory.with_name("warm-guests")
        recorded = file.read_text().split() if file.exists() else []
        if kernel.key in recorded:
            return True
        if snapshot.is_kept(kernel):
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*recorded, kernel.key]))
        return True

    def close(self) -> None:
        """Stop all background builds, and remove the warm guests that this search has made,
        because most of its kernels are never run again."""
        self._builds.stop()
        for kernel in self._warmed:
            with contextlib.suppress(HarnessError, OSError):
                snapshot.forget(kernel)


def _names(splats: Sequence[Splat]) -> tuple[str, ...]:
    """Names for the splats, which do not differ between revisions."""
    named = (f"{each.kind} in {each.function}" if each.function else each.title for each in splats)
    return tuple(dict.fromkeys(named))


def _artifact(kernel: Kernel) -> str:
    """A digest of the kernel's files that a guest reads. Revisions that differ only in files
    that are not built, or in comments that do not shift line numbers (__bug_table contains them),
    have the same digest."""
    files = cache.read_seal(kernel.directory)
    read = {name: key for name, key in files.items() if name.startswith(_READ_BY_GUESTS)}
    return cache.digest_manifest(read)
