# SPDX-License-Identifier: GPL-2.0-only
"""Run kbuild in a work tree, with fixed values for all settings that influence its output."""

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from harness.host import paths, program, progress, tools
from harness.kernel.toolchain import Toolchain
from harness.kernel.worktree import Worktree

# What make prints for each target: "  CC [M]  drivers/net/dummy.o".
_TARGET = re.compile(r"  [A-Z][A-Z0-9]+\s+(\[M\]\s+)?\S")


def _cached(compiler: str) -> str:
    return f"ccache {compiler}" if tools.find("ccache") else compiler


@dataclass(frozen=True, slots=True)
class Kbuild:
    """kbuild in a work tree. ``log`` receives the output of make."""

    tree: Worktree
    toolchain: Toolchain
    log: BinaryIO

    def make(
        self,
        *goals: str,
        phase: progress.Phase | None = None,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Run make and return its output. Each target counts as a step of ``phase``. ``goals`` may
        include variables (NAME=VALUE). Raises ProgramFailed if make fails."""

        def on_line(line: str) -> None:
            if phase and _TARGET.match(line):
                phase.step()

        source, objects = self.tree.source, self.tree.objects
        command = ["make", "--no-print-directory", "-C", str(source), f"O={objects}"]
        command += [f"-j{os.cpu_count() or 1}", "ARCH=arm64", *self.toolchain.variables]
        command += [f"CC={_cached(self.toolchain.compiler)}"]
        command += [f"HOSTCC={_cached(self.toolchain.host_compiler)}", *goals]
        env = self.environment() | (environment or {})
        return program.run(command, env=env, log=self.log, on_line=on_line)

    def environment(self) -> dict[str, str]:
        """The environment of make, and of a compiler command from its log."""
        return program.environment(
            KBUILD_BUILD_TIMESTAMP="@0",
            KBUILD_BUILD_USER="iommu-harness",
            KBUILD_BUILD_HOST="iommu-harness",
            KBUILD_BUILD_VERSION="1",
            CCACHE_DIR=str(paths.cache() / "ccache"),
            CCACHE_BASEDIR=str(self.tree.root),
            CCACHE_NOHASHDIR="1",
            # kbuild makes the compiler list the headers anyway. Without a preprocessor run, a
            # miss takes a third less time.
            CCACHE_DEPEND="1",
        )
