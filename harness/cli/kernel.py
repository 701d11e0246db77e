# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness kernel``: build, list and inspect kernels."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.iommu import inspection
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.build import Outcome

_HELP = """Build, list and inspect kernels.

\b
  iommu-harness kernel build debian:6.12 --variant kasan
  iommu-harness kernel inspect tree:~/src/linux arm_smmu_v3

Other commands build the kernels that they need."""

app = options.application(help=_HELP, no_args_is_help=True)


@app.command("build")
def build_(
    kernel: Annotated[list[str], typer.Argument(metavar="SPEC", help=f"Kernels: {options.SPEC}.")],
    patch: options.Patches = [],  # noqa: B006  typer copies it
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Build kernels that are not in the cache yet.

    \b
      iommu-harness kernel build debian:6.12
      iommu-harness kernel build tree:~/src/linux --patch fix.patch --variant kasan

    Prints the name of each kernel and its directory in the cache, one kernel per line.
    """
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    if len(specs) == 1:
        built = build.build(specs[0])
        if as_json:
            output.print_json(output.jsonable(asdict(built)))
        else:
            output.show(_kernel(built))
        return
    outcomes = build.build_all(specs)
    if as_json:
        output.print_json({"kernels": [_outcome_record(each) for each in outcomes]})
    else:
        output.show(line for each in outcomes for line in _outcome(each))
    raise typer.Exit(max(each.error.exit_code if each.error else 0 for each in outcomes))


def _kernel(built: Kernel) -> Iterator[tuple[str, str]]:
    yield "", f"{built.label}: {built.directory}"
    for note in built.notes:
        yield "yellow", f"  note: {note}"


def _outcome(each: Outcome) -> Iterator[tuple[str, str]]:
    if each.kernel:
        yield from _kernel(each.kernel)
    else:
        yield "red", f"{each.spec}: {each.error}"


def _outcome_record(each: Outcome) -> dict[str, Any]:
    if each.error:
        return {"spec": str(each.spec), "error": output.error_record(each.error)}
    assert each.kernel
    return {"spec": str(each.spec), **output.jsonable(asdict(each.kernel))}


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """List the kernels in the cache.

    \b
      iommu-harness kernel list
      iommu-harness kernel list --json

    Prints the key, the release and the name of each kernel, one kernel per line.
    """
    kernels = build.cached_kernels()
    if as_json:
        output.print_json({"kernels": [output.jsonable(asdict(kernel)) for kernel in kernels]})
    else:
        output.show(("", f"{kernel.key}  {kernel.release}  {kernel.label}") for kernel in kernels)


@app.command()
def config(
    kernel: options.KernelText,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Print a kernel's configuration and the origin of each option.

    \b
      iommu-harness kernel config debian:6.12
      iommu-harness kernel config debian:6.12 --variant lockdep
    """
    (spec,) = options.kernels(
        [kernel], patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    lines = build.configuration(spec)
    if as_json:
        rows = [
            {
                "name": f"CONFIG_{line.option.name}",
                "value": line.option.value,
                "origin": line.origin,
            }
            for line in lines
        ]
        output.print_json({"options": rows})
        return
    output.show(("", f"{line.option.line:<50} {line.origin}") for line in lines)


@app.command()
def inspect(
    kernel: options.KernelText,
    module: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE", help="A module's name or a .ko file; by default every IOMMU driver."
        ),
    ] = None,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Inspect kernel modules, and check that the kernel can load them.

    \b
      iommu-harness kernel inspect debian:6.12
      iommu-harness kernel inspect debian:6.12 arm_smmu_v3

    Prints the license, aliases, parameters, imported and exported symbols of each module.
    The exit status is 1 if a check fails.
    """
    (spec,) = options.kernels(
        [kernel], patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    result = inspection.inspect(build.build(spec), module)
    if as_json:
        output.print_json(inspection.record(result))
    else:
        output.show(inspection.lines(result))
    raise typer.Exit(1 if result.findings else 0)
