# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness bisect``: find the first bad commit, patch, release or option."""

import difflib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.bisect import bisection, history, render
from harness.bisect.bisection import Bisection, BisectRequest
from harness.bisect.gitbisect import Terms
from harness.bisect.predicate import Predicate
from harness.bisect.search import Step
from harness.bisect.space import SearchSpace
from harness.cli import options, output
from harness.errors import UsageError
from harness.host import paths, rundir
from harness.iommu import machines
from harness.kernel.spec import DEFAULT_KERNEL
from harness.machine import topology


class _Group(TyperGroup):
    """A group that passes its arguments to ``find``, unless the first is a subcommand."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "-h", "--help"}
        first = args[0] if args else "--help"
        near = difflib.get_close_matches(first, self.commands, 1, 0.8)
        if near and first not in known and not Path(first).exists():
            raise UsageError(f"unknown command {first!r}", f"did you mean {near[0]}?")
        return super().parse_args(ctx, args if first in known else ["find", *args])


_HELP = """Find the first bad commit, patch, Debian kernel or config option.

\b
  iommu-harness bisect report.mbox --tree ~/src/linux --good v6.12 --bad HEAD
  iommu-harness bisect --command 'modprobe arm-smmu-v3' --splat WARNING --tree ~/src/linux \\
      --good v6.12 --bad HEAD

