# SPDX-License-Identifier: GPL-2.0-only
"""Replay a report's session in a guest and judge it."""

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import GuestError, GuestPanic, HarnessError
from harness.guest import snapshot
from harness.guest.guest import Guest, Step
from harness.guest.state import State, changes
from harness.host import rundir
from harness.host.rundir import JsonLines
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import splat
from harness.klog.record import Record, gaps
from harness.klog.splat import Splat
from harness.machine import composed, qemu, topology
from harness.machine.topology import Machine
from harness.repro import report
from harness.scenario import expectation, verdict
from harness.scenario.transcript import Session
from harness.scenario.verdict import Outcome, Verdict

# Modules that reports name and nobody has, by the guest module that does the
# same; guest-scripts/modules builds it under either name.
_STAND_INS = {"test_module": "iommu_client"}

_KMOD_SPEAKS = re.compile(r"(modprobe: (FATAL|ERROR)|rmmod: ERROR|insmod: ERROR):")
_STAMP = re.compile(r"\[ *(\d+\.\d+)\] ?(.*)")
_ANY_WORD = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class Request:
    """What to replay: a report's ``session`` and the ``splats`` that the report
    shows; on ``machine``; ``kmod`` when the report speaks kmod's words and not
    busybox's; ``notes`` say what was chosen for the user."""

    name: str
    session: Session
    splats: tuple[Splat, ...]
    machine: Machine
    kmod: bool
    notes: tuple[str, ...]


@dataclass(slots=True)
class Result:
    """A replay and its verdict. ``splats`` are those of the guest; ``unmentioned``
    are the ones among them that the report does not show; ``lost_records`` the
    first and last numbers of kernel messages that were overwritten unread; ``error`` is
    what the guest was lost to."""

    request: Request
    kernel: Kernel
    directory: Path
    outcomes: list[Outcome] = field(default_factory=list)
    splats: list[Splat] = field(default_factory=list)
    unmentioned: list[Splat] = field(default_factory=list)
    lost_records: list[tuple[int, int]] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict("unjudged", "not replayed yet"))
    error: GuestError | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A replay on one of several kernels: its ``result``, or the ``error`` that kept the
    kernel from being built or the guest from being started."""

    spec: KernelSpec
    result: Result | None
    error: HarnessError | None

    @property
    def exit_code(self) -> int:
        """What the command would end with for this kernel alone."""
        if self.result:
            return self.result.verdict.exit_code
        assert self.error
        return self.error.exit_code


def request(
    path: Path,
    session_number: int | None,
    machine_name: str | None,
    program: str = topology.QEMU,
) -> Request:
    """What a report asks for, on the QEMU ``program``. Raises UsageError for a report
    without a session, or with several and none chosen, and for an unknown machine."""
    messages = report.read(path)
    session = report.choose(messages, session_number, path.name)
    words = {word.replace("-", "_") for text in session.texts for word in _ANY_WORD.findall(text)}
    machine = replace(composed.machine(machine_name or _machine_for(words)), qemu=program)
    kmod = any(_KMOD_SPEAKS.search(line) for each in session.commands for line in each.output)
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
    notes += [
        f"{each.iommu.driver} has no device on this machine: see --machine {each.name}"
        for each in topology.MACHINES.values()
        if each.iommu.driver in words and each.iommu.driver != machine.iommu.driver
    ]
    found = report.sessions(messages)
    if len(found) > 1 and session_number is None:
        notes.append(f"the report has more sessions, see --session ({report.listing(found)})")
    if session.quoted:
        notes.append("the session is taken from a quotation")
    splats = tuple(report.splats(messages))
    return Request(path.name, session, splats, machine, kmod, tuple(notes))


def _machine_for(words: set[str]) -> str:
    """The first machine whose IOMMU driver the session names; SMMUv3 when in doubt."""
    named = (each.name for each in topology.MACHINES.values() if each.iommu.driver in words)
    return next(named, "smmuv3")


def replay(
    asked: Request,
    kernel: Kernel,
    directory: Path,
    *,
    limit: float | None = None,
    on_command: Callable[[int, str], None] = lambda _number, _text: None,
    on_outcome: Callable[[Outcome], None] = lambda _outcome: None,
) -> Result:
    """Boots a guest, types the session into it, and judges each step.

    ``directory`` gets everything that is observed, as it happens. A guest that is
    lost on the way makes the verdict "unjudged"; what was seen before stays.
    """
    result = Result(asked, kernel, directory)
    _describe(asked, kernel, directory)
    log: list[Record] = []

    def observe(entry: Record) -> None:
        log.append(entry)
        kmsg.add(asdict(entry))

    with _log(directory / "kmsg.jsonl") as kmsg, _log(directory / "steps.jsonl") as steps:
        try:
            with snapshot.started(
                kernel,
                asked.machine,
                directory,
                kmod=asked.kmod,
                limit=limit,
                on_record=observe,
            ) as running:
                _write_command_line(running, directory)
                for number, command in enumerate(asked.session.commands, start=1):
                    on_command(number, command.text)
                    outcome = verdict.outcome(command, running.step(command.text))
                    result.outcomes.append(outcome)
                    steps.add(step_record(outcome))
                    on_outcome(outcome)
            result.verdict = verdict.judge(asked.session.commands, result.outcomes)
        except GuestError as error:
            result.verdict = _lost(asked, result, error)
            result.error = error
            # The console has what did not get into the log's records any more.
            result.splats = splat.find(_unseen(error.log, log))
    _collect_splats(result, log)
    (directory / "result.json").write_text(json.dumps(record(result), indent=1) + "\n")
    return result


@contextlib.contextmanager
def _log(path: Path) -> Iterator[JsonLines]:
    lines = rundir.JsonLines(path)
    try:
        yield lines
    finally:
        lines.close()


def _describe(asked: Request, kernel: Kernel, directory: Path) -> None:
    shutil.copy(kernel.config, directory / "kernel.config")
    lines = [f"$ {text}" for text in asked.session.texts]
    (directory / "session.txt").write_text("\n".join(lines) + "\n")


def _write_command_line(running: Guest, directory: Path) -> None:
    """A script for people who want the same machine on their terminal."""
    single = replace(running.boot.machine, single_console=False)
    boot = replace(running.boot, machine=single, arguments="rdinit=/harness/shell")
    command = shlex.join(qemu.on_a_terminal(boot))
    script = directory / "boot.sh"
    script.write_text(
        f"#!/bin/sh\n# The machine of this run, with a shell on its console.\nexec {command}\n"
    )
    script.chmod(0o755)
    (directory / "qemu.json").write_text(json.dumps(running.argv, indent=1) + "\n")


def _lost(asked: Request, result: Result, error: GuestError) -> Verdict:
    """The verdict of a replay that the guest did not survive."""
    commands = asked.session.commands
    number, total = len(result.outcomes) + 1, len(commands)
    if any(outcome.difference for outcome in result.outcomes):
        return verdict.judge(commands, result.outcomes)
    if number > total:
        return Verdict("unjudged", f"after the last step: {error}")
    command = commands[number - 1]
    if isinstance(error, GuestPanic) and expectation.tells_panic(command, error.text):
        reason = f"step {number} of {total}: {error.message}, as the report says"
        return Verdict("reproduced", reason)
    return Verdict("unjudged", f"step {number} of {total}, {command.text!r}: {error}")


def _unseen(console: str, log: Sequence[Record]) -> list[str]:
    """The console's lines that are later than the last record of the log."""
    last = log[-1].time if log else 0.0
    lines = (_STAMP.match(line) for line in console.splitlines())
    return [match[2] for match in lines if match and float(match[1]) > last]


