# SPDX-License-Identifier: GPL-2.0-only
"""What a guest did with a report's session, and what that makes of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.errors import GuestError
from harness.guest.guest import Step
from harness.kernel.artifact import Kernel
from harness.klog.splat import Splat
from harness.report.claim import Claim
from harness.report.part import Command
from harness.repro.names import Names

# Whether a claim holds, None where this guest cannot show it, and what the guest did.
Held = tuple[bool | None, str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim and whether it ``held``: None where this guest cannot show it. ``reason``
    says what the guest did."""

    claim: Claim
    held: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a guest did with a session: its ``steps``, of which there are fewer than
    ``commands`` where it was lost to ``error``; its ``splats``, in order; ``hangs`` are the
    steps that did not end, each with where its task waits."""

    commands: tuple[Command, ...]
    steps: tuple[Step, ...]
    splats: tuple[Splat, ...]
    error: GuestError | None
    kernel: Kernel
    names: Names
    hangs: dict[int, str] = field(default_factory=dict)

    def step(self, number: int | None) -> Step | None:
        if number is None or number in self.hangs or number >= len(self.steps):
            return None
        return self.steps[number]


@dataclass(frozen=True, slots=True)
class Case:
    """A ``claim`` to judge, among all ``claims``, by what was ``done``."""

    claim: Claim
    claims: Sequence[Claim]
    done: Replayed


def unreached(each: Claim, done: Replayed) -> tuple[None, str]:
    """The reason where there is no step to judge by."""
    reached = len(done.steps)
    if each.step is not None and each.step in done.hangs:
        return None, f"step {each.step + 1} does not end: {done.error or 'it was interrupted'}"
    if done.error is not None:
        return None, f"step {reached + 1}: {done.error}"
    return None, f"step {reached + 1} was not run"
