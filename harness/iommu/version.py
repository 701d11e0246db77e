# SPDX-License-Identifier: GPL-2.0-only
"""Sets of kernels by version, which are the last resort if nothing in a kernel's source decides."""

import re
from dataclasses import dataclass

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Versions:
    """A set of kernels. Each version in ``marks`` adds kernels to it.

    "6.15" adds that mainline release and all later releases. "6.12.111" adds that stable release
    and the later stable releases of 6.12: it is for a fix that was backported. Without marks, the
    set is empty."""

    marks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.marks) or "no release yet"

    def include(self, release: str) -> bool:
        """Whether the set includes a kernel with this ``uname -r``. A kernel without a version
        counts as the newest."""
        match = _RELEASE.match(release)
        if match is None:
            return any(mark.count(".") == 1 for mark in self.marks)
        own = tuple(int(part or 0) for part in match.groups())
        return any(_reached(own, mark) for mark in self.marks)


def _reached(own: tuple[int, ...], mark: str) -> bool:
    since = tuple(map(int, mark.split(".")))
    if len(since) == 3:
        return own[:2] == since[:2] and own >= since
    return own[:2] >= since


NONE = Versions()
