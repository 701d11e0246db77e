# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness repro``: bug reports replayed on one kernel or several."""

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
from harness.repro.replay import Attempt, Result, Watcher
from harness.repro.request import Request


@dataclass(frozen=True, slots=True)
class _How:
    """How replays run: the ``limit`` on silence, and whether they print."""

    limit: float | None
    quiet: bool


def repro(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT...",
            help="mbox, eml, an archive's page as text, .transcript; - is standard input.",
        ),
    ],
    kernel: Annotated[
        list[str], typer.Option("--kernel", metavar="SPEC", help=f"{options.SPEC}; repeatable.")
    ] = [DEFAULT_KERNEL],  # noqa: B006  typer copies it
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
        str | None,
        typer.Option(help="Which session, of a report with several: 2, or 1,3 as one, or all."),
    ] = None,
    device: Annotated[
        list[str],
        typer.Option(
            help="REPORTED=GUEST: the guest's device for one of the report's; repeatable."
        ),
    ] = [],  # noqa: B006
    limit: Annotated[
        float | None,
        typer.Option(help="Seconds of silence allowed; else 40 boots, at least 20."),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where what is observed goes.")] = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Replay bug reports' shell sessions and say whether the kernel does the same."""
    _check_limit(limit)
    rundir.check(run_dir)
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
    )
    devices = device_names.parse_choices(device)
    asked = [request.create(each, session, machine, qemu, devices) for each in reports]
    how = _How(limit, as_json)
    title = "standard-input" if str(reports[0]) == "-" else reports[0].stem
    if len(specs) == 1 and len(asked) == 1:
        if not as_json:
            output.say(render.opening(asked[0]))
        built = build.build(specs[0])
        result = _replay(asked[0], (specs[0], built), rundir.create(title, run_dir), how)
        if as_json:
            output.print_json(serialize.result(result))
        raise typer.Exit(result.verdict.exit_code)
    directory = rundir.create(title, run_dir)
    rows = [
        _attempt(each, outcome, directory, how, alone=len(asked) == 1)
        for outcome in build.build_all(specs)
        for each in asked
    ]
    if as_json:
        records = [_record(row) for row in rows]
        output.print_json({"run_dir": str(directory), "runs": records})
    else:
        output.say(render.table(rows, asked[0].machine.iommu.driver))
    raise typer.Exit(max(row.exit_code for row in rows))


def _record(row: Attempt) -> dict[str, Any]:
    if row.result:
        return {"spec": str(row.spec), **serialize.result(row.result)}
    assert row.error
    return {"spec": str(row.spec), "report": row.name, "error": output.error_record(row.error)}


def _attempt(
    asked: Request, outcome: Outcome, directory: Path, how: _How, *, alone: bool
) -> Attempt:
    """One report on one kernel, in the next directory below."""
    name = "" if alone else asked.name
    if outcome.kernel is None:
        return Attempt(outcome.spec, name, None, outcome.error)
    number = sum(path.is_dir() for path in directory.iterdir()) + 1
    below = directory / f"{number}-{rundir.word(f'{name} {outcome.spec}')}"
    try:
        if not how.quiet:
            output.say(render.opening(asked))
        built = outcome.spec, outcome.kernel
        result = _replay(asked, built, rundir.create("", below), how)
    except HarnessError as error:
        return Attempt(outcome.spec, name, None, error)
    return Attempt(outcome.spec, name, result, None)


def _replay(asked: Request, built: tuple[KernelSpec, Kernel], directory: Path, how: _How) -> Result:
    spec, kernel = built
    if how.quiet:
        return replay.replay(asked, kernel, directory, limit=how.limit, spec=spec)
    driver = asked.machine.iommu.driver
    output.say(render.run(directory, kernel))
    watcher = Watcher(
        on_command=lambda number, text: output.say(render.command(number, text)),
        on_step=lambda step, judged: output.say(render.step(step, judged, driver)),
        on_note=lambda text: output.say(render.note(text)),
    )
    result = replay.replay(asked, kernel, directory, limit=how.limit, watcher=watcher, spec=spec)
    output.say(render.closing(result))
    return result


def _check_limit(limit: float | None) -> None:
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--limit {limit} is no time to wait", "give seconds above zero")
