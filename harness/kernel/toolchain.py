# SPDX-License-Identifier: GPL-2.0-only
"""The compilers that kernels can be built with."""

from dataclasses import dataclass

from harness.host import program, tools


@dataclass(frozen=True, slots=True)
class Toolchain:
    """``compiler`` is the program, ``variables`` what makes kbuild use it and what
    belongs to it."""

    name: str
    compiler: str
    variables: tuple[str, ...]

    def version(self) -> str:
        """The first line of ``--version``. Raises ToolMissing without the compiler."""
        return program.run([self.compiler, "--version"]).splitlines()[0]


_CROSS = f"CROSS_COMPILE={tools.CROSS}"

GCC = Toolchain("gcc", tools.CROSS + "gcc", (_CROSS,))
# Before 5.15 the prefix names the target, and the assembler is GNU's unless asked.
LLVM = Toolchain("llvm", "clang", ("LLVM=1", "LLVM_IAS=1", _CROSS))
