# SPDX-License-Identifier: GPL-2.0-only
"""Run programs on this host. Their output is streamed and logged, errors include its tail, and no
program outlives this process.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness.errors import HostError, ProgramFailed, ToolMissing
from harness.host import tools

_TAIL = 1000
_GRACE = 10.0


def environment(**extra: str) -> dict[str, str]:
    """The environment of programs. Only directories and network proxies are inherited from this
    process, because a stray CFLAGS or ARCH would change a build."""
    kept = ("HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return env | {"PATH": tools.search_path(), "LC_ALL": "C"} | extra


def require(program: str) -> str:
    """The path of a program. Raises ToolMissing if it does not exist, with the command that
    installs it if that is known."""
    path = tools.find(program)
    if path is None:
        lacking = [tool for tool in tools.TOOLS + tools.SPECIAL if tool.name == program]
        if not lacking:
            raise ToolMissing(f"cannot find the program {program}", "check its name or path")
        hint = f"install it: {tools.apt_command(lacking)}"
        raise ToolMissing(f"{program} is not installed on this host", hint)
    return path


def with_pdeathsig(argv: Sequence[str], death_signal: str) -> list[str]:
    """The command that runs ``argv`` such that it receives ``death_signal`` when this thread dies,
    even from `kill -9` (setpriv sets PR_SET_PDEATHSIG of prctl(2))."""
    return [require("setpriv"), "--pdeathsig", death_signal, "--", require(argv[0]), *argv[1:]]


# The leader of a program's process group, which terminates the whole group on SIGTERM. It sends
# TERM and waits before KILL, because make removes half-written targets. The redirection is
# necessary because a shell connects background commands to /dev/null. Processes that the program
# leaves behind are terminated too, because they would keep the pipe open.
_LEADER = """
trap 'trap "" TERM; kill -TERM 0; wait; kill -KILL 0' TERM
exec 3<&0
"$@" <&3 3<&- &
wait $!
status=$?
trap "" TERM
kill -TERM 0
exit $status
"""


@contextlib.contextmanager
def _group(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Terminate the program's whole process group if the block raises."""
    try:
        yield
    except BaseException:
        end_group(process)
        raise


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Terminate the process group of a program that leads its own session, with SIGTERM and after
    10 s with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    errors: str = "replace",
    stdout_only: bool = False,
    log: BinaryIO | None = None,
    on_line: Callable[[str], None] = lambda _: None,
) -> str:
    """Run a program and return its standard output and error as one text, or only its standard
    output with ``stdout_only``.

    ``stdin`` is a file, by default /dev/null. ``errors`` is how bytes that are not UTF-8 are
    decoded. ``log`` receives every byte, and ``on_line`` every line as it is printed. Raises
    ToolMissing if the program is not installed, and ProgramFailed with the last lines of the
    output if it fails.
    """
    command = with_pdeathsig(["sh", "-c", _LEADER, "sh", require(argv[0]), *argv[1:]], "TERM")
    stderr = tempfile.TemporaryFile() if stdout_only else None  # noqa: SIM115  closed below
    try:
        with Path(stdin or os.devnull).open("rb") as file:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env) if env is not None else environment(),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=stderr or subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        where = f" in {cwd}" if cwd else ""
        raise HostError(f"cannot start {argv[0]}{where}: {error.strerror}") from error
    kept: list[str] = []
    with process, _group(process):
        assert process.stdout is not None
        for raw in process.stdout:
            if log is not None:
                log.write(raw)
            line = raw.decode(errors=errors).rstrip("\n")
            kept.append(line)
            on_line(line)
        status = process.wait()
    if stderr:
        stderr.seek(0)
        messages = stderr.read().decode(errors="replace")
        stderr.close()
        if status != 0:
            kept += messages.splitlines()
    if status != 0:
        last = next((line for line in reversed(kept) if line.strip()), "no output")
        raise ProgramFailed(
            f"{' '.join(argv[:2])} exited with status {status}: {last}",
            output="\n".join(kept[-_TAIL:]),
            status=status,
        )
    return "\n".join(kept)
