# SPDX-License-Identifier: GPL-2.0-only
"""The command ``iommu-harness``: options in, words or JSON out, no logic of its own."""

import errno
import json
import math
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from harness.errors import HarnessError, HostError, UsageError
from harness.host import debian, paths, rundir, tools
from harness.host.text import printable
from harness.kernel import build, spec
from harness.repro import replay, show

app = typer.Typer(
    help="Real kernels with modular IOMMU drivers, in QEMU, driven through their lifecycle.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
kernel_app = typer.Typer(help="Kernels: build one, list those built.", no_args_is_help=True)
app.add_typer(kernel_app, name="kernel")

_SPEC = "debian:VERSION or tree:DIR"
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
KernelSpecText = Annotated[str, typer.Argument(metavar="SPEC", help=_SPEC)]
Patches = Annotated[
    list[Path], typer.Option("--patch", help="A diff to apply first; may be repeated.")
]
Fragments = Annotated[
    list[Path],
    typer.Option("--fragment", help="A further configuration fragment; may be repeated."),
]
Mirror = Annotated[
    str,
    typer.Option(
        "--debian-mirror",
        envvar=debian.MIRROR_VARIABLE,
        help="Where Debian packages come from; else the mirror of this host's apt.",
    ),
]


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this host lacks, and the command that installs it."""
    lacking = tools.missing()
    command = tools.apt_command(lacking) if lacking else ""
    if as_json:
        rows = [{"name": t.name, "package": t.package, "use": t.use} for t in lacking]
        _print_json({"missing": rows, "install": command})
    for tool in () if as_json else tools.TOOLS:
        _say(
            [("red", f"missing  {tool.name}: {tool.use}")]
            if tool in lacking
            else [("", f"found    {tool.name}")]
        )
    if not as_json:
        _say([("bold", f"install with: {command}" if lacking else "nothing is missing")])
    raise typer.Exit(3 if lacking else 0)


@kernel_app.command("build")
def kernel_build(
    kernel: KernelSpecText,
    patch: Patches = [],  # noqa: B006  typer copies it
    fragment: Fragments = [],  # noqa: B006
    debian_mirror: Mirror = "",
    as_json: Json = False,
) -> None:
    """Build a kernel, or find it built."""
    _use_mirror(debian_mirror)
    built = build.build(spec.parse(kernel, patch, fragment))
    if as_json:
        _print_json(_jsonable(asdict(built)))
    else:
        _say([("", f"{built.label}: {built.directory}")])


@kernel_app.command("list")
def kernel_list(as_json: Json = False) -> None:
    """The kernels in the cache."""
    kernels = build.built()
    if as_json:
        _print_json({"kernels": [_jsonable(asdict(kernel)) for kernel in kernels]})
    else:
        _say(("", f"{kernel.key}  {kernel.release}  {kernel.label}") for kernel in kernels)


@app.command()
def repro(
    report: Annotated[
        Path, typer.Argument(help="mbox, eml, an archive's page as text, .transcript")
    ],
    kernel: Annotated[str, typer.Option("--kernel", metavar="SPEC", help=_SPEC)] = "debian:6.12",
    patch: Patches = [],  # noqa: B006
    fragment: Fragments = [],  # noqa: B006
    machine: Annotated[
        str | None, typer.Option(help="smmuv3 or virtio-iommu; else what the report speaks of.")
    ] = None,
    session: Annotated[
        int | None, typer.Option(help="Which session, of a report with several.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="Seconds of silence allowed; else 40 boots, at least 20."),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where what is observed goes.")] = None,
    debian_mirror: Mirror = "",
    as_json: Json = False,
) -> None:
    """Replay a bug report's shell session and say whether the kernel does the same."""
    _use_mirror(debian_mirror)
    _check_limit(limit)
    rundir.check(run_dir)
    wanted = spec.parse(kernel, patch, fragment)
    asked = replay.request(report, session, machine)
    if not as_json:
        _say(show.opening(asked))
    built = build.build(wanted)
    directory = rundir.create(report.stem, run_dir)
    if as_json:
        result = replay.replay(asked, built, directory, limit=limit)
        _print_json(replay.record(result))
        raise typer.Exit(result.verdict.exit_code)
    _say(show.run(directory, built))
    result = replay.replay(
        asked,
        built,
        directory,
        limit=limit,
        on_command=lambda number, text: _say(show.command(number, text)),
        on_outcome=lambda each: _say(show.step(each, asked.machine.iommu.driver)),
    )
    _say(show.closing(result))
    raise typer.Exit(result.verdict.exit_code)


def _check_limit(limit: float | None) -> None:
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--limit {limit} is no time to wait", "give seconds above zero")


def _use_mirror(address: str) -> None:
    if address:
        os.environ[debian.MIRROR_VARIABLE] = address


class _Output(Console):
    """rich ends the program with 1, "not reproduced", when nobody reads on."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _say(lines: Iterable[tuple[str, str]]) -> None:
    """Lines on standard output, in colour on a terminal, never interpreted."""
    console = _Output(highlight=False)
    for style, text in lines:
        console.print(Text(printable(text), style=style), soft_wrap=True)


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, indent=1))


def _jsonable(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in record.items()
    }


def _fail(error: HarnessError) -> NoReturn:
    """One line, or one JSON object, and the exit code of the kind of error."""
    if "--json" in sys.argv:
        facts = {"kind": type(error).__name__, "message": error.message, "mend": error.mend}
        _print_json({"error": facts})
    print(printable(f"iommu-harness: {error}").replace("\n", " "), file=sys.stderr)
    sys.exit(error.exit_code)


# What typer raises for options it does not take. It has been click's and is now
# typer's own copy, so it is named by the one of its kinds that typer exports.
_BAD_OPTION: Any = typer.BadParameter.__base__

_INTERRUPTED = 128 + signal.SIGINT

_DISK = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "read-only file system",
    errno.EACCES: "permission denied",
}


def _disk_error(error: OSError) -> HostError:
    what = _DISK.get(error.errno or 0, error.strerror or str(error))
    where = f": {error.filename}" if error.filename else ""
    mend = "choose another place"
    if str(error.filename or "").startswith(str(paths.cache())) or not error.filename:
        mend = "free some, or set IOMMU_HARNESS_CACHE to another place"
    return HostError(what + where, mend)


def _end_in_order(number: int, _frame: object) -> NoReturn:
    """Being told to end unwinds like ^C does, so that nothing is left behind."""
    print(f"iommu-harness: ended by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def main() -> None:
    """The console script."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end_in_order)
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
    except HarnessError as error:
        _fail(error)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing is left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except _BAD_OPTION as error:
        if not error.format_message():
            sys.exit(2)  # no arguments: the help has been shown
        _fail(UsageError(error.format_message().rstrip("."), "see iommu-harness --help"))
    except (KeyboardInterrupt, typer.Abort):
        print("iommu-harness: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _fail(_disk_error(error))
    except Exception as error:
        if os.environ.get("IOMMU_HARNESS_TRACEBACK"):
            raise
        what = f"a defect of iommu-harness: {type(error).__name__}: {error}"
        _fail(HostError(what, "report it, with IOMMU_HARNESS_TRACEBACK=1 set"))
