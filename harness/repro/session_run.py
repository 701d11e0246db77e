# SPDX-License-Identifier: GPL-2.0-only
"""The run of a report's session in a guest, and the judgements on claims by it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.errors import GuestError
from harness.guest.guest import Step
from harness.kernel.artifact import Kernel
from harness.klog.splat import Splat
from harness.report.claim import Claim
from harness.report.commands import Command
from harness.repro.device_names import DeviceNames

# Whether a claim holds (None if this guest cannot show it), and the reason.
Ruling = tuple[bool | None, str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim, and whether it ``held`` (None if this guest cannot show it). The ``reason`` is what
    the guest did."""

    claim: Claim
    held: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class SessionRun:
    """The run of a session in a guest.

    ``commands`` and ``claims`` are from the report. ``steps`` are fewer than the commands if the
    guest was lost because of ``error``. ``splats`` are the splats of the guest, in order.
    ``hangs`` are the steps that hang, each with the description of its blocked task
    (``hang.locate``).
    """

    commands: tuple[Command, ...]
    claims: Sequence[Claim]
    steps: tuple[Step, ...]
    splats: tuple[Splat, ...]
    error: GuestError | None
    kernel: Kernel
    names: DeviceNames
    hangs: dict[int, str] = field(default_factory=dict)

    def step(self, number: int | None) -> Step | None:
        """Return the step, or None if it did not run or did not end."""
        if number is None or number in self.hangs or number >= len(self.steps):
            return None
        return self.steps[number]

    def claims_about(self, step: int | None) -> list[Claim]:
        return [each for each in self.claims if each.step == step]

    def not_reached(self, claim: Claim) -> Ruling:
        """Return the ruling on a claim about a step that did not run or did not end."""
        if claim.step is not None and claim.step in self.hangs:
            return None, f"step {claim.step + 1} hangs: {self.error or 'it is interrupted'}"
        reason = self.error or "it does not run"
        return None, f"step {len(self.steps) + 1}: {reason}"
