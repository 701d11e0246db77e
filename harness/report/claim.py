# SPDX-License-Identifier: GPL-2.0-only
"""What a report claims: checkable statements, each with the lines that it is from."""

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

# What a tool or the kernel complains about, and what can be measured.
COMPLAINTS = ("error", "message")
MEASURES = ("refcount", "status", "device", "output", "silence")

# Of several symptoms the verdict names the one of the lowest number. Complaints precede
# measures; among measures the last in the session is the one that the report leads to.
PRIORITY: dict[Kind, int] = {
    kind: 4 if kind in COMPLAINTS else 5 if kind in MEASURES else number
    for number, kind in enumerate(get_args(Kind))
}

# Kinds of splats that kill the task that causes them.
FATAL_KINDS = frozenset({"Oops", "BUG"})


@dataclass(frozen=True, slots=True)
class Claim:
    """One checkable statement: its ``kind``, its ``text`` in words, and the place of its lines
    in the report (``where``).

    ``step`` is the number of its command, from 0, None for a claim from outside of the session.
    ``symptom``: the claim is what the report is about, and the verdict depends on it.

    What is claimed is in ``lines`` (output, a message's text, a device's driver), ``number`` (an
    exit status, a refcount, a group, the seconds of a hang that ends), ``error`` or ``splat``.
    ``subject`` is a module, "" for the IOMMU's driver, or a device, "" for any. ``selected``: the
    command selects this module's row from all. ``about_taints``: the report is about how modules
    taint the kernel. A refcount without a number claims that the module is not loaded, a device
    without a number or lines that it has no group.
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
        """Whether the verdict depends on it: it is a symptom, or is about how a step ends."""
        return self.symptom or self.kind in ("silence", "status")


def of_splat(splat: Splat, where: str, step: int | None) -> Claim:
    """The claim that the kernel reports the splat."""
    if splat.kind == "panic":
        return Claim("panic", splat.text[0].strip(), where, step, splat=splat)
    function = f" in {splat.function}" if splat.function else ""
    text = f"the kernel reports: {splat.kind}{function}"
    return Claim("splat", text, where, step, splat=splat)


def any_symptom(claims: Sequence[Claim]) -> bool:
    """Whether a verdict can be made of the claims."""
    return any(claim.symptom for claim in claims)


def claims_death(claims: Sequence[Claim], step: int) -> bool:
    """Whether the report shows that the command of the step is killed."""
    return any(
        claim.step == step
        and (
            claim.kind in ("killed", "panic")
            or (claim.splat is not None and claim.splat.kind in FATAL_KINDS)
        )
        for claim in claims
    )


def one_line(text: str) -> str:
    """The first line of a command or an output, cut short."""
    first, _, more = text.strip().partition("\n")
    return f"{first[:100]} ..." if more or len(first) > 100 else first