def _collect_splats(result: Result, log: Sequence[Record]) -> None:
    """Those of the whole log, the boot's included, and of a dying guest's console."""
    result.splats = splat.find([entry.text for entry in log]) + result.splats
    known = {(each.kind, each.function) for each in result.request.splats}
    result.unmentioned = [each for each in result.splats if (each.kind, each.function) not in known]
    result.lost_records = gaps(log)


def record(result: Result) -> dict[str, Any]:
    """The result as the JSON object that the command prints."""
    return {
        "verdict": result.verdict.word,
        "reason": result.verdict.reason,
        "report": result.request.name,
        "kernel": result.kernel.label,
        "machine": result.request.machine.name,
        "run_dir": str(result.directory),
        "notes": [*result.request.notes, *result.kernel.notes],
        "steps": [step_record(outcome) for outcome in result.outcomes],
        "splats": [asdict(each) for each in result.splats],
        "lost_records": [list(gap) for gap in result.lost_records],
        "unmentioned_splats": [each.title for each in result.unmentioned],
    }


def step_record(outcome: Outcome) -> dict[str, Any]:
    """One step as JSON: what was typed, expected and seen."""
    step, command = outcome.step, outcome.command
    difference = outcome.difference
    return {
        "command": step.command,
        "exit_status": step.status,
        "shell_killed": step.killed,
        "stdout": step.out,
        "stderr": step.err,
        "expected": list(command.output),
        "expected_status": command.status,
        "matched": difference is None,
        "difference": asdict(difference) if difference else None,
        "refcounts": refcounts(step),
        "groups": [_groups(step.before), _groups(step.after)],
        "untranslated": step.after.untranslated,
        "changes": changes(step.before, step.after),
        "kmsg": [asdict(entry) for entry in step.kmsg],
        "splats": [asdict(each) for each in splat.find([entry.text for entry in step.kmsg])],
        "seconds": round(step.seconds, 6),
    }


def refcounts(step: Step) -> dict[str, list[int | None]]:
    """Before and after, of each module loaded at either time; None when it is not."""
    names = sorted(step.before.modules.keys() | step.after.modules.keys())
    return {name: [step.before.refcount(name), step.after.refcount(name)] for name in names}


def _groups(state: State) -> dict[str, Any]:
    return {
        str(number): {"type": group.type, "devices": list(group.devices)}
        for number, group in sorted(state.groups.items())
    }
