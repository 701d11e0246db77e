# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness repro``: a bug report replayed on one kernel or several."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.errors import HarnessError, UsageError
from harness.host import rundir
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.build import Outcome
from harness.machine import topology
from harness.repro import replay, show
from harness.repro.replay import Attempt, Request, Result


def repro(
    report: Annotated[
        Path, typer.Argument(help="mbox, eml, an archive's page as text, .transcript")
    ],
    kernel: Annotated[
        list[str], typer.Option("--kernel", metavar="SPEC", help=f"{options.SPEC}; repeatable.")
    ] = ["debian:6.12"],  # noqa: B006  typer copies it
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    machine: Annotated[
        str | None,
        typer.Option(help="MACHINE, MACHINE+PRESET or a .toml file; else what the report names."),
    ] = None,
    qemu: options.Qemu = topology.QEMU,
    session: Annotated[
        int | None, typer.Option(help="Which session, of a report with several.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Seconds of silence allowed; else 40 boots, at least 20."),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where what is observed goes.")] = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Replay a bug report's shell session and say whether the kernel does the same."""
    _check_limit(limit)
    rundir.check(run_dir)
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    asked = replay.request(report, session, machine, qemu)
    if not as_json:
        output.say(show.opening(asked))
    if len(specs) == 1:
        built = build.build(specs[0])
        directory = rundir.create(report.stem, run_dir)
        result = _replay(asked, built, directory, limit, quiet=as_json)
        if as_json:
            output.print_json(replay.record(result))
        raise typer.Exit(result.verdict.exit_code)
    directory = rundir.create(report.stem, run_dir)
    rows = []
    for number, outcome in enumerate(build.build_all(specs), start=1):
        below = rundir.create("", directory / f"{number}-{rundir.word(str(outcome.spec))}")
        rows.append(_attempt(asked, outcome, below, limit, quiet=as_json))
    if as_json:
        records = [_record(row) for row in rows]
        output.print_json({"run_dir": str(directory), "runs": records})
    else:
        output.say(show.table(rows, asked.machine.iommu.driver))
    raise typer.Exit(max(row.exit_code for row in rows))


def _record(row: Attempt) -> dict[str, Any]:
    if row.result:
        return {"spec": str(row.spec), **replay.record(row.result)}
    assert row.error
    return {"spec": str(row.spec), "error": output.error_record(row.error)}


def _attempt(
    asked: Request, outcome: Outcome, directory: Path, limit: float | None, *, quiet: bool
) -> Attempt:
    if outcome.kernel is None:
        return Attempt(outcome.spec, None, outcome.error)
    try:
        result = _replay(asked, outcome.kernel, directory, limit, quiet=quiet)
    except HarnessError as error:
        return Attempt(outcome.spec, None, error)
    return Attempt(outcome.spec, result, None)


def _replay(
    asked: Request, kernel: Kernel, directory: Path, limit: float | None, *, quiet: bool
) -> Result:
    if quiet:
        return replay.replay(asked, kernel, directory, limit=limit)
    output.say(show.run(directory, kernel))
    result = replay.replay(
        asked,
        kernel,
        directory,
        limit=limit,
        on_command=lambda number, text: output.say(show.command(number, text)),
        on_outcome=lambda each: output.say(show.step(each, asked.machine.iommu.driver)),
    )
    output.say(show.closing(result))
    return result


def _check_limit(limit: float | None) -> None:
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--limit {limit} is no time to wait", "give seconds above zero")
