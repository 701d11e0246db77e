# SPDX-License-Identifier: GPL-2.0-only
"""The options that several commands share."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.host import debian
from harness.kernel import config, spec, toolchain
from harness.kernel.spec import KernelSpec
from harness.machine import topology

SPEC = "debian:VERSION, debian:newest, tree:DIR, git:DIR@REV or prebuilt:DIR"
MACHINE = (
    "A machine such as smmuv3 (see `iommu-harness machines`), a machine with a preset of devices"
    " such as smmuv3+switch, or a .toml file"
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Kernel = Annotated[str, typer.Option("--kernel", metavar="SPEC", help=f"The kernel: {SPEC}.")]
Kernels = Annotated[
    list[str],
    typer.Option("--kernel", metavar="SPEC", help=f"A kernel: {SPEC}; may be repeated."),
]
KernelText = Annotated[str, typer.Argument(metavar="SPEC", help=f"The kernel: {SPEC}.")]
Patches = Annotated[
    list[Path],
    typer.Option(
        "--patch",
        metavar="FILE",
        help="Apply a diff, an mbox, a directory of patches or a saved page of a mail archive;"
        " may be repeated.",
    ),
]
Fragments = Annotated[
    list[Path],
    typer.Option(
        "--fragment",
        metavar="FILE",
        help="Merge a file of CONFIG_X=y lines into the configuration; may be repeated.",
    ),
]
Variants = Annotated[
    list[str],
    typer.Option(
        "--variant",
        metavar="NAME",
        help="Build a variant of the kernel, with a named set of configuration options:"
        f" {', '.join(config.variants())}; may be repeated.",
    ),
]
Llvm = Annotated[bool, typer.Option("--llvm", help="Build with clang and lld (LLVM=1).")]
Behaviours = Annotated[
    list[str],
    typer.Option(
        "--behaviour",
        metavar="[no-]NAME",
        help="Assume that the kernel has this behaviour or, with no-, that it does not. A behaviour"
        " is a difference between kernels that is not a bug (see `iommu-harness behaviours`); may"
        " be repeated.",
    ),
]
QEMU = "The QEMU to run: its path, or debian:VERSION or debian:newest, which is fetched"
Qemu = Annotated[str, typer.Option("--qemu", metavar="QEMU", help=f"{QEMU}.")]
Qemus = Annotated[
    list[str], typer.Option("--qemu", metavar="QEMU", help=f"{QEMU}; may be repeated.")
]
DEFAULT_QEMUS = [topology.QEMU]
Limit = Annotated[
    float | None,
    typer.Option(
        "--limit",
        metavar="SECONDS",
        show_default="40 times the boot time, at least 20 s",
        help="How long a command may print nothing before it counts as a hang.",
    ),
]
Session = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="N",
        show_default="the first with a symptom",
        help="The session, if the report has more than one: 2; 1,3 combined as one; or all.",
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        show_default="a new directory below ~/.local/state/iommu-harness/runs",
        help="The directory for logs and results.",
    ),
]
Mirror = Annotated[
    str,
    typer.Option(
        "--debian-mirror",
        metavar="URL",
        envvar=debian.MIRROR_VARIABLE,
        show_default="the mirror of this host's apt",
        help="The mirror to fetch Debian packages from.",
    ),
]
KnownIssues = Annotated[
    list[Path],
    typer.Option(
        "--known-issues",
        metavar="FILE",
        help="A TOML file of known issues, in addition to the bundled ones; may be repeated.",
    ),
]


def application(*, add_completion: bool = False, **settings: Any) -> typer.Typer:
    """Create an application that prints its help as plain text, with paragraphs and examples as
    written. ``add_completion`` adds the options that install shell completion."""
    return typer.Typer(
        add_completion=add_completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )


def use_mirror(debian_mirror: str) -> None:
    """Fetch Debian packages from this mirror, in this process and in its children. Does nothing
    for ""."""
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
    """The kernels that the options specify, each with all patches, fragments and variants.
    Duplicates are removed. Raises UsageError as ``spec.parse`` does."""
    use_mirror(debian_mirror)
    compiler = toolchain.LLVM if llvm else toolchain.GCC
    specs = [spec.parse(text, patches, fragments, variants, compiler) for text in texts]
    return list(dict.fromkeys(specs))
