# SPDX-License-Identifier: GPL-2.0-only
"""Where kernel source comes from: named files with known contents, which a work
tree is brought to by touching only those that differ.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host.manifest import Manifest

# Without these a directory or a revision is no Linux source.

_NUMBER = re.compile(r"^(VERSION|PATCHLEVEL) *= *(\d+)", re.MULTILINE)

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """``label`` for people, exact enough to find the same again; ``identity`` changes
    with the content; ``work`` names the work tree that its builds share.

    ``manifest`` tells what is in it, ``put(names, into)`` writes those files below
    ``into``, where none of them is, and ``now`` is the identity of what is there by
    now.
    """

    label: str
    identity: str
    work: str
    version: Version
    manifest: Callable[[], Manifest]
    put: Callable[[Sequence[str], Path], None]
    now: Callable[[], str]


def version(makefile: str) -> Version:
    """The kernel's version, as its top Makefile has it. Raises UsageError without one."""
    numbers = dict(_NUMBER.findall(makefile))
    try:
        return int(numbers["VERSION"]), int(numbers["PATCHLEVEL"])
    except KeyError:
        raise UsageError("not Linux source: its Makefile has no version", "name another") from None
