# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness repro``: replay bug reports on one or more kernels."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.errors import HarnessError, UsageError
from harness.host import rundir
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.build import Outcome
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec
from harness.machine import topology
from harness.repro import device_names, render, replay, request, serialize
from harness.repro.replay import Attempt, Listener, Result
from harness.repro.request import Request


@dataclass(frozen=True, slots=True)
class _How:
    """How replays run.

    ``limit``: the seconds without output after which a command hangs, None for the default.
    ``quiet``: whether they print nothing, as with --json.
    """

    limit: float | None
    quiet: bool


def repro(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT",
            help="A mail (mbox, eml), a saved page of a mail archive, or a .transcript of a shell"
            " session; - is standard input.",
        ),
    ],
    kernel: options.Kernels = [DEFAULT_KERNEL],  # noqa: B006  typer copies it
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="MACHINE", show_default="chosen from the report", help=f"{options.MACHINE}."
        ),
    ] = None,
    qemu: options.Qemu = topology.QEMU,
    session: options.Session = None,
    device: Annotated[
        list[str],
        typer.Option(
            metavar="REPORTED=GUEST",
            help="Use the guest's device GUEST for the report's device REPORTED; may be repeated.",
        ),
    ] = [],  # noqa: B006
    limit: options.Limit = None,
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Replay bug reports on kernels and print whether they reproduce.

    \b
      iommu-harness repro report.mbox
      iommu-harness repro report.mbox --kernel debian:6.12 --kernel tree:~/src/linux

    The commands in a report's shell session are run in a guest, and the report's claims are checked
    against their output, the kernel log and sysfs. The exit status is 0 for reproduced, 1 for not
    reproduced, and 3 for inconclusive, for example if the guest lacks a device that the report
    uses.
    """
    _check_limit(limit)
    rundir.check(run_dir)
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    devices = device_names.parse_choices(device)
    requests = [request.create(each, session, machine, qemu, devices) for each in reports]
    how = _How(limit, as_json)
    title = "standard-input" if str(reports[0]) == "-" else reports[0].stem
    if len(specs) == 1 and len(requests) == 1:
        if not as_json:
            output.show(render.opening(requests[0]))
        built = build.build(specs[0])
        result = _replay(requests[0], (specs[0], built), rundir.create(title, run_dir), how)
        if as_json:
            output.print_json(serialize.result(result))
        raise typer.Exit(result.verdict.exit_code)
    directory = rundir.create(title, run_dir)
    rows = [
        _attempt(each, outcome, directory, how, alone=len(requests) == 1)
        for outcome in build.build_all(specs)
        for each in requests
    ]
    if as_json:
        records = [_record(row) for row in rows]
        output.print_json({"run_dir": str(directory), "runs": records})
    else:
        output.show(render.table(rows, requests[0].machine.iommu.driver))
    raise typer.Exit(max(row.exit_code for row in rows))


def _record(row: Attempt) -> dict[str, Any]:
    if row.result:
        return {"spec": str(row.spec), **serialize.result(row.result)}
    assert row.error
    return {"spec": str(row.spec), "report": row.name, "error": output.error_record(row.error)}


def _attempt(
    replayed: Request, outcome: Outcome, directory: Path, how: _How, *, alone: bool
) -> Attempt:
    """Replay one report on one kernel, in the next numbered directory below ``directory``."""
    name = "" if alone else replayed.name
    if outcome.kernel is None:
        return Attempt(outcome.spec, name, None, outcome.error)
    number = sum(path.is_dir() for path in directory.iterdir()) + 1
    below = directory / f"{number}-{rundir.file_name(f'{name} {outcome.spec}')}"
    try:
        if not how.quiet:
            output.show(render.opening(replayed))
        built = outcome.spec, outcome.kernel
        result = _replay(replayed, built, rundir.create("", below), how)
    except HarnessError as error:
        return Attempt(outcome.spec, name, None, error)
    return Attempt(outcome.spec, name, result, None)


def _replay(
    replayed: Request, built: tuple[KernelSpec, Kernel], directory: Path, how: _How
) -> Result:
    spec, kernel = built
    if how.quiet:
        return replay.replay(replayed, kernel, directory, limit=how.limit, spec=spec)
    driver = replayed.machine.iommu.driver
    output.show(render.run(directory, kernel))
    listener = Listener(
        on_command=lambda number, text: output.show(render.command(number, text)),
        on_step=lambda step, judged: output.show(render.step(step, judged, driver)),
        on_note=lambda text: output.show(render.note(text)),
    )
    result = replay.replay(
        replayed, kernel, directory, limit=how.limit, listener=listener, spec=spec
    )
    output.show(render.closing(result))
    return result


def _check_limit(limit: float | None) -> None:
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(
            f"--limit must be a positive number of seconds, not {limit:g}", "for example --limit 60"
        )
