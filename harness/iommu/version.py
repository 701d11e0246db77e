# SPDX-License-Identifier: GPL-2.0-only
"""Kernels by their version: the last resort, if nothing in their source decides."""

import re
from dataclasses import dataclass

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Versions:
    """Kernels since some versions. "6.15" stands for that mainline release and all later ones,
    "6.12.111" for the stable releases of 6.12 since that one, to which a fix was backported.
    Without marks it includes no kernel."""

    marks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.marks) or "no release yet"

    def include(self, release: str) -> bool:
        """Whether it includes a kernel with this ``uname -r``. One without a version counts as
        the newest."""
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
