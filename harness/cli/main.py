# SPDX-License-Identifier: GPL-2.0-only
"""The entry point of ``iommu-harness``: its subcommands, errors and exit statuses."""

import errno
import importlib
import importlib.metadata
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from harness.cli import options, output
from harness.errors import HarnessError, HostError, UsageError
from harness.host import paths, tools
from harness.host.text import printable

# The module and the attribute of each command: a Typer application or a function. Only the
# requested one is imported: importing all of them takes longer than most commands.
_COMMANDS = {
    "repro": "repro:repro",
    "decode": "decode:decode",
    "run": "run:run_",
    "compare": "compare:compare",
    "series": "series:series",
    "mutants": "mutants:mutants_",
    "behaviours": "behaviours:behaviours",
    "bisect": "bisect:app",
    "selftests": "selftests:selftests",
    "shell": "shell:shell",
    "kernel": "kernel:app",
    "machines": "machines:machines",
    "cache": "cache:app",
}


class _Commands(TyperGroup):
    """The subcommands, each imported when it is used. The types are click's or, in newer
    versions, those in typer's own copy of click."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = _COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(f"harness.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            alone = options.application()
            alone.command(cmd_name)(found)
            found = alone
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


_HELP = """Boot real Linux kernels with modular IOMMU drivers in QEMU, and test them.

\b
  iommu-harness repro report.mbox --kernel tree:~/src/linux
  iommu-harness run --kernel debian:6.12 --patch series.mbox

No command requires root. The exit status is 0 if the result is as expected, 1 if it is not, 2 if
the request is invalid, and 3 if the result is inconclusive or this host fails."""

app = options.application(cls=_Commands, help=_HELP, no_args_is_help=True, add_completion=True)


def _version(requested: bool) -> None:
    if requested:
        print(f"iommu-harness {importlib.metadata.version('iommu-harness')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(as_json: options.Json = False) -> None:
    """Check this host for the programs that the harness needs.

    \b
      iommu-harness doctor
      iommu-harness doctor --json

    If programs are missing, the last line gives the command that installs them (with --json, the
    key "install" has it), and the exit status is 3.
    """
    lacking = tools.missing()
    command = tools.apt_command(lacking) if lacking else ""
    if as_json:
        rows = [{"name": t.name, "package": t.package, "use": t.use} for t in lacking]
        output.print_json({"missing": rows, "install": command})
    for tool in () if as_json else tools.TOOLS:
        output.show(
            [("red", f"missing  {tool.name}: {tool.use}")]
            if tool in lacking
            else [("", f"found    {tool.name}")]
        )
    if not as_json:
        output.show([("bold", f"install with: {command}" if lacking else "nothing is missing")])
    raise typer.Exit(3 if lacking else 0)


def _fail(error: HarnessError) -> NoReturn:
    """Print the error in one line (with --json, also as a JSON object), and exit with its
    status."""
    if "--json" in sys.argv:
        output.print_json({"error": output.error_record(error)})
    print(printable(f"iommu-harness: {error}").replace("\n", " "), file=sys.stderr)
    if error.detail:
        print(printable(error.detail), file=sys.stderr)
    sys.exit(error.exit_code)


# typer raises this for invalid options: click's class or, in newer versions, the class in typer's
# own copy of click. typer exports only one of its subclasses.
_BAD_OPTION: Any = typer.BadParameter.__base__

_INTERRUPTED = 128 + signal.SIGINT

_DISK = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "read-only file system",
    errno.EACCES: "permission denied",
}


def _disk_error(error: OSError) -> HostError:
    what = _DISK.get(error.errno or 0, error.strerror or str(error))
    where = f": {error.filename}" if error.filename else ""
    hint = "choose a different directory" if error.errno in _DISK else ""
    ours = not error.filename or str(error.filename).startswith(str(paths.cache()))
    if error.errno in _DISK and ours:
        hint = "free some space, or set IOMMU_HARNESS_CACHE to a different directory"
    return HostError(what + where, hint)


def _command(error: Any) -> str:
    """The command that has the invalid option or argument."""
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context else "iommu-harness"


def _end_in_order(number: int, _frame: object) -> NoReturn:
    """Handle SIGTERM and SIGHUP as ^C: exit, which ends child processes and removes temporary
    files."""
    print(f"iommu-harness: terminated by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def main() -> None:
    """Run the command. This is the entry point of the console script."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _end_in_order)
    try:
        status = app(standalone_mode=False, prog_name="iommu-harness")
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
    except HarnessError as error:
        _fail(error)
    except BrokenPipeError:
        # The reader has closed the pipe: Python must not flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except _BAD_OPTION as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            sys.exit(2)
        _fail(UsageError(error.format_message().rstrip("."), f"see {_command(error)} --help"))
    except (KeyboardInterrupt, typer.Abort):
        print("iommu-harness: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _fail(_disk_error(error))
    except Exception as error:
        if os.environ.get("IOMMU_HARNESS_TRACEBACK"):
            raise
        what = f"internal error: {type(error).__name__}: {error}"
        hint = "run it again with IOMMU_HARNESS_TRACEBACK=1, and report the traceback"
        _fail(HostError(what, hint))
