# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness mutants``: the scenario suite, tested on kernels with planted bugs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from harness.cli import options, output, run
from harness.cli.output import Line
from harness.errors import UsageError, did_you_mean
from harness.host import rundir
from harness.kernel.spec import DEFAULT_KERNEL
from harness.suite import harmless, killer_table, mutant, mutants, planted, resolved
from harness.suite.harmless import HarmlessScore
from harness.suite.mutant import Mutant
from harness.suite.mutants import Score
from harness.suite.run import RunRequest


def mutants_(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            show_default="tests/mutants of iommu-harness",
            help="A directory of patches, each of which plants one bug.",
        ),
    ] = None,
    kernel: options.Kernel = DEFAULT_KERNEL,
    machine: run.Machines = run.DEFAULT_MACHINES,
    only: Annotated[
        list[str], typer.Option(metavar="NAME", help="Test only this mutant; may be repeated.")
    ] = [],  # noqa: B006
    scenario: Annotated[
        list[str],
        typer.Option(
            metavar="SCENARIO", help="Run only this SCENARIO, as for run; may be repeated."
        ),
    ] = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    behaviours: options.Behaviours = [],  # noqa: B006
    every_killer: Annotated[
        bool,
        typer.Option(
            "--every-killer",
            help="Run all scenarios on each mutant, instead of stopping at the first failure.",
        ),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Write which scenarios kill which mutant to DIR/killers.json."
        ),
    ] = False,
    is_harmless: Annotated[
        bool,
        typer.Option(
            "--harmless",
            help="Use patches that plant no bug: each failed scenario is a false alarm.",
        ),
    ] = False,
    runs: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Run the scenarios N times with each harmless patch."
        ),
    ] = 1,
    workers: run.Workers = 0,
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Plant bugs in a kernel, one at a time, and check that scenarios find them.

    \b
      iommu-harness mutants --only lost-module-put-on-release --machine smmuv3
      iommu-harness mutants --dir my-mutants --scenario pinning

    A mutant is a patch that plants one bug, and the kernel built with it. It is killed if a
    scenario fails because of the bug, which is confirmed by further runs with and without the
    patch. Otherwise it survives. The exit status is 3 if a mutant is inconclusive or none could
    be judged, otherwise 1 if one survives.
    """
    rundir.check(run_dir)
    (spec,) = options.kernels([kernel], [], [], variant, llvm=False, debian_mirror=debian_mirror)
    if spec.kind == "prebuilt":
        raise UsageError(
            "a prebuilt kernel cannot be patched", "use a kernel that is built from source"
        )
    run.check(machine, behaviours, scenario)
    where = directory or (mutant.bundled_harmless() if is_harmless else mutant.bundled())
    chosen = _chosen(mutant.read(where), only)
    base = resolved.build([spec], machine, behaviours)
    into = rundir.create("mutants", run_dir)
    request = RunRequest(
        (spec,),
        tuple(machine),
        tuple(scenario),
        tuple(behaviours),
        workers=workers,
        first_failure=True,
        decoded=False,
        resolved=resolved.write(base.kernels, resolved.file_in(into)),
    )
    planted.check_base(request, into / "without-patch")
    if is_harmless:
        all_of = replace(request, first_failure=False)
        quiet = _shown(harmless.scores(chosen, all_of, runs, into), _quiet, into, as_json=as_json)
        _end("harmless", quiet, _quiet_summary(quiet, into), into, as_json=as_json)
        raise typer.Exit(_quiet_status(quiet))
    judging = replace(request, first_failure=not every_killer)
    scores = mutants.scores(chosen, judging, into)
    if record:
        scores = _recorded(scores, where)
    found = _shown(scores, _score, into, as_json=as_json)
    _end("mutants", found, _summary(found, into), into, as_json=as_json)
    raise typer.Exit(_status(found))


def _chosen(found: list[Mutant], only: Sequence[str]) -> list[Mutant]:
    names = {each.name for each in found}
    for name in only:
        if name not in names:
            hint = did_you_mean(name, names, f"see the patches in {found[0].patch.parent}")
            raise UsageError(f"unknown mutant {name!r}", hint)
    return [each for each in found if not only or each.name in only]


def _recorded(scores: Iterable[Score], where: Path) -> Iterator[Score]:
    """Yield each score, after its killers are written to the table beside the patches. If the run
    is interrupted, the killers of earlier mutants are kept."""
    for score in scores:
        if score.caught and score.by:
            killer_table.write(where, {score.name: score.by})
        yield score


class _Recorded(Protocol):
    def record(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=_Recorded)


def _shown(
    judged: Iterable[T], lines: Callable[[T], Iterable[Line]], into: Path, *, as_json: bool
) -> list[T]:
    """Write each result to the run directory and print it as soon as it is known. Returns all
    results."""
    found = []
    log = rundir.JsonLines(into / "mutants.jsonl")
    for each in judged:
        log.add(each.record())
        found.append(each)
        if not as_json:
            output.show(lines(each))
    log.close()
    return found


def _end(
    name: str, found: Sequence[_Recorded], summary: Iterable[Line], into: Path, *, as_json: bool
) -> None:
    record = {"run_dir": str(into), name: [each.record() for each in found]}
    (into / "result.json").write_text(output.to_json(record))
    if as_json:
        output.print_json(record)
    else:
        output.show(summary)


_STYLES = {
    "killed": "green",
    "survived": "red",
    "inconclusive": "yellow",
    "quiet": "green",
    "false-alarm": "red",
}


def _head(result: str, rest: str) -> Line:
    return _STYLES.get(result, ""), f"{result.replace('-', ' '):<16} {rest}"


def _score(score: Score) -> Iterator[Line]:
    if not score.caught:
        reason = score.reason or score.summary
        yield _head(score.result, f"{score.name}: {reason}")
        return
    by = f", by {', '.join(score.by)}" if score.by else ""
    figures = score.killers[0].figures
    yield _head(score.result, f"{score.name} ({score.kind}){by}; {figures}")
    yield from (("", f"    {line}") for line in score.message.splitlines()[:4])
    if not score.names_the_bug:
        yield "", "    (the failure does not name the bug)"


def _summary(found: Sequence[Score], into: Path) -> Iterator[Line]:
    """Yield the last line. Its score counts only mutants that were killed or survived."""
    counts = Counter[str](each.result for each in found)
    judged = counts["killed"] + counts["survived"]
    names_bug = sum(bool(each.names_the_bug) for each in found)
    rest = [f"{counts[name]} {name.replace('-', ' ')}" for name in _UNSCORED if counts[name]]
    text = ", ".join(
        [
            f"{counts['killed']} of {judged} mutants killed",
            f"{names_bug} named by the failure",
            *rest,
        ]
    )
    yield "bold", f"{text}; logs are in {into}"


_UNSCORED = ("inconclusive", "equivalent", "not-applicable")


def _status(found: Sequence[Score]) -> int:
    results = {each.result for each in found}
    if "inconclusive" in results or not results & {"killed", "survived"}:
        return 3
    return 1 if "survived" in results else 0


def _quiet(found: HarmlessScore) -> Iterator[Line]:
    runs = f" in {found.runs} runs" if found.runs > 1 else ""
    reason = "" if found.result in ("quiet", "false-alarm") else f": {found.reason}"
    yield _head(found.result, f"{found.name}{runs}{reason}")
    for each in found.alarms:
        times = f"{each.times} time{'s' * (each.times != 1)}"
        yield "red", f"    {each.scenario} [{each.machine}], {times}"
        yield from (("", f"        {line}") for line in each.message.splitlines()[:4])


def _quiet_summary(found: Sequence[HarmlessScore], into: Path) -> Iterator[Line]:
    counts = Counter(each.result for each in found)
    text = ", ".join(f"{counts[name]} {name.replace('-', ' ')}" for name in counts)
    patches = f"{len(found)} harmless patch{'es' * (len(found) != 1)}"
    yield "bold", f"{patches}: {text}; logs are in {into}"


def _quiet_status(found: Sequence[HarmlessScore]) -> int:
    results = {each.result for each in found}
    if "false-alarm" in results:
        return 1
    return 0 if "quiet" in results and "inconclusive" not in results else 3
