# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness run``: run the scenario suite."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import formatted, options, output
from harness.cli.output import Line
from harness.errors import HarnessError, HostError, UsageError
from harness.host import progress, rundir
from harness.iommu import behaviour, machine_file, machines
from harness.iommu.known_issues import issues
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec
from harness.machine import provenance, qemus
from harness.suite import matrix, resolved, run, scenarios
from harness.suite.run import RunRequest, ScenarioOutcome

DEFAULT_MACHINES = list(machines.DEFAULTS)

Machines = Annotated[
    list[str],
    typer.Option("--machine", metavar="MACHINE", help=f"{options.MACHINE}; may be repeated."),
]
Workers = Annotated[
    int,
    typer.Option(
        "-n",
        "--workers",
        metavar="N",
        min=0,
        help="The number of guests that run in parallel; 0 means three for every two cores.",
    ),
]


def run_(
    scenario: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO",
            help="A subject (pinning), a file or directory of scenarios, or a single scenario"
            " (pinning::test_x); see --list.",
        ),
    ] = [],  # noqa: B006  typer copies it
    kernel: options.Kernels = [DEFAULT_KERNEL],  # noqa: B006
    machine: Machines = DEFAULT_MACHINES,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    qemu: options.Qemus = options.DEFAULT_QEMUS,
    behaviours: options.Behaviours = [],  # noqa: B006
    known_issues: options.KnownIssues = [],  # noqa: B006
    workers: Workers = 0,
    repeat: Annotated[int, typer.Option(metavar="N", min=1, help="Run the scenarios N times.")] = 1,
    first_failure: Annotated[
        bool, typer.Option("--first-failure", help="Stop at the first failure.")
    ] = False,
    keep_failed: Annotated[
        bool,
        typer.Option(
            "--keep-failed",
            help="Save the guests of failed scenarios for `iommu-harness shell`.",
        ),
    ] = False,
    listing: Annotated[
        bool,
        typer.Option(
            "--list",
            help="List the subjects and behaviours, or the scenarios that SCENARIO selects.",
        ),
    ] = False,
    outputs: formatted.Outputs = [],  # noqa: B006
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Run the scenario suite on kernels and print which scenarios fail.

    \b
      iommu-harness run --kernel tree:~/src/linux
      iommu-harness run pinning groups --kernel debian:6.1 --kernel debian:7.2

    A scenario tests one rule in a fresh guest. In the printed table, "known" counts the scenarios
    that ran into a known issue of the kernel (see `iommu-harness behaviours`), and "n/a" the
    scenarios that are not applicable to the kernel or machine. The exit status is 1 if a scenario
    fails, 3 if one is inconclusive.
    """
    if listing:
        _list(scenario, as_json=as_json)
        return
    rundir.check(run_dir)
    to_write = formatted.parse(outputs, as_json=as_json)
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=False, debian_mirror=debian_mirror
    )
    issue_files = tuple(file.absolute() for file in known_issues)
    check(machine, behaviours, scenario, issue_files)
    qemus.check(qemu)
    _check_clients(specs, machine)
    found = resolved.build(specs, machine, behaviours, issue_files)
    for each in found.kernels:
        for text in each.kernel.notes:
            progress.note(f"{each.kernel.label}: {text}")
    directory = rundir.create("scenarios", run_dir)
    request = RunRequest(
        found.specs,
        tuple(machine),
        tuple(scenario),
        tuple(behaviours),
        tuple(qemu),
        workers,
        first_failure,
        keep_failed=keep_failed,
        resolved=resolved.write(found.kernels, resolved.file_in(directory)),
        known_issues=issue_files,
    )
    errors = [*found.errors]
    report = partial(_report, directory, repeat, qemu, errors, to_write, as_json=as_json)
    progress.note(f"run: {directory}")
    try:
        for number in range(1, repeat + 1):
            run.run(request, directory, number=number, title=_title(number, repeat))
    except HostError as failure:
        errors.append(failure)
    except (KeyboardInterrupt, SystemExit):  # ^C, or SIGTERM
        report()
        raise
    counts = report()
    for error in () if as_json or formatted.is_printed(to_write) else errors:
        output.show([("red", str(error))])
    raise typer.Exit(_exit_code(counts, errors))


def _report(
    directory: Path,
    repeat: int,
    qemu: Sequence[str],
    errors: Sequence[HarnessError],
    outputs: Sequence[formatted.Output],
    *,
    as_json: bool,
) -> dict[str, int]:
    """Print the outcomes of the rounds so far, write them to the run directory and the outputs,
    and return the number of each result."""
    every = run.outcomes(directory, range(1, repeat + 1))
    record = _record(every, directory)
    record["kernels"] = resolved.provenance_of(directory)
    record["tools"] = provenance.of_tools(*qemu)
    record["errors"] = [output.error_record(each) for each in errors]
    (directory / "result.json").write_text(output.to_json(record))
    rows = ((each.scenario, each, each.details) for each in matrix.worst(every))
    formatted.write(outputs, formatted.groups(rows, record["tools"]))
    if as_json:
        output.print_json(record)
    elif every and not formatted.is_printed(outputs):
        output.show(matrix.lines(matrix.worst(every)))
        output.show(_closing(every, directory))
    counts: dict[str, int] = record["counts"]
    return counts


def _exit_code(counts: dict[str, int], errors: Sequence[HarnessError]) -> int:
    """The exit status: 1 if a scenario failed; otherwise the highest of the errors' exit statuses
    and, if a scenario is inconclusive or skipped, 3."""
    if counts["failed"]:
        return 1
    inconclusive = 3 if counts["inconclusive"] or counts["skipped"] else 0
    return max([inconclusive, *(error.exit_code for error in errors)])


def _title(number: int, repeat: int) -> str:
    return "scenarios" if repeat == 1 else f"scenarios, round {number} of {repeat}"


def check(
    machines: Sequence[str],
    behaviours: list[str],
    names: Sequence[str] = (),
    issue_files: tuple[Path, ...] = (),
) -> None:
    """Check the names and files before anything is built. Raises UsageError if one is unknown
    or invalid."""
    behaviour.overrides(behaviours)
    issues(issue_files)
    list(scenarios.select(names))
    for name in machines:
        machine_file.machine(name)


def _check_clients(specs: Sequence[KernelSpec], machines: Sequence[str]) -> None:
    for name in machines:
        if machine_file.machine(name).overlays and any(spec.kind == "prebuilt" for spec in specs):
            raise UsageError(
                f"the clients of {name} require guest modules, which a prebuilt kernel lacks",
                f"use {name}+nic, or a kernel that is built from source",
            )


def _record(every: list[ScenarioOutcome], directory: Path) -> dict[str, Any]:
    outcomes = matrix.worst(every)
    return {
        "run_dir": str(directory),
        "counts": matrix.counts(outcomes),
        "flaky": matrix.flaky(every),
        "retried": matrix.retried(every),
        "scenarios": [asdict(each) for each in outcomes],
    }


def _closing(every: list[ScenarioOutcome], directory: Path) -> Iterator[Line]:
    counts = matrix.counts(matrix.worst(every))
    yield "", ""
    for name in matrix.flaky(every):
        yield "red", f"different results in different rounds: {name}"
    for text in matrix.retried(every):
        yield "yellow", f"run again after an error on this host: {text}"
    text = ", ".join(f"{count} {result.replace('-', ' ')}" for result, count in counts.items())
    last = max(each.round for each in every)
    rounds = f", the worst of {last} rounds" if last > 1 else ""
    yield "bold", f"{text}{rounds}; logs are in {directory}"


def _list(subjects: Sequence[str], *, as_json: bool) -> None:
    """Print the subjects or, if any are given, the scenarios of ``subjects``."""
    if subjects:
        named = [each.partition("::") for each in scenarios.select(subjects)]
        tests = [
            test
            for file, _, name in named
            for test in scenarios.scenarios_of(Path(file))
            if name in ("", test.name)
        ]
        if as_json:
            output.print_json({"scenarios": {each.name: each.summary for each in tests}})
        for each in () if as_json else tests:
            output.show([("bold", each.name), ("", f"  {each.summary}")])
        return
    _list_subjects(as_json=as_json)


def _list_subjects(*, as_json: bool) -> None:
    subjects = {
        subject: file.read_text().split('"""')[1].partition("\n\n")[0]
        for subject, file in scenarios.subjects().items()
    }
    behaviours = {each.name: f"{each.summary} ({each.source})" for each in behaviour.TABLE.values()}
    if as_json:
        output.print_json({"scenarios": subjects, "behaviours": behaviours})
        return
    lines = [("bold", "subjects, for run SUBJECT; run --list SUBJECT lists its scenarios")]
    lines += [("", f"  {name:<16} {' '.join(text.split())}") for name, text in subjects.items()]
    lines.append(
        (
            "bold",
            "behaviours (differences between kernels that are not bugs), for --behaviour [no-]NAME",
        )
    )
    lines += [("", f"  {name:<32} {reason}") for name, reason in behaviours.items()]
    output.show(lines)
