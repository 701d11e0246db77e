# SPDX-License-Identifier: GPL-2.0-only
"""Kernels by their version: the last resort, where nothing in their source decides."""

import re
from dataclasses import dataclass

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Versions:
    """Kernels from a version on. "6.15" is that release of Linus's and all after it;
    "6.12.111" only the 6.12 stable releases from that one on, where a fix was carried
    back. No mark at all: no kernel yet."""

    marks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.marks) or "no release yet"

    def include(self, release: str) -> bool:
        """Whether a kernel with such a ``uname -r`` is among them. One without a
        version is taken for the newest."""
        match = _RELEASE.match(release)
        if match is None:
            return any(mark.count(".") == 1 for mark in self.marks)
        own = tuple(int(part or 0) for part in match.groups())
        return any(_reached(own, mark) for mark in self.marks)


def _reached(own: tuple[int, ...], mark: str) -> bool:
    wanted = tuple(map(int, mark.split(".")))
    if len(wanted) == 3:
        return own[:2] == wanted[:2] and own >= wanted
    return own[:2] >= wanted


NONE = Versions()
