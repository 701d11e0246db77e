# SPDX-License-Identifier: GPL-2.0-only
"""What of a report is replayed, and on which machine."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.iommu import machine_file, machines
from harness.machine import topology
from harness.machine.topology import Machine
from harness.report import reading
from harness.report.claim import Claim
from harness.report.reading import Report
from harness.report.session import Session

# Modules that reports name and no kernel has, by the guest module that does the
# same; guest-scripts/modules builds it under either name.
_STAND_INS = {"test_module": "iommu_client"}

_KMOD_SPEAKS = re.compile(r"(modprobe: (FATAL|ERROR)|rmmod: ERROR|insmod: ERROR):")
_ANY_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class Request:
    """What to replay: a report's ``session`` and what it ``claims``; on ``machine``;
    ``extras`` are programs of ``rootfs.packages`` that it needs, ``context`` the report's
    text, which says what its devices are, ``devices`` the user's choice of the guest's for
    them. ``notes`` say what was chosen for the user."""

    name: str
    session: Session
    claims: tuple[Claim, ...]
    machine: Machine
    extras: tuple[str, ...]
    context: str
    devices: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def of(
    path: Path,
    session: str | None = None,
    machine: str | None = None,
    qemu: str = topology.QEMU,
    devices: Mapping[str, str] | None = None,
) -> Request:
    """The replay of a file's report on the program ``qemu``. Raises UsageError for a
    report without a session, for a ``session`` that it does not have (``reading.choose``),
    and for an unknown machine."""
    report = reading.read(path)
    case = reading.choose(report, session)
    texts = case.session.texts
    words = {word.replace("-", "_") for text in texts for word in _ANY_WORD.findall(text)}
    name = machine or _machine_for(words, report)
    chosen = replace(machine_file.machine(name), qemu=qemu)
    lines = [line for each in case.session.commands for line in each.output]
    extras = ["kmod"] if any(_KMOD_SPEAKS.search(line) for line in lines) else []
    notes = [*_notes(words, chosen, kmod="kmod" in extras), *case.notes]
    return Request(
        report.name,
        case.session,
        case.claims,
        chosen,
        tuple(extras),
        "\n".join(line.text for text in report.texts for line in text.lines),
        devices or {},
        tuple(notes),
    )


def _machine_for(words: set[str], report: Report) -> str:
    """The first machine whose IOMMU driver the session names, else the whole report; SMMUv3
    when in doubt."""
    every = machines.MACHINES.values()
    named = next((each.name for each in every if each.iommu.driver in words), None)
    if named:
        return named
    text = " ".join(line.text for each in report.texts for line in each.lines)
    counts = {
        each.name: len(re.findall(each.iommu.driver.replace("_", "[-_]"), text)) for each in every
    }
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "smmuv3"


def _notes(words: set[str], machine: Machine, *, kmod: bool) -> Sequence[str]:
    stand_ins = {name: ours for name, ours in _STAND_INS.items() if name in words}
    notes = [
        f"the report's {name} is our {ours}, loaded under that name"
        for name, ours in stand_ins.items()
    ]
    if not machine.overlays:
        notes += [
            f"{name} has no device on {machine.name}: see --machine smmuv3" for name in stand_ins
        ]
    if kmod:
        notes.append("modprobe and rmmod are kmod's, whose words the report uses")
    return notes + [
        f"{each.iommu.driver} has no device on this machine: see --machine {each.name}"
        for each in machines.MACHINES.values()
        if each.iommu.driver in words and each.iommu.driver != machine.iommu.driver
    ]
