# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that may be wanted next, built while the present one is tested: by processes of
their own, at a low priority, ended as soon as something else is wanted.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.host import program
from harness.kernel.spec import KernelSpec

# A guest takes one core while it is tested; with fewer than this a build beside it makes
# both slower.
_CORES = 4

_COMMAND = "from harness.cli.main import main; main()"


def worth_while() -> bool:
    """Whether this host has cores to spare."""
    return len(os.sched_getaffinity(0)) >= _CORES


@dataclass(slots=True)
class BackgroundBuilds:
    """The builds under way. Those of one work tree wait for each other."""

    _processes: dict[KernelSpec, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, specs: Sequence[KernelSpec]) -> None:
        """Builds these and nothing else."""
        self._end([spec for spec in self._processes if spec not in specs])
        for spec in specs:
            if spec not in self._processes:
                self._processes[spec] = _started(spec)

    def wanted(self, spec: KernelSpec) -> None:
        """Somebody waits for this one: all others are ended."""
        self._end([other for other in self._processes if other != spec])

    def stop(self) -> None:
        """Endpoints what is under way, with all that it has started."""
        self._end(list(self._processes))

    def _end(self, specs: Sequence[KernelSpec]) -> None:
        for spec in specs:
            program.end_group(self._processes.pop(spec))


def _started(spec: KernelSpec) -> subprocess.Popen[bytes]:
    ours = [sys.executable, "-P", "-c", _COMMAND, "kernel", "build", *arguments(spec)]
    return subprocess.Popen(
        program.bound_to_us(["nice", *ours], "TERM"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def arguments(spec: KernelSpec) -> list[str]:
    """The kernel as ``kernel build`` takes it."""
    words = [f"{spec.kind}:{spec.where}"]
    words += [f"--patch={path}" for path in spec.patches]
    words += [f"--fragment={path}" for path in spec.fragments]
    return words + [f"--variant={name}" for name in spec.variants]
