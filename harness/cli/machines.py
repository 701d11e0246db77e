# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness machines``: list the machines and presets, and boot kernels on them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from harness.cli import options, output
from harness.errors import UsageError
from harness.host import rundir
from harness.iommu import machine_file
from harness.iommu.machines import MACHINES, PRESETS
from harness.kernel import build
from harness.kernel.spec import KernelSpec
from harness.machine import qemu as qemu_versions
from harness.machine import qemus
from harness.machine.topology import Machine
from harness.suite import smoke
from harness.suite.smoke import SmokeResult


def machines(
    kernel: Annotated[
        list[str],
        typer.Option(
            "--kernel",
            metavar="SPEC",
            help=f"Boot this kernel on each machine: {options.SPEC}; may be repeated.",
        ),
    ] = [],  # noqa: B006  typer copies it
    machine: Annotated[
        list[str],
        typer.Option(
            metavar="MACHINE",
            show_default="all",
            help="Use this machine: NAME, NAME+PRESET or a .toml file; may be repeated.",
        ),
    ] = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    qemu: options.Qemus = options.DEFAULT_QEMUS,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """List the machines, or boot kernels on them and print the results.

    \b
      iommu-harness machines
      iommu-harness machines --kernel debian:6.12 --machine smmuv3 --machine virtio-iommu

    A machine is a description of a virtual machine: its IOMMU, devices and firmware. A preset is a
    set of devices for a machine. With --kernel, the table has, for each machine and kernel, the
    seconds until the guest responds, the IOMMU group of a NIC, and the number of the NIC's DMA
    accesses that the IOMMU translated. The exit status is 1 if a kernel fails on a machine.
    """
    options.use_mirror(debian_mirror)
    chosen = qemus.on_each([machine_file.machine(name) for name in machine or MACHINES], qemu)
    qemus.check(qemu)
    if not kernel:
        if len(qemu) > 1:
            raise UsageError("the list is for a single QEMU", "use one --qemu, or --kernel")
        _list(chosen, qemus.program(qemu[0]), as_json=as_json)
        return
    specs = options.kernels(kernel, [], [], variant, llvm=False, debian_mirror=debian_mirror)
    cells = _boot_all(specs, chosen)
    if as_json:
        output.print_json({"machines": [asdict(cell) for cell in cells]})
    else:
        output.show(_table(specs, chosen, cells))
    raise typer.Exit(0 if all(cell.works for cell in cells) else 1)


def _boot_all(specs: Sequence[KernelSpec], chosen: Sequence[Machine]) -> list[SmokeResult]:
    pairs = [
        (spec, spec.with_variants(machine.variants), machine)
        for machine in chosen
        for spec in specs
    ]
    outcomes = {each.spec: each for each in build.build_all([fitted for _, fitted, _ in pairs])}
    directory = rundir.create("machines")
    cells = []
    for number, (spec, fitted, machine) in enumerate(pairs, start=1):
        outcome = outcomes[fitted]
        if outcome.kernel is None:
            cells.append(SmokeResult(str(spec), machine.label, reason=str(outcome.error)))
            continue
        below = rundir.create(
            "", directory / f"{number}-{rundir.file_name(f'{machine.label}-{spec}')}"
        )
        cells.append(smoke.smoke_test(spec, outcome.kernel, machine, below))
    return cells


def _table(
    specs: Sequence[KernelSpec], chosen: Sequence[Machine], cells: list[SmokeResult]
) -> Iterator[tuple[str, str]]:
    """Yield a row per machine with a column per kernel, then the reason for each failure."""
    rows = [["machine", *map(str, specs)]]
    for number, machine in enumerate(chosen):
        # The cells are in the order of the boots.
        mine = cells[number * len(specs) : (number + 1) * len(specs)]
        rows.append([machine.label, *map(_cell, mine)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True))
        yield "" if number else "bold", line.rstrip()
    for cell in cells:
        if cell.reason:
            yield "yellow", f"{cell.machine}, {cell.kernel}: {cell.reason}"


def _cell(cell: SmokeResult) -> str:
    if cell.boot is None:
        return "does not boot"
    if not cell.loaded:
        return "no driver"
    group = "no group" if cell.group is None else f"group {cell.group}"
    return f"{cell.boot:.1f} s, {group}, {cell.translated} translated"


def _list(chosen: Sequence[Machine], program: str, *, as_json: bool) -> None:
    stages = qemu_versions.has_property(program, "arm-smmuv3", "stage")
    if as_json:
        record = {
            "qemu": qemu_versions.version(program),
            "stages": stages,
            "machines": [each.name for each in chosen],
            "presets": {name: each.summary for name, each in PRESETS.items()},
        }
        output.print_json(record)
        return
    output.show(_lines(chosen, program, stages=stages))


def _lines(chosen: Sequence[Machine], program: str, *, stages: bool) -> Iterator[tuple[str, str]]:
    yield "", qemu_versions.version(program)
    can = "can" if stages else "cannot"
    yield "" if stages else "yellow", f"this QEMU {can} set the stage of an SMMUv3 (stage = ...)"
    yield "bold", "machines, for --machine NAME; or write a .toml file"
    for each in chosen:
        needs = f"; requires --variant {each.variants[0]}" if each.variants else ""
        yield "", f"  {each.name:<20} {each.iommu.driver}, {each.firmware}{needs}"
    yield (
        "bold",
        "presets (sets of devices), for --machine NAME+PRESET in place of the NIC and clients",
    )
    for name, preset in PRESETS.items():
        yield "", f"  {name:<24} {preset.summary}"
