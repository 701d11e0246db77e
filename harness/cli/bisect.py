# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness bisect``: the change that introduced or fixed a bug."""

import difflib
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.bisect import bisection, history, render
from harness.bisect.bisection import Bisection, BisectRequest, Predicate, SearchSpace
from harness.bisect.gitbisect import Terms
from harness.bisect.search import Step
from harness.cli import options, output
from harness.errors import UsageError
from harness.host import rundir
from harness.kernel.spec import DEFAULT_KERNEL
from harness.machine import topology


class _Group(TyperGroup):
    """Passes anything that is not a subcommand to ``find``: reports, scenarios, options."""

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

What is not one of the commands below is an argument of find: see `iommu-harness bisect find
--help`. The exit status is 0 when the answer is as sure as requested, and 3 when it is not."""

app = options.application(cls=_Group, help=_HELP, no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory of a bisection.")]


@app.command()
def find(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="REPORT|SCENARIO",
            help="A bug report, bad where it reproduces, or scenarios, bad where one fails.",
        ),
    ] = [],  # noqa: B006  typer copies it
    tree: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Search the history of a git repository.")
    ] = None,
    good: Annotated[
        list[str],
        typer.Option(metavar="REV", help="A revision without the bug; may be repeated."),
    ] = [],  # noqa: B006
    bad: Annotated[str, typer.Option(metavar="REV", help="A revision with the bug.")] = "",
    old: Annotated[
        list[str],
        typer.Option(
            metavar="REV",
            help="In place of --good, for a change that is not a bug; may be repeated.",
        ),
    ] = [],  # noqa: B006
    new: Annotated[
        str, typer.Option(metavar="REV", help="In place of --bad. Either may have the symptom.")
    ] = "",
    series: Annotated[
        Path | None,
        typer.Option(metavar="MBOX", help="Search a patch series, applied to --kernel."),
    ] = None,
    releases: Annotated[
        bool,
        typer.Option("--releases", help="Search Debian's kernels, from --good to --bad if given."),
    ] = False,
    kconfig: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="GOOD BAD", help="Search the options in which two configurations differ."
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
            help="Bad where this fails in a guest; may be repeated: all but the last must succeed.",
        ),
    ] = [],  # noqa: B006
    splat: Annotated[
        str, typer.Option(metavar="PATTERN", help="Bad where the kernel reports a splat like this.")
    ] = "",
    matches: Annotated[
        str,
        typer.Option(metavar="PATTERN", help="Bad where the last command's output matches this."),
    ] = "",
    figure: Annotated[
        str,
        typer.Option(
            metavar="PATTERN", help="Read a figure from the last command's output: 'took (\\d+)'."
        ),
    ] = "",
    above: Annotated[
        float | None, typer.Option(metavar="N", help="Bad where the figure is above N.")
    ] = None,
    below: Annotated[
        float | None, typer.Option(metavar="N", help="Bad where the figure is below N.")
    ] = None,
    hang: Annotated[
        bool,
        typer.Option("--hang", help="Bad where the last command prints nothing for --limit."),
    ] = False,
    boot: Annotated[
        bool, typer.Option("--boot", help="Bad where the kernel does not boot.")
    ] = False,
    path: Annotated[
        list[str],
        typer.Option(metavar="PATH", help="Only changes to this path; may be repeated."),
    ] = [],  # noqa: B006
    first_parent: Annotated[
        bool,
        typer.Option("--first-parent", help="Follow only the first parent of a merge commit."),
    ] = False,
    fixup: Annotated[
        list[str],
        typer.Option(
            metavar="[SINCE..UNTIL:]FILE",
            help="Apply a patch to revisions that do not build without it; may be repeated.",
        ),
    ] = [],  # noqa: B006
    confidence: Annotated[
        float, typer.Option(metavar="P", help="The confidence that the answer must have.")
    ] = 0.99,
    most_runs: Annotated[
        int, typer.Option(metavar="N", min=1, help="The limit of runs of one revision.")
    ] = 500,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    machine: Annotated[
        str,
        typer.Option(metavar="MACHINE", show_default="as for repro", help=f"{options.MACHINE}."),
    ] = "",
    qemu: options.Qemu = topology.QEMU,
    session: Annotated[
        str | None, typer.Option(metavar="N", help="The session of a report with several.")
    ] = None,
    limit: options.Limit = None,
    behaviours: options.Behaviours = [],  # noqa: B006
    known: Annotated[
        list[str],
        typer.Option(
            "--known",
            metavar="ISSUE",
            help="Bad also where a scenario runs into this known issue (a bug of released kernels;"
            " see `iommu-harness behaviours`); may be repeated.",
        ),
    ] = [],  # noqa: B006
    run_dir: options.RunDir = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Search for the first bad change and print how sure the answer is.

    \b
      iommu-harness bisect groups --tree ~/src/linux --good v6.12 --bad HEAD
      iommu-harness bisect report.mbox --series series.mbox --kernel debian:6.12

    Exactly one of --tree, --series, --releases and --kconfig is required, and one symptom: a
    report, scenarios, --boot, --command or --splat. A bug that does not show in every run is
    searched by its rate; --confidence and --most-runs bound the number of runs.
    """
    rundir.check(run_dir)
    if not 0.5 <= confidence < 1:
        raise UsageError(f"--confidence must be from 0.5 to below 1, not {confidence}", "use 0.99")
    options.use_mirror(debian_mirror)
    is_either = bool(old or new or (releases and not (good or bad)))
    if is_either and (good or bad):
        raise UsageError("--good and --bad exclude --old and --new", "leave out one pair")
    spaces = {"--tree": tree, "--series": series, "--releases": releases, "--kconfig": kconfig}
    given = [name for name, value in spaces.items() if value]
    if len(given) != 1:
        raise UsageError(_count_of("search space", given), f"give one of {', '.join(spaces)}")
    ends = ([*good, *old], bad or new)
    _check_tree_only(tree, {"--path": path, "--first-parent": first_parent})
    if not (tree or releases):
        _check_tree_only(tree, {"--good, --bad, --old and --new": any(ends)})
    if tree and not all(ends):
        raise UsageError("--tree requires both ends", "give --good and --bad, or --old and --new")
    if above is not None and below is not None:
        raise UsageError("--above excludes --below", "give one")
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
        output=matches,
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
        new=ends[1],
        old=tuple(ends[0]),
        paths=tuple(path),
        first_parent=first_parent,
        series=str(series or ""),
        releases=tuple(_releases(ends)) if releases else (),
        configs=tuple(map(str, kconfig or ())),
        kernel=kernel,
        patches=tuple(map(str, patch)),
        fragments=tuple(map(str, fragment)),
        variants=tuple(variant),
        fixups=tuple(fixup),
    )
    terms = Terms("old", "new") if is_either else Terms()
    request = BisectRequest(space, predicate, terms, confidence, most_runs, is_either)
    directory = rundir.create("bisect", run_dir)
    try:
        found = bisection.start(request, directory)
    except BaseException:
        shutil.rmtree(directory)
        raise
    _search(found, as_json=as_json)