Unless the first argument is one of the commands below, all arguments are passed to find (see
`iommu-harness bisect find --help`). The exit status is 0 if the result has the requested confidence
and 3 if not."""

app = options.application(cls=_Group, help=_HELP, no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory of a bisection.")]


@app.command()
def find(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="REPORT|SCENARIO",
            help="A bug report (bad if it reproduces), or scenarios (bad if one fails).",
        ),
    ] = [],  # noqa: B006  typer copies it
    tree: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Bisect the history of a git repository.")
    ] = None,
    good: Annotated[
        list[str],
        typer.Option(metavar="REV", help="A good endpoint, without the symptom; may be repeated."),
    ] = [],  # noqa: B006
    bad: Annotated[
        str, typer.Option(metavar="REV", help="The bad endpoint, with the symptom.")
    ] = "",
    old: Annotated[
        list[str],
        typer.Option(
            metavar="REV",
            help="An old endpoint. Either --new or all old endpoints must show the symptom; may be"
            " repeated.",
        ),
    ] = [],  # noqa: B006
    new: Annotated[
        str,
        typer.Option(
            metavar="REV",
            help="The new endpoint. Either it or all old endpoints must show the symptom.",
        ),
    ] = "",
    series: Annotated[
        Path | None,
        typer.Option(metavar="MBOX", help="Bisect a patch series, applied to --kernel."),
    ] = None,
    releases: Annotated[
        bool,
        typer.Option("--releases", help="Bisect Debian's kernels, from --good to --bad if given."),
    ] = False,
    kconfig: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="GOOD BAD", help="Bisect the options that differ between two configurations."
        ),
    ] = None,
    kernel: Annotated[
        str,
        typer.Option(
            metavar="SPEC", help=f"The kernel for --series and --kconfig: {options.SPEC}."
        ),
    ] = DEFAULT_KERNEL,
    command: Annotated[
        list[str],
        typer.Option(
            metavar="COMMAND",
            help="Bad if this command fails in a guest; may be repeated, and all commands but the"
            " last must succeed.",
        ),
    ] = [],  # noqa: B006
    splat: Annotated[
        str, typer.Option(metavar="PATTERN", help="Bad if the kernel reports a matching splat.")
    ] = "",
    matches: Annotated[
        str,
        typer.Option(metavar="PATTERN", help="Bad if the last command's output matches this."),
    ] = "",
    figure: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Read a number from the last command's output, for example with 'took (\\d+)'.",
        ),
    ] = "",
    above: Annotated[
        float | None, typer.Option(metavar="N", help="Bad if the number is above N.")
    ] = None,
    below: Annotated[
        float | None, typer.Option(metavar="N", help="Bad if the number is below N.")
    ] = None,
    hang: Annotated[
        bool,
        typer.Option("--hang", help="Bad if the last command prints nothing for --limit."),
    ] = False,
    boot: Annotated[bool, typer.Option("--boot", help="Bad if the kernel does not boot.")] = False,
    path: Annotated[
        list[str],
        typer.Option(
            metavar="PATH", help="Test only commits that change this path; may be repeated."
        ),
    ] = [],  # noqa: B006
    first_parent: Annotated[
        bool,
        typer.Option("--first-parent", help="Follow only the first parent of a merge commit."),
    ] = False,
    fixup: Annotated[
        list[str],
        typer.Option(
            metavar="[SINCE..UNTIL:]FILE",
            help="Apply a patch to each revision that contains SINCE but not UNTIL, or to all"
            " revisions; may be repeated.",
        ),
    ] = [],  # noqa: B006
    confidence: Annotated[
        float, typer.Option(metavar="P", help="The confidence that the result must reach.")
    ] = 0.99,
    max_runs: Annotated[
        int, typer.Option(metavar="N", min=1, help="The maximum number of runs of a revision.")
    ] = 500,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    machine: Annotated[
        str,
        typer.Option(
            metavar="MACHINE",
            show_default=f"the report's machine, or {machines.DEFAULT} without a report",
            help=f"{options.MACHINE}.",
        ),
    ] = "",
    qemu: options.Qemu = topology.QEMU,
    session: Annotated[
        str | None,
        typer.Option(metavar="N", help="The session, if the report has more than one."),
    ] = None,
    limit: options.Limit = None,
    behaviours: options.Behaviours = [],  # noqa: B006
    known: Annotated[
        list[str],
        typer.Option(
            "--known",
            metavar="ISSUE",
            help="Also bad if a scenario runs into this known issue (a bug in released kernels;"
            " see `iommu-harness behaviours`); may be repeated.",
        ),
    ] = [],  # noqa: B006
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Bisect for the first bad commit, and print the confidence of the result.

    \b
      iommu-harness bisect groups --tree ~/src/linux --good v6.12 --bad HEAD
      iommu-harness bisect report.mbox --series series.mbox --kernel debian:6.12

    Exactly one of --tree, --series, --releases and --kconfig is required, and exactly one
    symptom: a report, scenarios, --boot or --command. If the symptom is flaky, its rate is
    measured; --confidence and --max-runs limit the number of runs.
    """
    rundir.check(run_dir)
    if not 0.5 <= confidence < 1:
        raise UsageError(
            f"--confidence must be at least 0.5 and below 1, not {confidence}",
            "for example --confidence 0.99",
        )
    options.use_mirror(debian_mirror)
    either_way = bool(old or new or (releases and not (good or bad)))
    if either_way and (good or bad):
        raise UsageError("--good and --bad cannot be combined with --old and --new", "use one pair")
    spaces = {"--tree": tree, "--series": series, "--releases": releases, "--kconfig": kconfig}
    _check_one("search space", spaces)
    endpoints = ([*good, *old], bad or new)
    if not tree:
        _check_absent({"--path": path, "--first-parent": first_parent}, "--tree")
    if not (tree or releases):
        named = {"--good": good, "--bad": bad, "--old": old, "--new": new}
        _check_absent(named, "--tree or --releases")
    if tree and not all(endpoints):
        hint = "use --good and --bad, or --old and --new"
        raise UsageError("--tree requires both endpoints", hint)
    if above is not None and below is not None:
        raise UsageError("--above and --below are mutually exclusive", "use only one")
    report, scenarios = _report_or_scenarios(what)
    side = "above" if above is not None else "below"
    threshold = above if above is not None else below
    predicate = Predicate(
        report=report,
        session=session,
        scenarios=scenarios,
        behaviours=tuple(behaviours),
        known=tuple(known),
        boot=boot,
        commands=tuple(command),
        splat=splat,
        matches=matches,
        figure=figure,
        side=side,
        threshold=threshold or 0.0,
        hangs=hang,
        machine=machine,
        qemu=qemu,
        limit=limit,
    )
    _check(predicate, threshold)
    space = SearchSpace(
        tree=str(tree or ""),
        new=endpoints[1],
        old=tuple(endpoints[0]),
        paths=tuple(path),
        first_parent=first_parent,
        series=str(series or ""),
        releases=tuple(_releases(endpoints)) if releases else (),
        configs=tuple(map(str, kconfig or ())),
        kernel=kernel,
        patches=tuple(map(str, patch)),
        fragments=tuple(map(str, fragment)),
        variants=tuple(variant),
        fixups=tuple(fixup),
    )
    terms = Terms("old", "new") if either_way else Terms()
    request = BisectRequest(space, predicate, terms, confidence, max_runs, either_way)
    directory = rundir.create("bisect", run_dir)
    try:
        started = bisection.start(request, directory)
    except BaseException:
        shutil.rmtree(directory)
        raise
    _search(started, as_json=as_json)


def _check_one(what: str, values: Mapping[str, object]) -> None:
    """Raise UsageError unless exactly one of the options has a value."""
    used = [name for name, value in values.items() if value]
    if len(used) != 1:
        problem = f"more than one {what}: {' and '.join(used)}" if used else f"no {what} given"
        raise UsageError(problem, f"use one of {', '.join(values)}")


