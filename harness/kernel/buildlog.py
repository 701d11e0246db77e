# SPDX-License-Identifier: GPL-2.0-only
"""Why a kernel does not build, from the words of make and what it runs."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.errors import BuildError, HostError, ProgramFailed
from harness.host import cache

# What is no fault of the kernel: a host that is short of space, memory, processes or files.
_HOST_CAUSES = (
    re.compile(
        r".*(?:No space left on device|Disk quota exceeded|Read-only file system|"
        r"Input/output error|Too many open files|Cannot allocate memory).*"
    ),
    re.compile(r".*\b(?:out of memory|memory exhausted)\b.*", re.IGNORECASE),
    re.compile(r".*\bfork: (?:retry: )?Resource temporarily unavailable.*"),
    # gcc and collect2 of what they start, a shell of what it does (link-vmlinux.sh), make.
    re.compile(r".*(?:Killed signal terminated program|terminated with signal 9\b).*"),
    re.compile(r"\S+: line \d+: +\d+ Killed\b.*|make(?:\[\d+\])?: \*\*\*.* Killed\b.*"),
)

# In the order in which they name the cause best.
_CAUSES = (
    re.compile(r"\S+:\d+(:\d+)?: (fatal )?error: .*"),
    re.compile(r"ERROR: modpost: .*"),
    re.compile(r".*undefined reference to .*"),
    re.compile(r"make(\[\d+\])?: \*\*\* No rule to make target .*"),
    re.compile(r".*\berror:.*", re.IGNORECASE),
)


def error(log: Path, source: Path, key: str, failure: ProgramFailed) -> HostError:
    """The error a person would look for in the log of a build of the source tree; the log is
    kept, under the kernel's key."""
    kept = cache.directory("failed-builds") / f"{key}.log"
    shutil.copy(log, kept)
    text = log.read_text(errors="replace").replace(f"{source}/", "")
    if found := _cause(text, _HOST_CAUSES):
        return HostError(f"the kernel cannot be built here: {found}", f"see {kept}")
    found = _cause(text, _CAUSES) or failure.message
    return BuildError(f"the kernel does not build: {found}", f"the whole log is {kept}")


def _cause(text: str, causes: Sequence[re.Pattern[str]]) -> str:
    """The line that names the cause best, "" where none does."""
    lines = [line.strip() for line in text.splitlines()]
    return next((line for cause in causes for line in lines if cause.fullmatch(line)), "")
