# SPDX-License-Identifier: GPL-2.0-only
"""Replay the session of a report in a guest, and judge what the report claims."""

import contextlib
import json
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
from harness.klog import record, splat
from harness.klog.record import Record, gaps
from harness.klog.splat import Splat
from harness.machine import qemu
from harness.repro import judge, matching, serialize, verdict
from harness.repro.device_names import DeviceNames
from harness.repro.request import Request
from harness.repro.runner import Runner
from harness.repro.session_run import Judgement, SessionRun
from harness.repro.verdict import Verdict
from harness.symbols import symbolise

# A claimed hang that ends may take this many times its duration in a guest, but at most this many
# seconds.
_HANG_FACTOR = 2.0
_LONGEST_HANG = 600.0


@dataclass(slots=True)
class Result:
    """A replay and its verdict.

    ``judged`` are the judgements on the report's claims, in order. ``splats`` are the splats of
    the guest, and ``unmentioned`` the splats that the report does not show. ``lost_records`` are
    the ranges of kernel messages that were overwritten before they were read, each as the first
    and the last number. ``error`` is the reason why the guest was lost, if it was. ``notes`` are
    choices that were made for the user during the replay.
    """

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
    """A replay on one of several kernels, or of one of several reports (``name``).

    It has a ``result``, or the ``error`` that kept the kernel from being built or the guest from
    being started.
    """

    spec: KernelSpec
    name: str
    result: Result | None
    error: HarnessError | None

    @property
    def exit_code(self) -> int:
        """The exit status of a command that makes only this attempt."""
        if self.result:
            return self.result.verdict.exit_code
        assert self.error
        return self.error.exit_code


@dataclass(frozen=True, slots=True)
class Listener:
    """Callbacks during a replay: before a command, after each step with the judgements about it so
    far, and for each note."""

    on_command: Callable[[int, str], None] = lambda _number, _text: None
    on_step: Callable[[Step, Sequence[Judgement]], None] = lambda _step, _judged: None
    on_note: Callable[[str], None] = lambda _note: None


def replay(
    request: Request,
    kernel: Kernel,
    directory: Path,
    *,
    limit: float | None = None,
    listener: Listener = Listener(),
    spec: KernelSpec | None = None,
) -> Result:
    """Start a guest, run the session in it, and judge what the report claims.

    All observations are written to ``directory`` as they are made. If the guest fails, the claims
    about completed steps are judged, and the other claims are inconclusive. With the ``spec`` from
    which the kernel was built, the frames of splats get their source lines.
    """
    replaying = _Replay(Result(request, kernel, directory), listener)
    _write_inputs(request, kernel, directory)
    replaying.run(limit)
    result = replaying.conclude()
    if spec:
        _symbolise(result, spec)
    (directory / "result.json").write_text(json.dumps(serialize.result(result), indent=1) + "\n")
    return result