def _check_absent(values: Mapping[str, object], requirement: str) -> None:
    """Raise UsageError for the first option that has a value: its requirement is missing."""
    for name, value in values.items():
        if value:
            raise UsageError(f"{name} requires {requirement}", f"omit {name}, or use {requirement}")


def _releases(endpoints: tuple[list[str], str]) -> list[str]:
    olds, new = endpoints
    return history.debian_between(olds[0] if olds else "", new)


def _report_or_scenarios(words: list[str]) -> tuple[str, tuple[str, ...]]:
    """The report among the arguments, or "" if there is none, and the scenarios. A file is a report
    unless it is Python."""
    files = [word for word in words if not word.endswith(".py") and Path(word).is_file()]
    for word in words:
        is_scenario = "::" in word or word.endswith(".py")
        if word not in files and not is_scenario and {"/", "."} & set(word):
            reason = paths.not_a_file(Path(word))
            raise UsageError(f"cannot read {word}: {reason}", "give a bug report or scenarios")
    if files and len(words) > 1:
        raise UsageError(
            f"the report {files[0]} cannot be combined with other arguments", "give only the report"
        )
    return (files[0], ()) if files else ("", tuple(words))


def _check(predicate: Predicate, threshold: float | None) -> None:
    """Raise UsageError unless the options define exactly one symptom."""
    symptoms = {
        "a report": predicate.report,
        "scenarios": predicate.scenarios,
        "--boot": predicate.boot,
        "--command": predicate.commands or predicate.splat,
    }
    _check_one("symptom", symptoms)
    checks = {
        "--splat": predicate.splat,
        "--matches": predicate.matches,
        "--figure": predicate.figure,
        "--hang": predicate.hangs,
    }
    used = [name for name, value in checks.items() if value]
    if len(used) > 1:
        raise UsageError(f"{' and '.join(used)} are mutually exclusive", "use only one")
    if used and not predicate.commands:
        raise UsageError(f"{used[0]} requires --command", "add --command with the command to run")
    if bool(predicate.figure) != (threshold is not None):
        raise UsageError(
            "--figure must be combined with --above or --below", "add the missing option"
        )


def _search(started: Bisection, *, as_json: bool, replayed: Path | None = None) -> None:
    def on_step(step: Step) -> None:
        if not as_json:
            output.show(render.step(started, step))

    if not as_json:
        output.show(render.opening(started))
    found = bisection.search(started, on_step, replayed)
    record = render.record(started, found)
    (started.directory / "report.txt").write_text(render.text(started, found))
    (started.directory / "report.html").write_text(render.page(started, found))
    (started.directory / "result.part").write_text(output.to_json(record))
    (started.directory / "result.part").rename(started.directory / "result.json")
    if as_json:
        output.print_json(record)
    else:
        output.show(render.closing(started, found))
    raise typer.Exit(0 if render.is_sure(started, found) else 3)


@app.command()
def resume(
    directory: Directory, debian_mirror: options.Mirror = "", as_json: options.Json = False
) -> None:
    """Resume a bisection that was interrupted.

    \b
      iommu-harness bisect resume DIR
      iommu-harness bisect resume DIR --json

    Builds and runs that the directory records are not repeated.
    """
    options.use_mirror(debian_mirror)
    _search(bisection.load(directory), as_json=as_json)


@app.command()
def replay(
    directory: Directory,
    log: Annotated[Path, typer.Argument(metavar="LOG", help="The edited output of bisect log.")],
    as_json: options.Json = False,
) -> None:
    """Continue a bisection with the verdicts of an edited log.

    \b
      iommu-harness bisect log DIR > log
      iommu-harness bisect replay DIR log
    """
    _search(bisection.load(directory), as_json=as_json, replayed=log)


@app.command("log")
def log_(directory: Directory) -> None:
    """Print the log of a bisection, in the format of git bisect log.

    \b
      iommu-harness bisect log DIR
      iommu-harness bisect log DIR > log; git bisect replay log
    """
    output.show([("", line) for line in bisection.log(directory).splitlines()])


@app.command()
def status(directory: Directory, as_json: options.Json = False) -> None:
    """Print the progress of a bisection.

    \b
      iommu-harness bisect status DIR
      iommu-harness bisect status DIR --json
    """
    found = bisection.load(directory)
    progress = bisection.progress(found)
    if as_json:
        output.print_json(progress)
        return
    output.show(render.status(found, progress))
