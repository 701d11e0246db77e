# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness bisect``: which change made the difference."""

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
    """A first word that is no subcommand is a report or a scenario to search with."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "-h", "--help"}
        first = args[0] if args else "--help"
        near = difflib.get_close_matches(first, self.commands, 1, 0.8)
        if near and first not in known and not Path(first).exists():
            raise UsageError(f"no such command: {first!r}", f"did you mean {near[0]}?")
        return super().parse_args(ctx, args if first in known else ["find", *args])


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    help="Find the change that made the difference: bisect REPORT|SCENARIO, or --command. "
    "Its options are those of find: see bisect find --help.",
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a search.")]


@app.command()
def find(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[REPORT|SCENARIO]...", help="A bug report that reproduces, or what fails."
        ),
    ] = [],  # noqa: B006  typer copies it
    tree: Annotated[Path | None, typer.Option(help="The git repository to search.")] = None,
    good: Annotated[list[str], typer.Option(help="Without the bug; repeatable.")] = [],  # noqa: B006
    bad: Annotated[str, typer.Option(help="With the bug.")] = "",
    old: Annotated[
        list[str], typer.Option(help="Before a change for which good and bad are no words.")
    ] = [],  # noqa: B006
    new: Annotated[str, typer.Option(help="After it; whichever of the two shows it.")] = "",
    series: Annotated[
        Path | None, typer.Option(help="Which of these patches, on --kernel: a mailbox.")
    ] = None,
    releases: Annotated[
        bool, typer.Option(help="Which Debian kernel; from --old to --new, if given.")
    ] = False,
    kconfig: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="GOOD BAD", help="Which option, of two configurations."),
    ] = None,
    kernel: Annotated[
        str, typer.Option(metavar="SPEC", help=f"For --series and --kconfig: {options.SPEC}")
    ] = DEFAULT_KERNEL,
    command: Annotated[
        list[str],
        typer.Option(
            help="In the guest, bad when it fails; repeatable: those before have to succeed."
        ),
    ] = [],  # noqa: B006
    splat: Annotated[str, typer.Option(help="Bad: the kernel reports this (a pattern).")] = "",
    matches: Annotated[
        str, typer.Option(help="Bad: the last command's output has this pattern.")
    ] = "",
    figure: Annotated[
        str, typer.Option(help="A pattern that finds a number in the output, as 'took (\\d+)'.")
    ] = "",
    above: Annotated[float | None, typer.Option(help="Bad: the figure is above it.")] = None,
    below: Annotated[float | None, typer.Option(help="Bad: the figure is below it.")] = None,
    hang: Annotated[
        bool, typer.Option("--hang", help="Bad: the last command does not end; see --limit.")
    ] = False,
    boot: Annotated[bool, typer.Option(help="Bad: the kernel does not boot.")] = False,
    path: Annotated[
        list[str], typer.Option(help="Only changes of this path of the tree; repeatable.")
    ] = [],  # noqa: B006
    first_parent: Annotated[bool, typer.Option(help="Not into what was merged.")] = False,
    fixup: Annotated[
        list[str],
        typer.Option(
            metavar="[SINCE..UNTIL:]FILE", help="A patch that revisions need to build; repeatable."
        ),
    ] = [],  # noqa: B006
    confidence: Annotated[float, typer.Option(help="How sure the answer has to be.")] = 0.99,
    most_runs: Annotated[int, typer.Option(min=1, help="Of one revision.")] = 500,
    patch: options.Patches = [],  # noqa: B006
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    machine: Annotated[str, typer.Option(help="MACHINE, MACHINE+PRESET or a .toml file.")] = "",
    qemu: options.Qemu = topology.QEMU,
    session: Annotated[
        str | None, typer.Option(help="Which session, of a report with several.")
    ] = None,
    limit: Annotated[float | None, typer.Option(help="Seconds of silence allowed.")] = None,
    behaviours: Annotated[
        list[str], typer.Option("--behaviour", metavar="NAME", help="As for run; repeatable.")
    ] = [],  # noqa: B006
    known: Annotated[
        list[str],
        typer.Option(metavar="ISSUE", help="A scenario that runs into it counts; repeatable."),
    ] = [],  # noqa: B006
    run_dir: Annotated[Path | None, typer.Option(help="Where the search is kept.")] = None,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Search, from the ends inwards, and say how sure the answer is."""
    rundir.check(run_dir)
    if not 0.5 <= confidence < 1:
        raise UsageError(f"--confidence {confidence} is no such thing", "as in 0.99")
    options.use_mirror(debian_mirror)
    is_either = bool(old or new or (releases and not (good or bad)))
    if is_either and (good or bad):
        raise UsageError("--good and --bad, or --old and --new", "leave out one pair")
    spaces = {"--tree": tree, "--series": series, "--releases": releases, "--kconfig": kconfig}
    given = [name for name, value in spaces.items() if value]
    if len(given) != 1:
        told = f"{' and '.join(given)} are several things" if given else "nothing"
        raise UsageError(f"{told} to search", f"give one of {', '.join(spaces)}")
    ends = ([*good, *old], bad or new)
    _check_tree_only(tree, {"--path": path, "--first-parent": first_parent})
    if not (tree or releases):
        _check_tree_only(tree, {"--good, --bad, --old and --new": any(ends)})
    if tree and not all(ends):
        raise UsageError("a search needs both ends", "give --good and --bad, or --old and --new")
    if above is not None and below is not None:
        raise UsageError("--above and --below are two conditions", "give one")
    report, scenarios = _named(what)
    side = "above" if above is not None else "below"
    threshold = above if above is not None else below
    looked_for = Predicate(
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
    _check(looked_for, threshold)
    where = SearchSpace(
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
    asked = BisectRequest(where, looked_for, terms, confidence, most_runs, is_either)
    directory = rundir.create("bisect", run_dir)
    try:
        found = bisection.start(asked, directory)
    except BaseException:
        shutil.rmtree(directory)
        raise
    _search(found, as_json=as_json)


def _check_tree_only(tree: Path | None, given: dict[str, object]) -> None:
    for name, value in given.items():
        if value and not tree:
            raise UsageError(f"{name}: only a git history has those", "give --tree, or leave it")


def _releases(ends: tuple[list[str], str]) -> list[str]:
    olds, new = ends
    return history.debian_between(olds[0] if olds else "", new)


def _named(words: list[str]) -> tuple[str, tuple[str, ...]]:
    """A file is a report; anything else names scenarios."""
    files = [word for word in words if Path(word).exists() and not Path(word).is_dir()]
    for word in words:
        named = "::" in word or word.endswith(".py")
        if word not in files and not named and {"/", "."} & set(word):
            raise UsageError(f"no such file: {word}", "name a report, or scenarios")
    if files and len(words) > 1:
        raise UsageError(f"{files[0]} is a report, and there is more", "name one report")
    return (files[0], ()) if files else ("", tuple(words))


def _check(what: Predicate, threshold: float | None) -> None:
    ways = {
        "a report": what.report,
        "scenarios": what.scenarios,
        "--boot": what.boot,
        "--command": what.commands or what.splat,
    }
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        told = f"{' and '.join(given)} are several things" if given else "nothing"
        raise UsageError(f"{told} to look for", f"name one of {', '.join(ways)}")
    looks = [each for each in (what.splat, what.output, what.figure, what.hangs) if each]
    if len(looks) > 1:
        raise UsageError("--splat, --matches, --figure and --hang are four conditions", "give one")
    if what.hangs and not what.commands:
        raise UsageError("nothing is run that could hang", "give the --command")
    if (what.output or what.figure) and not what.commands:
        raise UsageError("nothing prints what is looked for", "give the --command")
    if bool(what.figure) != (threshold is not None):
        raise UsageError("--figure goes with --above or --below", "give both")


def _search(found: Bisection, *, as_json: bool, given: Path | None = None) -> None:
    def tell(step: Step) -> None:
        if not as_json:
            output.say(render.step(found, step))

    if not as_json:
        output.say(render.opening(found))
    finding = bisection.search(found, tell, given)
    record = render.record(found, finding)
    (found.directory / "report.txt").write_text(render.text(found, finding))
    (found.directory / "report.html").write_text(render.page(found, finding))
    (found.directory / "result.part").write_text(output.text_of(record))
    (found.directory / "result.part").rename(found.directory / "result.json")
    if as_json:
        output.print_json(record)
    else:
        output.say(render.closing(found, finding))
    raise typer.Exit(0 if render.is_sure(found, finding) else 3)


@app.command()
def resume(
    directory: Directory, debian_mirror: options.Mirror = "", as_json: options.Json = False
) -> None:
    """Go on with a search that was stopped; what is recorded is not done again."""
    options.use_mirror(debian_mirror)
    _search(bisection.load(directory), as_json=as_json)


@app.command()
def replay(
    directory: Directory,
    log: Annotated[Path, typer.Argument(help="What bisect log printed, as you corrected it.")],
    as_json: options.Json = False,
) -> None:
    """Go on with a search, its verdicts replaced by those of a log."""
    _search(bisection.load(directory), as_json=as_json, given=log)


@app.command("log")
def log_(directory: Directory) -> None:
    """Print git's log of a search, which git bisect replay takes too."""
    output.say([("", line) for line in bisection.log(directory).splitlines()])


@app.command()
def status(directory: Directory, as_json: options.Json = False) -> None:
    """Say how far a search has got."""
    found = bisection.load(directory)
    known = bisection.progress(found)
    if as_json:
        output.print_json(known)
        return
    output.say(render.status(found, known))