def _check_tree_only(tree: Path | None, given: dict[str, object]) -> None:
    for name, value in given.items():
        if value and not tree:
            raise UsageError(f"{name} requires --tree", "give --tree, or leave it out")


def _releases(ends: tuple[list[str], str]) -> list[str]:
    olds, new = ends
    return history.debian_between(olds[0] if olds else "", new)


def _report_or_scenarios(words: list[str]) -> tuple[str, tuple[str, ...]]:
    """The report, if the words are a file, or else the names of scenarios."""
    files = [word for word in words if Path(word).exists() and not Path(word).is_dir()]
    for word in words:
        named = "::" in word or word.endswith(".py")
        if word not in files and not named and {"/", "."} & set(word):
            raise UsageError(f"cannot read {word}: no such file", "name a report, or scenarios")
    if files and len(words) > 1:
        raise UsageError(f"the report {files[0]} excludes other arguments", "name one report")
    return (files[0], ()) if files else ("", tuple(words))


def _count_of(what: str, given: list[str]) -> str:
    return f"more than one {what}: {' and '.join(given)}" if given else f"no {what}"


def _check(what: Predicate, threshold: float | None) -> None:
    """Raises UsageError for options that do not make up one symptom."""
    symptoms = {
        "a report": what.report,
        "scenarios": what.scenarios,
        "--boot": what.boot,
        "--command": what.commands or what.splat,
    }
    given = [name for name, value in symptoms.items() if value]
    if len(given) != 1:
        raise UsageError(_count_of("symptom", given), f"give one of {', '.join(symptoms)}")
    conditions = [each for each in (what.splat, what.output, what.figure, what.hangs) if each]
    if len(conditions) > 1:
        raise UsageError("--splat, --matches, --figure and --hang exclude each other", "give one")
    if what.hangs and not what.commands:
        raise UsageError("--hang requires a --command", "give the command that hangs")
    if (what.output or what.figure) and not what.commands:
        raise UsageError(
            "--matches and --figure require a --command", "give the command that prints it"
        )
    if bool(what.figure) != (threshold is not None):
        raise UsageError("--figure requires --above or --below, and they require it", "give both")


def _search(found: Bisection, *, as_json: bool, given: Path | None = None) -> None:
    def show(step: Step) -> None:
        if not as_json:
            output.show(render.step(found, step))

    if not as_json:
        output.show(render.opening(found))
    finding = bisection.search(found, show, given)
    record = render.record(found, finding)
    (found.directory / "report.txt").write_text(render.text(found, finding))
    (found.directory / "report.html").write_text(render.page(found, finding))
    (found.directory / "result.part").write_text(output.to_json(record))
    (found.directory / "result.part").rename(found.directory / "result.json")
    if as_json:
        output.print_json(record)
    else:
        output.show(render.closing(found, finding))
    raise typer.Exit(0 if render.is_sure(found, finding) else 3)


@app.command()
def resume(
    directory: Directory, debian_mirror: options.Mirror = "", as_json: options.Json = False
) -> None:
    """Continue a bisection that was stopped.

    \b
      iommu-harness bisect resume DIR
      iommu-harness bisect resume DIR --json

    What the directory records is not run again.
    """
    options.use_mirror(debian_mirror)
    _search(bisection.load(directory), as_json=as_json)


@app.command()
def replay(
    directory: Directory,
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="The output of bisect log, as corrected.")
    ],
    as_json: options.Json = False,
) -> None:
    """Continue a bisection with the verdicts of an edited log.

    \b
      iommu-harness bisect log DIR > log
      iommu-harness bisect replay DIR log
    """
    _search(bisection.load(directory), as_json=as_json, given=log)


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
