# SPDX-License-Identifier: GPL-2.0-only
"""What to replay of a report, and on which machine."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.iommu import machine_file, machines
from harness.machine import topology
from harness.machine.topology import Machine
from harness.report import bug_report, session_selection
from harness.report.claim import Claim
from harness.report.session import Session

# Modules that reports name and no kernel has, and the guest module that does the same;
# guest-scripts/modules builds it under either name.
_STAND_INS = {"test_module": "iommu_client"}

_KMOD_MESSAGE = re.compile(r"(modprobe: (FATAL|ERROR)|rmmod: ERROR|insmod: ERROR):")
_ANY_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class Request:
    """What to replay: a report's ``session`` with its ``claims``, on ``machine``.

    ``extras`` are names of ``rootfs.packages`` that the session requires. ``context`` is the
    report's text: its messages name the drivers of devices. ``devices`` are the user's choices
    of guest devices for the report's. ``notes`` are what was decided for the user.
    """

    name: str
    session: Session
    claims: tuple[Claim, ...]
    machine: Machine
    extras: tuple[str, ...]
    context: str
    devices: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def create(
    path: Path,
    session: str | None = None,
    machine: str | None = None,
    qemu: str = topology.QEMU,
    devices: Mapping[str, str] | None = None,
) -> Request:
    """The request to replay the report in a file with the program ``qemu``. Raises UsageError for
    a report without a session, for a ``session`` that it does not have
    (``session_selection.select``), and for an unknown machine."""
    report = bug_report.read(path)
    selected = session_selection.select(report, session)
    context = "\n".join(line.text for text in report.texts for line in text.lines)
    texts = selected.session.texts
    words = {word.replace("-", "_") for text in texts for word in _ANY_WORD.findall(text)}
    chosen = replace(machine_file.machine(machine or _machine_for(words, context)), qemu=qemu)
    output = (line for each in selected.session.commands for line in each.output)
    kmod = any(map(_KMOD_MESSAGE.search, output))
    return Request(
        report.name,
        selected.session,
        selected.claims,
        chosen,
        ("kmod",) if kmod else (),
        context,
        devices or {},
        (*_notes(words, chosen, kmod=kmod), *selected.notes),
    )


def _machine_for(words: set[str], context: str) -> str:
    """The first machine with an IOMMU driver that the session names, else the machine with the
    driver that the report names most often, else smmuv3."""
    every = machines.MACHINES.values()
    named = next((each.name for each in every if each.iommu.driver in words), None)
    if named:
        return named
    counts = {
        each.name: len(re.findall(each.iommu.driver.replace("_", "[-_]"), context))
        for each in every
    }
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else machines.DEFAULT


def _notes(words: set[str], machine: Machine, *, kmod: bool) -> Iterator[str]:
    for name, stand_in in _STAND_INS.items():
        if name in words:
            yield f"the report's {name} is {stand_in}, loaded under that name"
            if not machine.overlays:
                yield f"{name} has no device on {machine.name}: see --machine smmuv3"
    if kmod:
        yield "modprobe and rmmod are those of kmod, as in the report"
    for each in machines.MACHINES.values():
        driver = each.iommu.driver
        if driver in words and driver != machine.iommu.driver:
            yield f"{driver} has no device on this machine: see --machine {each.name}"
