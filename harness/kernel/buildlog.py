# SPDX-License-Identifier: GPL-2.0-only
"""Find the cause of a failed kernel build in the output of make and the programs that it runs."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.errors import BuildError, HostError, ProgramFailed
from harness.host import cache

# Failures of the host: no space, memory, processes or file descriptors.
_HOST_CAUSES = (
    re.compile(
        r".*(?:No space left on device|Disk quota exceeded|Read-only file system|"
        r"Input/output error|Too many open files|Cannot allocate memory).*"
    ),
    re.compile(r".*\b(?:out of memory|memory exhausted)\b.*", re.IGNORECASE),
    re.compile(r".*\bfork: (?:retry: )?Resource temporarily unavailable.*"),
    # A killed process, as gcc, collect2, a shell (link-vmlinux.sh) and make report it.
    re.compile(r".*(?:Killed signal terminated program|terminated with signal 9\b).*"),
    re.compile(r"\S+: line \d+: +\d+ Killed\b.*|make(?:\[\d+\])?: \*\*\*.* Killed\b.*"),
)

# Failures of the kernel, most specific first.
_CAUSES = (
    re.compile(r"\S+:\d+(:\d+)?: (fatal )?error: .*"),
    re.compile(r"ERROR: modpost: .*"),
    re.compile(r".*undefined reference to .*"),
    re.compile(r"make(\[\d+\])?: \*\*\* No rule to make target .*"),
    re.compile(r".*\berror:.*", re.IGNORECASE),
)


def error(log: Path, source: Path, key: str, failure: ProgramFailed) -> HostError:
    """Create the error for a failed build of the tree ``source``, with the cause from its log. A
    copy of the log is kept under the kernel's key."""
    kept = cache.directory("failed-builds") / f"{key}.log"
    shutil.copy(log, kept)
    text = log.read_text(errors="replace").replace(f"{source}/", "")
    if found := _cause(text, _HOST_CAUSES):
        return HostError(f"this host cannot build the kernel: {found}", f"the log is {kept}")
    found = _cause(text, _CAUSES) or failure.message
    return BuildError(f"the kernel does not build: {found}", f"the log is {kept}")


def _cause(text: str, causes: Sequence[re.Pattern[str]]) -> str:
    """The line with the most specific cause, or "" if no line has one."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for cause in causes for line in lines if cause.fullmatch(line)), "")
