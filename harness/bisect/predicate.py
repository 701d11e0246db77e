# SPDX-License-Identifier: GPL-2.0-only
"""The predicate of a request, which separates bad revisions from good ones, and its conversion to
a symptom.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.bisect import checks, symptom
from harness.bisect.checks import Check
from harness.bisect.inputs import Inputs
from harness.bisect.symptom import Symptom
from harness.errors import UsageError, did_you_mean
from harness.iommu import behaviour, known_issues, machine_file, machines
from harness.suite import run, scenarios


@dataclass(frozen=True, slots=True)
class Predicate:
    """The symptom as given on the command line. Exactly one of these is set:

    ``report``: the symptom is that the bug report reproduces.
    ``scenarios``: a scenario fails, or runs into one of the ``known`` issues.
    ``boot``: the kernel does not boot.
    ``commands``: the last command fails or, if one of the following is set, this check of the
    last command finds the symptom.

    ``splat``: the kernel reports a splat that matches this pattern.
    ``matches``: the output matches this pattern.
    ``figure``: the number in the capture group of this pattern is above or below (``side``) the
    ``threshold``.
    ``hangs``: the command hangs.

    ``limit``: the seconds without output after which a command hangs, None for the default.
    """

    report: str = ""
    session: str | None = None
    scenarios: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    boot: bool = False
    commands: tuple[str, ...] = ()
    splat: str = ""
    matches: str = ""
    figure: str = ""
    side: str = ""
    threshold: float = 0.0
    hangs: bool = False
    machine: str = ""
    qemu: str = ""
    limit: float | None = None


def resolved(predicate: Predicate, inputs: Inputs) -> Predicate:
    """The predicate with absolute paths, and a copy of its report."""
    predicate = replace(predicate, report=inputs.copy(predicate.report))
    if "/" in predicate.qemu:
        predicate = replace(predicate, qemu=str(Path(predicate.qemu).absolute()))
    if predicate.machine.endswith(".toml"):
        # Not copied: a machine file refers to overlays beside it.
        predicate = replace(predicate, machine=str(Path(predicate.machine).absolute()))
    return predicate


def symptom_of(predicate: Predicate) -> Symptom:
    """The symptom of the predicate. Raises UsageError for an invalid name or pattern."""
    if predicate.report:
        file, machine_name = Path(predicate.report), predicate.machine or None
        limit, session = predicate.limit, predicate.session
        return symptom.report(file, session, machine_name, predicate.qemu, limit)
    name = predicate.machine or machines.DEFAULT
    machine = machine_file.machine(name, predicate.qemu)
    if predicate.scenarios:
        return _failed_scenario(predicate, name)
    if predicate.boot:
        return symptom.FailedBoot(machine)
    label, exact, check = _check(predicate)
    return symptom.FailedCommand(predicate.commands, machine, label, exact, check, predicate.limit)


def _failed_scenario(predicate: Predicate, machine: str) -> Symptom:
    list(scenarios.select(predicate.scenarios))
    behaviour.overrides(predicate.behaviours)
    _check_known(predicate.known)
    request = run.RunRequest(
        (),
        (machine,),
        predicate.scenarios,
        predicate.behaviours,
        (predicate.qemu,),
        workers=1,
        decoded=False,
    )
    return symptom.FailedScenario(request, predicate.known)


def _check_known(names: Sequence[str]) -> None:
    for name in names:
        if name not in known_issues.issues():
            hint = did_you_mean(name, known_issues.issues(), "see iommu-harness behaviours")
            raise UsageError(f"unknown issue {name!r}", hint)


def _check(predicate: Predicate) -> tuple[str, bool, Check]:
    """The symptom's label, whether it is exact, and the check of the last command."""
    command = repr(predicate.commands[-1]) if predicate.commands else ""
    if predicate.splat:
        label = f"the kernel reports {predicate.splat}"
        return label, True, checks.reports(_pattern(predicate.splat))
    if predicate.matches:
        label = f"{command} prints {predicate.matches}"
        return label, True, checks.prints(_pattern(predicate.matches))
    if predicate.figure:
        pattern = _pattern(predicate.figure)
        if pattern.groups != 1:
            raise UsageError(
                f"--figure {predicate.figure!r} must have exactly one capture group,"
                " which matches the number",
                "for example --figure 'took (\\d+)'",
            )
        label = f"{command} prints a number {predicate.side} {predicate.threshold:g}"
        return label, True, checks.figure(pattern, predicate.side, predicate.threshold)
    if predicate.hangs:
        return f"{command} hangs", False, checks.hangs
    return f"{command} fails", False, checks.fails


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"invalid regular expression {text!r}: {error}", "escape its special characters"
        ) from None
