# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness selftests``: run the kernel's own tests in guests."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import formatted, options, output
from harness.cli.output import Line
from harness.errors import HarnessError, UsageError
from harness.host import progress, rundir
from harness.iommu import machine_file, machines
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.spec import DEFAULT_KERNEL, KernelSpec
from harness.machine import provenance, qemus
from harness.machine.topology import Machine
from harness.selftests import programs, render, run, suites
from harness.selftests.run import SelftestOutcome
from harness.selftests.suites import Selftest, Suite

_DEFAULT_MACHINES = list(machines.DEFAULTS)


def selftests(
    suite: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE",
            show_default="all",
            help="; ".join(f"{each.name}: {each.summary}" for each in suites.SUITES.values()) + ".",
        ),
    ] = [],  # noqa: B006  typer copies it
    kernel: options.Kernels = [DEFAULT_KERNEL],  # noqa: B006
    machine: Annotated[
        list[str],
        typer.Option("--machine", metavar="MACHINE", help=f"{options.MACHINE}; may be repeated."),
    ] = _DEFAULT_MACHINES,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    qemu: options.Qemus = options.DEFAULT_QEMUS,
    outputs: formatted.Outputs = [],  # noqa: B006
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Run the kernel's own IOMMU tests in guests.

    \b
      iommu-harness selftests --kernel tree:~/src/linux
      iommu-harness selftests vfio --kernel debian:7.3 --qemu debian:newest

    The programs of tools/testing/selftests are compiled from the source of each kernel. Every test
    runs in a guest of its own, and its splats count as failures. In the printed table, "n/a" is a
    test that the kernel or machine cannot run. The exit status is 1 if a test fails, and 3 if one
    is inconclusive, for example because it does not compile.
    """
    rundir.check(run_dir)
    to_write = formatted.parse(outputs, as_json=as_json)
    chosen = suites.named(suite)
    specs = options.kernels(
        kernel, patch, fragment, variant, llvm=False, debian_mirror=debian_mirror
    )
    _check_sources(specs)
    described = [machine_file.machine(name) for name in machine]
    qemus.check(qemu)
    where = qemus.on_each(described, qemu)
    directory = rundir.create("selftests", run_dir)
    progress.note(f"run: {directory}")
    jobs, errors = _build(specs, where, chosen)
    outcomes: list[SelftestOutcome] = []
    try:
        for outcome in _run(jobs, directory):
            outcomes.append(outcome)  # noqa: PERF402  keeps the outcomes before ^C
    finally:
        record = _record(outcomes, jobs, qemu, errors, directory)
        (directory / "result.json").write_text(output.to_json(record))
        rows = ((f"{each.suite}/{each.name}", each, "") for each in outcomes)
        formatted.write(to_write, formatted.groups(rows, record["tools"]))
        if as_json:
            output.print_json(record)
        elif not formatted.is_printed(to_write):
            output.show(render.lines(outcomes))
            output.show(_closing(outcomes, errors, directory))
    raise typer.Exit(_exit_code(render.counts(outcomes), errors))


def _check_sources(specs: Sequence[KernelSpec]) -> None:
    for spec in specs:
        if spec.kind == "prebuilt":
            raise UsageError(
                f"{spec} has no source from which to compile its tests",
                "use debian:, tree: or git:",
            )


Job = tuple[KernelSpec, Kernel, Machine, list[Selftest]]


def _build(
    specs: Sequence[KernelSpec], where: Sequence[Machine], chosen: Sequence[Suite]
) -> tuple[list[Job], list[HarnessError]]:
    """Build the kernels with their tests. A kernel that cannot be built does not stop the others;
    if none can be built, raise the first error."""
    pairs = [
        (spec, spec.with_variants((suites.VARIANT, *machine.variants)), machine)
        for spec in specs
        for machine in where
    ]
    built = {each.spec: each for each in build.build_all([fitted for _, fitted, _ in pairs])}
    errors = {str(each.error): each.error for each in built.values() if each.error}
    jobs: list[Job] = []
    for spec, fitted, machine in pairs:
        if found := built[fitted].kernel:
            jobs.append((spec, found, run.fitted(machine), _tests(fitted, found, chosen)))
    if not jobs:
        raise next(iter(errors.values()))
    return jobs, list(errors.values())


def _tests(spec: KernelSpec, kernel: Kernel, chosen: Sequence[Suite]) -> list[Selftest]:
    directories = [each.directory for each in suites.SUITES.values() if each.directory]
    built = programs.of(spec, kernel, directories)
    return [test for each in chosen for test in suites.tests(each, kernel, built)]


def _run(jobs: Sequence[Job], directory: Path) -> Iterator[SelftestOutcome]:
    """Run the tests, each with its logs in a numbered directory."""
    single = [(*job[:3], test) for job in jobs for test in job[3]]
    with progress.phase("selftests", "selftests") as phase:
        phase.expect(len(single))
        for number, (spec, kernel, machine, test) in enumerate(single, start=1):
            name = rundir.file_name(f"{test.title}-{spec}-{machine.label}")
            into = rundir.create("", directory / f"{number:03}-{name}")
            outcome = run.run(test, str(spec), kernel, machine, into)
            with (directory / "selftests.jsonl").open("a") as file:
                file.write(json.dumps(render.record(outcome)) + "\n")
            yield outcome
            phase.step()


def _record(
    outcomes: Sequence[SelftestOutcome],
    jobs: Sequence[Job],
    qemu: Sequence[str],
    errors: Sequence[HarnessError],
    directory: Path,
) -> dict[str, Any]:
    kernels = {kernel.key: provenance.of_kernel(kernel) for _, kernel, _, _ in jobs}
    return {
        "run_dir": str(directory),
        "counts": render.counts(outcomes),
        "tests": [render.record(each) for each in outcomes],
        "kernels": list(kernels.values()),
        "tools": provenance.of_tools(*qemu),
        "errors": [output.error_record(each) for each in errors],
    }


def _closing(
    outcomes: Sequence[SelftestOutcome], errors: Sequence[HarnessError], directory: Path
) -> Iterator[Line]:
    counted = render.counts(outcomes)
    text = ", ".join(f"{count} {result.replace('-', ' ')}" for result, count in counted.items())
    yield "", ""
    yield "bold", f"tests: {text}; logs are in {directory}"
    yield from (("red", str(each)) for each in errors)


def _exit_code(counts: dict[str, int], errors: Sequence[HarnessError]) -> int:
    """The exit status: 1 if a test failed; otherwise the highest of the errors' exit statuses and,
    if a test is inconclusive, 3."""
    if counts["failed"]:
        return 1
    inconclusive = 3 if counts["inconclusive"] else 0
    return max([inconclusive, *(error.exit_code for error in errors)])
