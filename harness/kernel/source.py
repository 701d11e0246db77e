# SPDX-License-Identifier: GPL-2.0-only
"""A kernel source: named files with known contents. A work tree is updated to one by changing
only the files that differ.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host.manifest import Manifest

_NUMBER = re.compile(r"^(VERSION|PATCHLEVEL) *= *(\d+)", re.MULTILINE)

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """``label`` is the name for users, exact enough to find the same source again;
    ``identity`` changes with the content; ``worktree`` names the work tree that its builds
    share.

    ``manifest()`` returns its files, ``export(names, into)`` writes these files below
    ``into``, where none of them exists, and ``current_identity()`` is the identity of its
    present content, which differs once the source has been changed.
    """

    label: str
    identity: str
    worktree: str
    version: Version
    manifest: Callable[[], Manifest]
    export: Callable[[Sequence[str], Path], None]
    current_identity: Callable[[], str]


def version(makefile: str) -> Version:
    """The kernel's version, from its top Makefile. Raises UsageError if there is none."""
    numbers = dict(_NUMBER.findall(makefile))
    try:
        return int(numbers["VERSION"]), int(numbers["PATCHLEVEL"])
    except KeyError:
        raise UsageError("not Linux source: the Makefile has no version", "name another") from None