class _Replay:
    """A running replay: the ``result`` so far, and the observations that it is judged by."""

    def __init__(self, result: Result, listener: Listener) -> None:
        request = result.request
        self._result = result
        self._listener = listener
        self._log: list[Record] = []
        # The number of records before the session.
        self._booted = 0
        self._names = DeviceNames(request.context, request.machine.iommu.driver, request.devices)
        self._hangs: dict[int, str] = {}

    def run(self, limit: float | None) -> None:
        """Start a guest and run the session in it until the session ends or a GuestError occurs,
        which is stored in the result."""
        request, directory = self._result.request, self._result.directory
        with _log(directory / "kmsg.jsonl") as kmsg, _log(directory / "steps.jsonl") as steps:

            def observe(entry: Record) -> None:
                self._log.append(entry)
                kmsg.add(asdict(entry))

            try:
                with snapshot.started(
                    self._result.kernel,
                    request.machine,
                    directory,
                    kmod="kmod" in request.extras,
                    limit=limit,
                    on_record=observe,
                ) as guest:
                    limits = {} if limit else self._limits(guest)
                    self._run_session(guest, steps, limits)
            except GuestError as error:
                self._result.error = error

    def _limits(self, guest: Guest) -> dict[int, float]:
        """How long each step with a claimed hang that ends may be silent, in seconds."""
        return {
            each.step: max(guest.limit, min(_HANG_FACTOR * each.number, _LONGEST_HANG))
            for each in self._result.request.claims
            if each.kind == "hang" and each.number is not None and each.step is not None
        }

    def _run_session(self, guest: Guest, steps: JsonLines, limits: dict[int, float]) -> None:
        result = self._result
        _write_command_line(guest, result.directory)
        guest.new_kmsg()
        self._booted = len(self._log)
        runner = Runner(guest, result.kernel, self._names, self._note, limits, self._hangs)
        session = result.request.session.commands
        runner.prepare(session)
        for number, command in enumerate(session):
            self._listener.on_command(number + 1, command.text)
            step = runner.run(number, command)
            result.steps.append(step)
            judged = self._judge_step(number)
            steps.add(serialize.step(command, step, judged))
            self._listener.on_step(step, judged)

    def _note(self, text: str) -> None:
        self._result.notes.append(text)
        self._listener.on_note(text)

    def _judge_step(self, number: int) -> list[Judgement]:
        """Judge the claims about the step that has just ended."""
        splats = splat.find([entry.text for step in self._result.steps for entry in step.kmsg])
        run = self._session_run(splats)
        return judge.judge_claims(run.claims_about(number), run)

    def _session_run(self, splats: Sequence[Splat]) -> SessionRun:
        result = self._result
        return SessionRun(
            result.request.session.commands,
            result.request.claims,
            tuple(result.steps),
            tuple(splats),
            result.error,
            result.kernel,
            self._names,
            self._hangs,
        )

    def conclude(self) -> Result:
        """Judge all claims by all observations since the session began."""
        result, log = self._result, self._log
        texts = [entry.text for entry in log]
        last_words = record.unread(result.error.log, log) if result.error else []
        of_session = splat.find([*texts[self._booted :], *last_words])
        # Splats during boot are shown as well, but are not symptoms of the session.
        result.splats = splat.find(texts[: self._booted]) + of_session
        claims = result.request.claims
        result.judged = judge.judge_claims(claims, self._session_run(of_session))
        result.verdict = _verdict(result)
        reported = [each.splat for each in claims if each.splat]
        result.unmentioned = [
            each
            for each in result.splats
            if not any(matching.same_splat(one, each) for one in reported)
        ]
        result.lost_records = gaps(log)
        return result


def _symbolise(result: Result, spec: KernelSpec) -> None:
    """Add source lines to the frames of the guest's splats."""
    found = [symbolise.symbolised(each, result.kernel, spec) for each in result.splats]
    symbolised = {id(old): new.splat for old, new in zip(result.splats, found, strict=True)}
    result.unmentioned = [symbolised[id(each)] for each in result.unmentioned]
    result.splats = list(symbolised.values())
    reasons = dict.fromkeys(each.reason for each in found if each.reason and each.total)
    result.notes += [f"frames without a source line: {each}" for each in reasons]


def _verdict(result: Result) -> Verdict:
    """Return the verdict on the claims, which is inconclusive if the host lost the guest."""
    error = result.error
    if isinstance(error, GuestLost) and not isinstance(error, GuestReset):
        step, total = len(result.steps) + 1, len(result.request.session.commands)
        return Verdict("inconclusive", f"step {step} of {total}: {error}")
    return verdict.decide(result.judged)


@contextlib.contextmanager
def _log(path: Path) -> Iterator[JsonLines]:
    lines = rundir.JsonLines(path)
    try:
        yield lines
    finally:
        lines.close()


def _write_inputs(request: Request, kernel: Kernel, directory: Path) -> None:
    shutil.copy(kernel.config, directory / "kernel.config")
    lines = [f"$ {text}" for text in request.session.texts]
    (directory / "session.txt").write_text("\n".join(lines) + "\n")


def _write_command_line(guest: Guest, directory: Path) -> None:
    """Write a script that boots the same machine on a terminal."""
    single = replace(guest.boot.machine, single_console=False)
    boot = replace(guest.boot, machine=single, arguments="rdinit=/harness/shell")
    command = shlex.join(qemu.on_a_terminal(boot))
    script = directory / "boot.sh"
    script.write_text(
        f"#!/bin/sh\n# The machine of this run, with a shell on its console.\nexec {command}\n"
    )
    script.chmod(0o755)
    (directory / "qemu.json").write_text(json.dumps(guest.argv, indent=1) + "\n")
