# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness compare``: compare two kernels, or two QEMUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.comparison import compared, render, scenario_runs
from harness.comparison.scenario_runs import ScenarioRuns
from harness.comparison.session import Side
from harness.errors import UsageError
from harness.host import progress, rundir
from harness.iommu import machine_file, machines
from harness.kernel import build, spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec
from harness.machine import provenance, qemus, topology
from harness.repro import request
from harness.suite import scenarios
from harness.suite.run import RunRequest


@dataclass(frozen=True, slots=True)
class _Sides:
    """The kernels and QEMUs of both sides."""

    old: KernelSpec
    new: KernelSpec
    qemus: tuple[str, str]


def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="REPORT|SCENARIO",
            help="A bug report, as for repro, or scenarios, as for run.",
        ),
    ],
    kernel: options.Kernel = DEFAULT_KERNEL,
    patch: Annotated[
        list[Path],
        typer.Option(
            "--patch",
            metavar="FILE",
            help="Apply a patch to the new kernel, in the formats of repro; may be repeated.",
        ),
    ] = [],  # noqa: B006  typer copies it
    with_: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="SPEC",
            show_default="the same as --kernel",
            help=f"The new kernel: {options.SPEC}.",
        ),
    ] = None,
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    machine: Annotated[
        list[str],
        typer.Option(
            "--machine",
            metavar="MACHINE",
            show_default="chosen from the report; for scenarios smmuv3 and virtio-iommu",
            help=f"{options.MACHINE}; may be repeated for scenarios.",
        ),
    ] = [],  # noqa: B006
    qemu: options.Qemu = topology.QEMU,
    with_qemu: Annotated[
        str | None,
        typer.Option(
            "--with-qemu",
            metavar="QEMU",
            show_default="the same as --qemu",
            help="The QEMU of the new side.",
        ),
    ] = None,
    session: options.Session = None,
    runs: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="The minimum number of runs of a report on each side. There are more if runs"
            " of one side differ.",
        ),
    ] = 3,
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Compare what two kernels or two QEMUs do in the same session, or in the same scenarios.

    \b
      iommu-harness compare report.mbox --patch fix.patch
      iommu-harness compare pinning vfio --kernel debian:6.12 --with debian:7.2

    The session of a report is run on both sides, in turn, from the same state. Exit statuses,
    output, sysfs, the kernel log, trace events (with --variant trace) and the commands that the
    IOMMU receives are compared, without time stamps, addresses and PIDs. What differs between runs
    of one side is noise. The exit status is 1 if there is a difference.
    """
    rundir.check(run_dir)
    options.use_mirror(debian_mirror)
    old = spec.parse(kernel, [], fragment, variant)
    new = spec.parse(with_ or kernel, patch, fragment, variant)
    sides = _Sides(old, new, (qemu, with_qemu or qemu))
    if old == new and sides.qemus[0] == sides.qemus[1]:
        raise UsageError("nothing to compare", "give --patch, --with or --with-qemu")
    qemus.check(sides.qemus)
    if _is_report(subjects):
        found = _reports(subjects, sides, machine, session, run_dir, runs)
    else:
        found = _scenarios(subjects, sides, machine, run_dir)
    record, lines, differs = found
    if as_json:
        output.print_json(record)
    else:
        output.show(lines)
    raise typer.Exit(1 if differs else 0)


_Found = tuple[dict[str, Any], Sequence[output.Line], bool]


def _is_report(subjects: Sequence[str]) -> bool:
    return any(
        each == "-" or (Path(each).is_file() and not each.endswith(".py")) for each in subjects
    )


def _reports(
    subjects: Sequence[str],
    sides: _Sides,
    names: Sequence[str],
    session: str | None,
    run_dir: Path | None,
    runs: int,
) -> _Found:
    if len(subjects) > 1:
        raise UsageError("only one report can be compared", "run the command for each report")
    if len(names) > 1:
        raise UsageError("a report is compared on one machine", "give one --machine")
    wanted = request.create(Path(subjects[0]), session, names[0] if names else None)
    on = qemus.on_each([wanted.machine], sides.qemus)
    old, new = build.build(sides.old), build.build(sides.new)
    directory = rundir.create(Path(subjects[0]).stem, run_dir)
    progress.note(f"run: {directory}")
    found = compared.compare(
        wanted, Side("old", old, on[0]), Side("new", new, on[-1]), directory, runs
    )
    record = {"run_dir": str(directory), **compared.record(found)} | _provenance(sides, old, new)
    (directory / "result.json").write_text(output.to_json(record) + "\n")
    return record, list(render.lines(found)), bool(found.steps)


def _scenarios(
    subjects: Sequence[str], sides: _Sides, names: Sequence[str], run_dir: Path | None
) -> _Found:
    if sides.qemus[0] != sides.qemus[1]:
        raise UsageError("--with-qemu requires a report", "use run --qemu A --qemu B for scenarios")
    on = tuple(names) or tuple(machines.DEFAULTS)
    list(scenarios.select(subjects))
    for name in on:
        machine_file.machine(name)
    directory = rundir.create("compare", run_dir)
    progress.note(f"run: {directory}")
    wanted = RunRequest((), on, tuple(subjects), qemus=(sides.qemus[0],))
    runs = ScenarioRuns(wanted, directory)
    built = [runs.build(each).kernel for each in (sides.old, sides.new)]
    found = scenario_runs.compare(runs, sides.old, sides.new)
    record = {"run_dir": str(directory), **scenario_runs.record(found)}
    record |= _provenance(sides, *built)
    (directory / "result.json").write_text(output.to_json(record) + "\n")
    differs = any(each.differs for each in found)
    return record, list(scenario_runs.lines(found)), differs


def _provenance(sides: _Sides, *kernels: Kernel) -> dict[str, Any]:
    return {
        "kernels": [provenance.of_kernel(each) for each in kernels],
        "tools": provenance.of_tools(*sides.qemus),
    }
