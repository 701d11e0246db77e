# SPDX-License-Identifier: GPL-2.0-only
"""What a report claims: checkable statements, each with its location in the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from harness.klog.splat import Splat
from harness.report.error_message import ErrorMessage

Kind = Literal[
    "panic",
    "splat",
    "hang",
    "killed",
    "contradiction",
    "error",
    "refcount",
    "status",
    "message",
    "device",
    "output",
    "silence",
    "context",
]

# Kinds of claims: about a message of a tool or the kernel, and about state that can be measured.
COMPLAINTS = ("error", "message")
MEASURES = ("refcount", "status", "device", "output", "silence")

# The verdict names the symptom with the lowest number. Complaints rank before measures. Of
# several symptoms with the same number the last in the session counts: the report leads up to it.
PRIORITY: dict[Kind, int] = {
    kind: 4 if kind in COMPLAINTS else 5 if kind in MEASURES else number
    for number, kind in enumerate(get_args(Kind))
}

# Kinds of splats after which the kernel kills the task that caused them.
FATAL_KINDS = frozenset({"Oops", "BUG"})


@dataclass(frozen=True, slots=True)
class Claim:
    """A checkable statement of a report.

    ``text`` is the statement as users read it. ``where`` is its location in the report, for
    example "lines 3-5". ``step`` is the number of the command that it is about, from 0, or None if
    it is not about one command. ``symptom``: the report is about this claim, and the verdict
    depends on it.

    The expected value depends on the ``kind``. ``lines`` are output, the text of a kernel message,
    or the driver of a device. ``number`` is an exit status, a refcount, a group, or the duration
    in seconds of a hang that ends. ``error`` is the error message of a tool. ``splat`` is a splat.
    A refcount claim without a number states that the module is not loaded. A device claim without
    number and lines states that the device has no group.

    ``subject`` is a module ("" for the IOMMU driver) or a device ("" for any device).
    ``selected``: the command selects the row of this module from the list of modules.
    ``about_taints``: the report is about how modules taint the kernel.
    """

    kind: Kind
    text: str
    where: str
    step: int | None
    symptom: bool = True
    lines: tuple[str, ...] = ()
    number: int | None = None
    error: ErrorMessage | None = None
    splat: Splat | None = None
    subject: str = ""
    selected: bool = False
    about_taints: bool = False

    @property
    def decides(self) -> bool:
        """Whether the claim affects the verdict: it is a symptom, or it states how a step ends."""
        return self.symptom or self.kind in ("silence", "status")


def of_splat(splat: Splat, where: str, step: int | None) -> Claim:
    """Return the claim that the kernel reports the splat."""
    if splat.kind == "panic":
        return Claim("panic", splat.text[0].strip(), where, step, splat=splat)
    function = f" in {splat.function}" if splat.function else ""
    text = f"the kernel reports: {splat.kind}{function}"
    return Claim("splat", text, where, step, splat=splat)


def any_symptom(claims: Sequence[Claim]) -> bool:
    """Whether any of the claims is a symptom."""
    return any(claim.symptom for claim in claims)


def claims_killed(claims: Sequence[Claim], step: int) -> bool:
    """Whether the report claims that the command of the step is killed."""
    return any(
        claim.step == step
        and (
            claim.kind in ("killed", "panic")
            or (claim.splat is not None and claim.splat.kind in FATAL_KINDS)
        )
        for claim in claims
    )


def one_line(text: str) -> str:
    """Return the first line of a command or an output, truncated to 100 characters."""
    first, _, more = text.strip().partition("\n")
    return f"{first[:100]} ..." if more or len(first) > 100 else first
