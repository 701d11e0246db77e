# SPDX-License-Identifier: GPL-2.0-only
"""Background builds of the kernels that a search may test next, while it tests the current one.
They are processes with a low priority, and are stopped when the search needs a different kernel.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.host import program
from harness.kernel.spec import KernelSpec

# The guest under test uses one core. On a host with fewer cores than this, a background build
# and the guest slow each other down.
_MIN_CORES = 4

_COMMAND = "from harness.cli.main import main; main()"


def is_worthwhile() -> bool:
    """Whether this host has enough cores for background builds."""
    return len(os.sched_getaffinity(0)) >= _MIN_CORES


@dataclass(slots=True)
class BackgroundBuilds:
    """The builds in progress. Builds in the same work tree wait for each other."""

    _processes: dict[KernelSpec, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, specs: Sequence[KernelSpec]) -> None:
        """Start building these kernels, and stop all other builds."""
        self._stop([spec for spec in self._processes if spec not in specs])
        for spec in specs:
            if spec not in self._processes:
                self._processes[spec] = _started(spec)

    def keep_only(self, spec: KernelSpec) -> None:
        """Stop all builds except that of this kernel, because the search waits for it."""
        self._stop([other for other in self._processes if other != spec])

    def stop(self) -> None:
        """Stop all builds, and all processes that they have started."""
        self._stop(list(self._processes))

    def _stop(self, specs: Sequence[KernelSpec]) -> None:
        for spec in specs:
            program.end_group(self._processes.pop(spec))


def _started(spec: KernelSpec) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", _COMMAND, "kernel", "build", *arguments(spec)]
    return subprocess.Popen(
        program.with_pdeathsig(["nice", *command], "TERM"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def arguments(spec: KernelSpec) -> list[str]:
    """The arguments of ``kernel build`` for this kernel."""
    words = [f"{spec.kind}:{spec.where}"]
    words += [f"--patch={path}" for path in spec.patches]
    words += [f"--fragment={path}" for path in spec.fragments]
    return words + [f"--variant={name}" for name in spec.variants]
