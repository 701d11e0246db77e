# SPDX-License-Identifier: GPL-2.0-only
"""The compilers that can build kernels."""

from dataclasses import dataclass

from harness.host import program, tools


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The programs that build a kernel. ``compiler`` and ``linker`` are for the kernel, and
    ``host_compiler`` is for kbuild's own tools. ``variables`` are the variables of make that
    select them."""

    name: str
    compiler: str
    linker: str
    host_compiler: str
    variables: tuple[str, ...]

    def version(self) -> str:
        """The first lines of the compiler's and the linker's version. Raises ToolMissing if one is
        not installed."""
        lines = (program.run([tool, "--version"]) for tool in (self.compiler, self.linker))
        return ", ".join(text.splitlines()[0] for text in lines)


_CROSS = f"CROSS_COMPILE={tools.CROSS}"

GCC = Toolchain("gcc", tools.CROSS + "gcc", tools.CROSS + "ld", "gcc", (_CROSS,))
# Before 5.15, CROSS_COMPILE selects the target, and LLVM_IAS=1 selects LLVM's assembler.
LLVM = Toolchain("llvm", "clang", "ld.lld", "clang", ("LLVM=1", "LLVM_IAS=1", _CROSS))
