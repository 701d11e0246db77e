# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness series``: test each patch of a series."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options, output
from harness.cli.run import DEFAULT_MACHINES, Machines, Workers, check
from harness.comparison import patch_series, series_render
from harness.comparison.patch_series import PatchResult
from harness.comparison.scenario_runs import ScenarioRuns
from harness.host import progress, rundir
from harness.kernel import spec
from harness.kernel.spec import DEFAULT_KERNEL
from harness.machine import provenance, qemus, topology
from harness.suite.run import RunRequest


def series(
    patches: Annotated[
        Path,
        typer.Argument(
            metavar="SERIES",
            help="An mbox, a directory of git format-patch, or a saved page of a mail archive.",
        ),
    ],
    kernel: options.Kernel = DEFAULT_KERNEL,
    scenario: Annotated[
        list[str],
        typer.Option(
            "--scenario",
            metavar="SCENARIO",
            show_default="all",
            help="Run only this SCENARIO, as for run; may be repeated.",
        ),
    ] = [],  # noqa: B006  typer copies it
    stop_at_first: Annotated[
        bool, typer.Option("--stop-at-first", help="Stop at the first patch with a problem.")
    ] = False,
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    machine: Machines = DEFAULT_MACHINES,
    qemu: options.Qemu = topology.QEMU,
    workers: Workers = 0,
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Test each patch of a series against its parent.

    \b
      iommu-harness series v3.mbox --kernel tree:~/src/linux
      iommu-harness series v3.mbox --kernel debian:6.12 --scenario pinning --scenario groups

    Each patch is built on top of those before it. The scenarios that fail with it and did not fail
    before, new warnings of the compiler and changed behaviours are printed, and patches that break
    what a later patch fixes. The exit status is 1 if a patch does not build, adds a warning or
    breaks a scenario, and 2 if a patch does not apply.
    """
    rundir.check(run_dir)
    options.use_mirror(debian_mirror)
    base = spec.parse(kernel, [], fragment, variant)
    patch_series.check(base)
    check(machine, [], scenario)
    qemus.check([qemu])
    directory = rundir.create(patches.stem, run_dir)
    found = patch_series.patches(patches, directory / "patches")
    progress.note(f"run: {directory}")
    request = RunRequest(
        (), tuple(machine), tuple(scenario), qemus=(qemu,), workers=workers, decoded=False
    )
    runs = ScenarioRuns(request, directory)
    results: list[PatchResult] = []
    try:
        for result in patch_series.test(base, found, runs):
            results.append(result)
            if not as_json:
                output.show(series_render.patch(result, len(found)))
            if stop_at_first and not result.is_good:
                break
    finally:
        record = {
            "run_dir": str(directory),
            **series_render.record(results, len(found)),
            "tools": provenance.of_tools(qemu),
        }
        (directory / "result.json").write_text(output.to_json(record) + "\n")
        if as_json:
            output.print_json(record)
        else:
            output.show(series_render.closing(results, len(found)))
    raise typer.Exit(_exit_code(results))


def _exit_code(results: list[PatchResult]) -> int:
    """The exit status: 2 if a patch does not apply, 1 if one has another problem."""
    if not all(each.applies for each in results):
        return 2
    return 0 if all(each.is_good for each in results) else 1
