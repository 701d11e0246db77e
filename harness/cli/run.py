# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness run``: the scenarios."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.errors import HarnessError, HostError, UsageError
from harness.host import progress, rundir
from harness.iommu import behaviour, machine_file
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec
from harness.machine import provenance, topology
from harness.suite import matrix, resolved, run
from harness.suite.run import Outcome, Request

DEFAULT_MACHINES = ["smmuv3", "virtio-iommu"]

Kernels = Annotated[
    list[str], typer.Option("--kernel", metavar="SPEC", help=f"{options.SPEC}; repeatable.")
]
Machines = Annotated[
    list[str], typer.Option("--machine", help="A machine that the scenarios run on; repeatable.")
]
Behaviours = Annotated[
    list[str],
    typer.Option(
        "--behaviour",
        metavar="NAME",
        help="The kernel shows it, or with no-NAME does not, whatever its version; repeatable.",
    ),
]
Workers = Annotated[
    int, typer.Option("-n", "--workers", min=0, help="Guests at once; else three for two cores.")
]
RunDir = Annotated[Path | None, typer.Option(help="Where what is observed goes.")]


def run_(
    scenario: Annotated[
        list[str], typer.Argument(metavar="[SCENARIO]...", help="pinning, groups::test_x, ...")
    ] = [],  # noqa: B006  typer copies it
    kernel: Kernels = [DEFAULT_KERNEL],  # noqa: B006
    machine: Machines = DEFAULT_MACHINES,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    qemu: options.Qemu = topology.QEMU,
    behaviours: Behaviours = [],  # noqa: B006
    workers: Workers = 0,
    repeat: Annotated[int, typer.Option(min=1, help="Run all of it so many times.")] = 1,
    first_failure: Annotated[bool, typer.Option(help="End at the first failure.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List the scenarios' subjects and the behaviours.")
    ] = False,
    run_dir: RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Run the scenarios: everything that is argued about, asserted on every kernel."""
    if listing:
        _list(scenario, as_json=as_json)
        return
    rundir.check(run_dir)
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=False, debian_mirror=debian_mirror
    )
    check(machine, behaviours, scenario)
    _check_clients(specs, machine)
    found = resolved.build(specs, machine, behaviours)
    directory = rundir.create("scenarios", run_dir)
    request = Request(
        found.specs,
        tuple(machine),
        tuple(scenario),
        tuple(behaviours),
        qemu,
        workers,
        first_failure,
        resolved=resolved.write(found.kernels, resolved.file_in(directory)),
    )
    errors = [*found.errors]
    progress.say(f"run: {directory}")
    try:
        for number in range(1, repeat + 1):
            run.run(request, directory, number=number, title=_title(number, repeat))
    except HostError as failure:
        errors.append(failure)
    except (KeyboardInterrupt, SystemExit):  # ^C, or told to end
        _tell(directory, repeat, qemu, errors, as_json=as_json)
        raise
    counts = _tell(directory, repeat, qemu, errors, as_json=as_json)
    for error in () if as_json else errors:
        output.say([("red", str(error))])
    raise typer.Exit(_exit_code(counts, errors))


def _tell(
    directory: Path, repeat: int, qemu: str, errors: Sequence[HarnessError], *, as_json: bool
) -> dict[str, int]:
    """What has come of the rounds until now, on the terminal and in the directory; how often
    each result."""
    every = run.outcomes(directory, range(1, repeat + 1))
    record = _record(every, directory)
    record["kernels"] = resolved.provenance_of(directory)
    record["tools"] = provenance.of_tools(qemu)
    record["errors"] = [output.error_record(each) for each in errors]
    (directory / "result.json").write_text(output.text_of(record))
    if as_json:
        output.print_json(record)
    elif every:
        output.say(matrix.lines(matrix.worst(every)))
        output.say(_closing(every, directory))
    counts: dict[str, int] = record["counts"]
    return counts


def _exit_code(counts: dict[str, int], errors: Sequence[HarnessError]) -> int:
    """1 where a scenario failed, else what kept one from being judged."""
    if counts["failed"]:
        return 1
    inconclusive = 3 if counts["inconclusive"] or counts["skipped"] else 0
    return max([inconclusive, *(error.exit_code for error in errors)])


def _title(number: int, repeat: int) -> str:
    return "scenarios" if repeat == 1 else f"scenarios, round {number} of {repeat}"


def check(machines: Sequence[str], behaviours: list[str], scenarios: Sequence[str] = ()) -> None:
    """Before anything is built."""
    behaviour.claims(behaviours)
    list(run.chosen(scenarios))
    for name in machines:
        machine_file.machine(name)


def _check_clients(specs: Sequence[KernelSpec], machines: Sequence[str]) -> None:
    for name in machines:
        if machine_file.machine(name).overlays and any(spec.kind == "prebuilt" for spec in specs):
            raise UsageError(
                f"a prebuilt kernel has none of the guest modules that {name}'s clients need",
                f"name {name}+nic, or a kernel with its source",
            )


def _record(every: list[Outcome], directory: Path) -> dict[str, Any]:
    outcomes = matrix.worst(every)
    return {
        "run_dir": str(directory),
        "counts": matrix.counts(outcomes),
        "flaky": matrix.flaky(every),
        "retried": matrix.retried(every),
        "scenarios": [asdict(each) for each in outcomes],
    }


def _closing(every: list[Outcome], directory: Path) -> Iterator[tuple[str, str]]:
    counts = matrix.counts(matrix.worst(every))
    yield "", ""
    for name in matrix.flaky(every):
        yield "red", f"not the same in all rounds: {name}"
    for text in matrix.retried(every):
        yield "yellow", f"host trouble, run again: {text}"
    told = ", ".join(f"{count} {result.replace('-', ' ')}" for result, count in counts.items())
    last = max(each.round for each in every)
    rounds = f", the worst of {last} rounds" if last > 1 else ""
    yield "bold", f"{told}{rounds}; all of it is in {directory}"


def _list(subjects: Sequence[str], *, as_json: bool) -> None:
    """The subjects, or the scenarios of some."""
    if subjects:
        named = [str(each).partition("::") for each in run.chosen(subjects)]
        tests = [
            test
            for file, _, name in named
            for test in run.tests_of(Path(file))
            if name in ("", test.name)
        ]
        if as_json:
            output.print_json({"scenarios": {each.name: each.summary for each in tests}})
        for each in () if as_json else tests:
            output.say([("bold", each.name), ("", f"  {each.summary}")])
        return
    _list_subjects(as_json=as_json)


def _list_subjects(*, as_json: bool) -> None:
    subjects = {
        file.stem.removeprefix("test_"): file.read_text().split('"""')[1].partition("\n\n")[0]
        for file in sorted(run.directory().glob("test_*.py"))
    }
    behaviours = {each.name: f"{each.summary} ({each.source})" for each in behaviour.TABLE.values()}
    if as_json:
        output.print_json({"scenarios": subjects, "behaviours": behaviours})
        return
    lines = [("bold", "scenarios")]
    lines += [("", f"  {name:<16} {' '.join(text.split())}") for name, text in subjects.items()]
    lines.append(("bold", "behaviours, with --behaviour NAME or no-NAME"))
    lines += [("", f"  {name:<32} {reason}") for name, reason in behaviours.items()]
    output.say(lines)
