# SPDX-License-Identifier: GPL-2.0-only
"""Test cases: the results that all formats contain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Result = Literal["passed", "failed", "known", "skipped", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Case:
    """A test and its result.

    ``known`` is a failure that a known issue explains, and ``skipped`` a test that does not apply.
    ``reason`` is why it did not pass, in a line; ``details`` is the evidence."""

    name: str
    result: Result
    reason: str = ""
    details: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """The cases of one kernel on one machine. ``properties`` are facts about them, such as the
    digest of the kernel."""

    name: str
    cases: Sequence[Case]
    properties: tuple[tuple[str, str], ...] = ()
