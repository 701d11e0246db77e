# SPDX-License-Identifier: GPL-2.0-only
"""Run a program on this host: its output streamed, logged and shown when it
fails, and never outliving this process.
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
    """What programs see: of this process's environment only what names places
    and the network, so that a stray CFLAGS or ARCH does not change a build."""
    kept = ("HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return env | {"PATH": tools.search_path(), "LC_ALL": "C"} | extra


def require(program: str) -> str:
    """The program's path. Raises ToolMissing with the command that installs it."""
    path = tools.find(program)
    if path is None:
        lacking = [tool for tool in tools.TOOLS + tools.SPECIAL if tool.name == program]
        hint = f"install it: {tools.apt_command(lacking)}" if lacking else "install it"
        raise ToolMissing(f"{program} is not installed on this host", hint)
    return path


def bound_to_us(argv: Sequence[str], death_signal: str) -> list[str]:
    """``argv`` that gets ``death_signal`` when this thread dies, `kill -9`
    included: PR_SET_PDEATHSIG of prctl(2), which setpriv sets."""
    return [require("setpriv"), "--pdeathsig", death_signal, "--", require(argv[0]), *argv[1:]]


# The leader of a program's process group: it ends the whole group when it is told
# to. TERM first and then a wait, because make removes half-written targets. A
# shell gives what it runs in the background no input unless it is told to. What the
# program left running when it ended is ended too: it would keep our pipe open.
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
    """Ends the program's whole process group on any way out but success."""
    try:
        yield
    except BaseException:
        end_group(process)
        raise


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks a program started in its own session to end, then insists."""
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
    apart: bool = False,
    log: BinaryIO | None = None,
    on_line: Callable[[str], None] = lambda _: None,
) -> str:
    """Runs to the end and returns standard output and error, as one text; with
    ``apart`` only standard output, for what is parsed.

    ``stdin`` is a file to read, nothing without one; ``errors`` how bytes that are no
    UTF-8 are decoded; ``log`` gets every byte, ``on_line`` every line as it comes.
    Raises ToolMissing, or ProgramFailed with the last lines of the output.
    """
    command = bound_to_us(["sh", "-c", _LEADER, "sh", require(argv[0]), *argv[1:]], "TERM")
    complaints = tempfile.TemporaryFile() if apart else None  # noqa: SIM115  closed below
    try:
        with Path(stdin or os.devnull).open("rb") as given:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env) if env is not None else environment(),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=complaints or subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise HostError(f"cannot start {argv[0]}: {error}") from error
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
    if complaints:
        complaints.seek(0)
        said = complaints.read().decode(errors="replace")
        complaints.close()
        if status != 0:
            kept += said.splitlines()
    if status != 0:
        last = next((line for line in reversed(kept) if line.strip()), "no output")
        raise ProgramFailed(
            f"{' '.join(argv[:2])} ended with status {status}: {last}",
            output="\n".join(kept[-_TAIL:]),
            status=status,
        )
    return "\n".join(kept)
