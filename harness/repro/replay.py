# SPDX-License-Identifier: GPL-2.0-only
"""Replay a report's session in a guest and judge what the report claims."""

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.errors import GuestError, GuestLost, GuestReset, HarnessError
from harness.guest import snapshot
from harness.guest.guest import Guest, Step
from harness.host import rundir
from harness.host.rundir import JsonLines
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import splat
from harness.klog.record import Record, gaps
from harness.klog.splat import Splat
from harness.machine import qemu
from harness.report.part import Command
from harness.repro import crash, judge, record, verdict
from harness.repro.names import Names
from harness.repro.player import Player
from harness.repro.replayed import Judgement, Replayed
from harness.repro.request import Request
from harness.repro.verdict import Verdict
from harness.symbols import symbolise

_STAMP = re.compile(r"\[ *(\d+\.\d+)\](?:\[ *[TC]\d+\])? ?(.*)")


@dataclass(slots=True)
class Result:
    """A replay and its verdict. ``judged`` are the report's claims, in order. ``splats`` are
    those of the guest; ``unmentioned`` are the ones among them that the report does not
    show; ``lost_records`` the first and last numbers of kernel messages that were
    overwritten unread; ``error`` is what the guest was lost to; ``notes`` what was chosen
    on the way."""

    request: Request
    kernel: Kernel
    directory: Path
    steps: list[Step] = field(default_factory=list)
    judged: list[Judgement] = field(default_factory=list)
    splats: list[Splat] = field(default_factory=list)
    unmentioned: list[Splat] = field(default_factory=list)
    lost_records: list[tuple[int, int]] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict("inconclusive", "not replayed yet"))
    error: GuestError | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A replay on one of several kernels, or of one of several reports (``name``): its
    ``result``, or the ``error`` that kept the kernel from being built or the guest from
    being started."""

    spec: KernelSpec
    name: str
    result: Result | None
    error: HarnessError | None

    @property
    def exit_code(self) -> int:
        """What the command would end with for this one alone."""
        if self.result:
            return self.result.verdict.exit_code
        assert self.error
        return self.error.exit_code


@dataclass(frozen=True, slots=True)
class Watcher:
    """Called while a replay goes on: before a command, with each step and what is judged
    of it so far, and with what was chosen."""

    on_command: Callable[[int, str], None] = lambda _number, _text: None
    on_step: Callable[[Step, Sequence[Judgement]], None] = lambda _step, _judged: None
    on_note: Callable[[str], None] = lambda _note: None


def replay(
    asked: Request,
    kernel: Kernel,
    directory: Path,
    *,
    limit: float | None = None,
    watcher: Watcher = Watcher(),
    spec: KernelSpec | None = None,
) -> Result:
    """Boots a guest, types the session into it, and judges what the report claims.

    ``directory`` gets everything that is observed, as it happens. What a guest that is
    lost on the way has shown before stays, and what it has not makes no verdict. With the
    ``spec`` that the kernel was built from, splats get their places in the source.
    """
    result = Result(asked, kernel, directory)
    _describe(asked, kernel, directory)
    log: list[Record] = []
    names = Names(asked.context, asked.machine.iommu.driver, asked.devices)
    hangs: dict[int, str] = {}

    def observe(entry: Record) -> None:
        log.append(entry)
        kmsg.add(asdict(entry))

    def note(text: str) -> None:
        result.notes.append(text)
        watcher.on_note(text)

    first = 0
    with _log(directory / "kmsg.jsonl") as kmsg, _log(directory / "steps.jsonl") as steps:
        try:
            with snapshot.started(
                kernel,
                asked.machine,
                directory,
                kmod="kmod" in asked.extras,
                limit=limit,
                on_record=observe,
            ) as running:
                _write_command_line(running, directory)
                running.new_kmsg()
                first = len(log)
                player = Player(running, kernel, names, note, hangs)
                player.start(asked.session.commands)
                for number, command in enumerate(asked.session.commands):
                    watcher.on_command(number + 1, command.text)
                    result.steps.append(player.play(number, command))
                    own = _judged_so_far(result, names, hangs, number)
                    steps.add(record.step(command, result.steps[-1], own))
                    watcher.on_step(result.steps[-1], own)
        except GuestError as error:
            result.error = error
    _conclude(result, log, first, names, hangs)
    if spec:
        _symbolise(result, spec)
    (directory / "result.json").write_text(json.dumps(record.result(result), indent=1) + "\n")
    return result


def _judged_so_far(
    result: Result, names: Names, hangs: dict[int, str], number: int
) -> list[Judgement]:
    """The claims about the step that just ended; what stands beside the session waits."""
    own = [each for each in result.request.claims if each.step == number]
    splats = splat.find([entry.text for step in result.steps for entry in step.kmsg])
    done = _replayed(result, splats, names, hangs)
    return judge.judge(own, done)


def _replayed(
    result: Result, splats: Sequence[Splat], names: Names, hangs: dict[int, str]
) -> Replayed:
    commands: tuple[Command, ...] = result.request.session.commands
    return Replayed(
        commands, tuple(result.steps), tuple(splats), result.error, result.kernel, names, hangs
    )


def _conclude(
    result: Result, log: Sequence[Record], first: int, names: Names, hangs: dict[int, str]
) -> None:
    """The verdict, from all that the guest has shown since the session began."""
    dying = splat.find(_unseen(result.error.log, log)) if result.error else []
    shown = splat.find([entry.text for entry in log[first:]]) + dying
    # Those of the boot are shown as well, and are no symptom of the session.
    result.splats = splat.find([entry.text for entry in log[:first]]) + shown
    done = _replayed(result, shown, names, hangs)
    result.judged = judge.judge(result.request.claims, done)
    result.verdict = _verdict(result)
    reported = [each.splat for each in result.request.claims if each.splat]
    result.unmentioned = [
        each for each in result.splats if not any(crash.same_splat(one, each) for one in reported)
    ]
    result.lost_records = gaps(log)


def _symbolise(result: Result, spec: KernelSpec) -> None:
    """Gives the frames of the guest's splats their places."""
    found = [symbolise.symbolised(each, result.kernel, spec) for each in result.splats]
    places = {id(old): new.splat for old, new in zip(result.splats, found, strict=True)}
    result.unmentioned = [places[id(each)] for each in result.unmentioned]
    result.splats = list(places.values())
    lacking = dict.fromkeys(each.reason for each in found if each.reason and each.total)
    result.notes += [f"frames without a place in the source: {each}" for each in lacking]


def _verdict(result: Result) -> Verdict:
    """Of the claims; a host in trouble makes none of the kernel."""
    error = result.error
    if isinstance(error, GuestLost) and not isinstance(error, GuestReset):
        step = len(result.steps) + 1
        return Verdict(
            "inconclusive", f"step {step} of {len(result.request.session.commands)}: {error}"
        )
    return verdict.judge(result.judged)


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


def _unseen(console: str, log: Sequence[Record]) -> list[str]:
    """The console's lines that are later than the last record of the log."""
    last = log[-1].time if log else 0.0
    lines = (_STAMP.match(line) for line in console.splitlines())
    return [match[2] for match in lines if match and float(match[1]) > last]
