# SPDX-License-Identifier: GPL-2.0-only
"""Kernel sources: named files with known contents. To switch a work tree to a source, only the
files that differ are changed.
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
    """The source of a kernel.

    ``label`` is the name for users, exact enough to find the same source again. ``identity``
    changes with the content. ``worktree`` is the name of the work tree that builds of this source
    share.

    ``manifest()`` returns the files and their keys. ``export(names, into)`` writes these files
    below ``into``, where none of them may exist yet. ``current_identity()`` is the identity of the
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
    """The kernel's version, from the text of its top Makefile. Raises UsageError if it has none."""
    numbers = dict(_NUMBER.findall(makefile))
    try:
        return int(numbers["VERSION"]), int(numbers["PATCHLEVEL"])
    except KeyError:
        raise UsageError(
            "not a Linux source tree: its Makefile does not set VERSION and PATCHLEVEL",
            "give the top directory, or a revision, of a Linux tree",
        ) from None
