# SPDX-License-Identifier: GPL-2.0-only
"""Choose the session of a report to replay, and the machine for it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.iommu import machine_file, machines
from harness.machine import topology
from harness.machine.topology import Machine
from harness.report import bug_report, session_selection
from harness.report.claim import Claim
from harness.report.session import Session

# Modules in reports that no kernel has, each with the guest module that does the same.
# guest-scripts/modules builds it under both names.
_STAND_INS = {"test_module": "iommu_client"}

_KMOD_MESSAGE = re.compile(r"(modprobe: (FATAL|ERROR)|rmmod: ERROR|insmod: ERROR):")
_ANY_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class Request:
    """A request to replay the ``session`` of a report with its ``claims`` on ``machine``.

    ``extras`` are the names of the ``rootfs.packages`` that the session requires. ``context`` is
    the text of the report. Messages in it name the drivers of devices. ``devices`` are the guest's
    devices that the user chose, by the name in the report. ``notes`` are choices that were made
    for the user.
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
    """Create the request to replay the report in ``path`` on ``machine``, by default the machine
    that fits the report. ``qemu`` is as in --qemu. ``devices`` are the guest's devices that
    the user chose, by the name in the report.

    Raises UsageError if the report cannot be read, has no session or lacks the requested
    ``session`` (``session_selection.select``), or if the machine is unknown or invalid;
    and the errors of ``qemus.program``.
    """
    report = bug_report.read(path)
    selected = session_selection.select(report, session)
    context = "\n".join(line.text for text in report.texts for line in text.lines)
    texts = selected.session.texts
    words = {word.replace("-", "_") for text in texts for word in _ANY_WORD.findall(text)}
    chosen = machine_file.machine(machine or _machine_for(words, context), qemu)
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
    """Return the machine for a report: the first machine with an IOMMU driver that the session
    names, or the machine with the driver that the report names most often, or smmuv3."""
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
                yield f"{name} has no device on {machine.name}; use --machine smmuv3"
    if kmod:
        yield "the guest has the modprobe and rmmod of kmod, as in the report"
    for each in machines.MACHINES.values():
        driver = each.iommu.driver
        if driver in words and driver != machine.iommu.driver:
            yield f"{driver} has no device on this machine; use --machine {each.name}"
