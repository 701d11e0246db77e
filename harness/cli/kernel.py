# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness kernel``: build, list, configuration and objects of kernels."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.iommu import inspection
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.build import Outcome

app = typer.Typer(
    add_completion=False,
    help="Kernels: build them, list those built, look into them.",
    no_args_is_help=True,
)


@app.command("build")
def build_(
    kernel: Annotated[list[str], typer.Argument(metavar="SPEC...", help=options.SPEC)],
    patch: options.Patches = [],  # noqa: B006  typer copies it
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Build kernels, or find them built."""
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    if len(specs) == 1:
        built = build.build(specs[0])
        if as_json:
            output.print_json(output.jsonable(asdict(built)))
        else:
            output.say(_kernel(built))
        return
    outcomes = build.build_all(specs)
    if as_json:
        output.print_json({"kernels": [_outcome_record(each) for each in outcomes]})
    else:
        output.say(line for each in outcomes for line in _outcome(each))
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
    """The kernels in the cache."""
    kernels = build.built()
    if as_json:
        output.print_json({"kernels": [output.jsonable(asdict(kernel)) for kernel in kernels]})
    else:
        output.say(("", f"{kernel.key}  {kernel.release}  {kernel.label}") for kernel in kernels)


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
    """A kernel's configuration, and where each option comes from."""
    (wanted,) = options.kernels(
        [kernel], patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    lines = build.configuration(wanted)
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
    output.say(("", f"{line.option.line:<50} {line.origin}") for line in lines)


@app.command()
def inspect(
    kernel: options.KernelText,
    module: Annotated[
        str | None,
        typer.Argument(help="A module's name, or a .ko file; else every IOMMU driver."),
    ] = None,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Modules as objects: license, aliases, parameters, imports and exports, and
    whether they can be loaded into this kernel. Exit status 1 with a finding."""
    (wanted,) = options.kernels(
        [kernel], patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    result = inspection.inspect(build.build(wanted), module)
    if as_json:
        output.print_json(inspection.record(result))
    else:
        output.say(inspection.lines(result))
    raise typer.Exit(1 if result.findings else 0)
