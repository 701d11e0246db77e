# SPDX-License-Identifier: GPL-2.0-only
"""The options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.host import debian
from harness.kernel import config, spec, toolchain
from harness.kernel.spec import KernelSpec

SPEC = "debian:VERSION, debian:newest, tree:DIR, git:DIR@REV or prebuilt:DIR"

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
KernelText = Annotated[str, typer.Argument(metavar="SPEC", help=SPEC)]
Patches = Annotated[
    list[Path],
    typer.Option(
        "--patch",
        help="A diff, an mbox, a directory of patches or an archive's page; may be repeated.",
    ),
]
Fragments = Annotated[
    list[Path],
    typer.Option("--fragment", help="A further configuration fragment; may be repeated."),
]
Variants = Annotated[
    list[str],
    typer.Option("--variant", help=f"{', '.join(config.variants())}; may be repeated."),
]
Llvm = Annotated[bool, typer.Option("--llvm", help="Build with clang and lld (LLVM=1).")]
Qemu = Annotated[str, typer.Option("--qemu", metavar="PATH", help="Another QEMU.")]
Mirror = Annotated[
    str,
    typer.Option(
        "--debian-mirror",
        envvar=debian.MIRROR_VARIABLE,
        help="Where Debian packages come from; else the mirror of this host's apt.",
    ),
]


def use_mirror(debian_mirror: str) -> None:
    """From now on, here and in what is started from here; "" leaves it to the host's apt."""
    if debian_mirror:
        os.environ[debian.MIRROR_VARIABLE] = debian_mirror


def kernels(
    texts: list[str],
    patches: list[Path],
    fragments: list[Path],
    variants: list[str],
    *,
    llvm: bool,
    debian_mirror: str,
) -> list[KernelSpec]:
    """The kernels that the options name, each with all of patches and variants."""
    use_mirror(debian_mirror)
    compiler = toolchain.LLVM if llvm else toolchain.GCC
    specs = [spec.parse(text, patches, fragments, variants, compiler) for text in texts]
    return list(dict.fromkeys(specs))
