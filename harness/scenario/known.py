# SPDX-License-Identifier: GPL-2.0-only
"""Known issues: bugs of kernels that scenarios run into, from known-issues.toml.

Strict both ways: where an issue applies, the scenario that names it has to show it,
unless it is a race that may go well.
"""

import fnmatch
import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.klog.splat import Splat
from harness.scenario.behaviour import Versions


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """``introduced`` and ``fixed`` say which kernels have it; ``machines`` are patterns
    of names. ``splats`` are patterns of what it makes the kernel report, ``symptom`` one
    of how a scenario fails ("" where splats are all). ``evidence`` is where it was seen
    or follows from, ``upstream`` what has become of it there."""

    id: str
    title: str
    introduced: Versions
    fixed: Versions
    machines: tuple[str, ...]
    splats: tuple[str, ...]
    symptom: str
    evidence: str
    upstream: str

    def applies(self, release: str, machine: str) -> bool:
        """Whether a kernel of that release has it on the machine of that name."""
        if not self.introduced.include(release) or self.fixed.include(release):
            return False
        return any(fnmatch.fnmatchcase(machine, pattern) for pattern in self.machines)

    def explains(self, splat: Splat) -> bool:
        """Whether the splat is the issue's."""
        return any(matches(pattern, splat) for pattern in self.splats)


def matches(pattern: str, splat: Splat) -> bool:
    """A pattern of a splat is found in its kind, opening, function or call trace."""
    return re.search(pattern, described(splat)) is not None


def described(splat: Splat) -> str:
    """The splat in a line: kind, the line it opens with, function, and who called."""
    frames = " < ".join(splat.frames[:8])
    return f"{splat.kind}: {splat.opening} in {splat.function or '?'}; {frames}"


def unexplained(
    splats: Sequence[Splat], patterns: Sequence[str], issues: Sequence[KnownIssue]
) -> list[Splat]:
    """Those that neither a pattern nor an issue accounts for."""
    return [
        each
        for each in splats
        if not any(matches(pattern, each) for pattern in patterns)
        and not any(issue.explains(each) for issue in issues)
    ]


@functools.cache
def issues() -> dict[str, KnownIssue]:
    """All known issues, by id."""
    data = tomllib.loads((Path(__file__).with_name("known-issues.toml")).read_text())
    found = [_issue(each) for each in data["issue"]]
    return {each.id: each for each in found}


def _issue(record: dict[str, object]) -> KnownIssue:
    def text(name: str) -> str:
        return str(record.get(name, ""))

    def texts(name: str) -> tuple[str, ...]:
        value = record.get(name, [])
        assert isinstance(value, list), name
        return tuple(map(str, value))

    return KnownIssue(
        text("id"),
        text("title"),
        Versions(texts("introduced")),
        Versions(texts("fixed")),
        texts("machines"),
        texts("splats"),
        text("symptom"),
        text("evidence"),
        text("upstream"),
    )
