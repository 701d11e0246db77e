# SPDX-License-Identifier: GPL-2.0-only
"""What a search looks for, and how a fresh guest shows it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from harness.bisect.checks import Check, CommandEnd, line
from harness.bisect.journal import RunResult
from harness.errors import (
    GuestError,
    GuestHang,
    GuestLost,
    GuestPanic,
    GuestReset,
    HostError,
    UsageError,
)
from harness.guest import launch, snapshot
from harness.guest.guest import Guest, Step
from harness.iommu import kernel_profile, machine_file
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import record, splat
from harness.klog.splat import Splat
from harness.machine.topology import Machine
from harness.report import claim
from harness.repro import hang, replay, request
from harness.repro.request import Request
from harness.suite import resolved, run
from harness.suite.resolved import Resolved


@dataclass(frozen=True, slots=True)
class Observation:
    """What one guest did: whether it has ``shown`` it, or stayed ``clean``, and ``reason``
    in a line; ``splats`` are what its kernel reported."""

    word: RunResult
    reason: str
    splats: tuple[Splat, ...] = ()


class Symptom(Protocol):
    """``label`` says what is looked for; ``exact`` that nothing else can look the same;
    ``variants`` are what its kernels need."""

    @property
    def label(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def variants(self) -> tuple[str, ...]: ...

    def look(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:
        """In a fresh guest, with all that is observed in the directory. Raises HarnessError
        where this host is in trouble."""


def _unbootable(
    kernel: Kernel, machine: Machine, directory: Path, *, kmod: bool = False, anew: bool = False
) -> Observation | None:
    """None for a kernel that comes up; ``anew``, or where the machine cannot be saved, in a
    boot for that, else the warm guest is made on the way. One that hangs may be this
    host's fault."""
    try:
        if machine.migratable and not anew:
            snapshot.warm(kernel, machine, kmod=kmod, directory=directory)
        else:
            with launch.booted(kernel, machine, directory, kmod=kmod):
                pass
    except GuestReset:
        return _seen_early(kernel, machine, directory)
    except GuestLost:
        raise
    except GuestError as error:
        return _dead_on_arrival(error)
    return None


def _seen_early(kernel: Kernel, machine: Machine, directory: Path) -> Observation:
    """Why a kernel dies before it has a console: it is booted with an early one."""
    try:
        with launch.booted(kernel, machine, directory, arguments="earlycon"):
            return Observation(
                "inconclusive", "it died when it booted, and with an early console it did not"
            )
    except GuestError as error:
        return _dead_on_arrival(error)


def _dead_on_arrival(error: GuestError) -> Observation:
    if isinstance(error, GuestHang):
        return Observation("inconclusive", f"does not come up: {error.message}")
    return Observation("no-boot", error.message, tuple(splat.find(record.messages(error.log))))


@dataclass(frozen=True, slots=True)
class Report:
    """A bug report that reproduces: every step of its session, in order."""

    asked: Request
    limit: float | None = None
    exact: bool = True

    @property
    def label(self) -> str:
        return f"{self.asked.name} reproduces"

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.asked.machine.variants)

    def look(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:  # noqa: ARG002
        machine = self.asked.machine
        unbootable = _unbootable(kernel, machine, directory, kmod="kmod" in self.asked.extras)
        if unbootable:
            return unbootable
        result = replay.replay(self.asked, kernel, directory, limit=self.limit)
        if isinstance(result.error, GuestLost) and not isinstance(result.error, GuestReset):
            raise result.error
        words: dict[str, RunResult] = {"reproduced": "shown", "not-reproduced": "clean"}
        word = words.get(result.verdict.word, "inconclusive")
        return Observation(word, _first_difference(result), tuple(result.splats))


def _first_difference(result: replay.Result) -> str:
    """The verdict's reason, with what the first claim that does not hold has instead."""
    for each in result.judged:
        if each.held is False and each.claim.decides and each.claim.step is not None:
            instead = each.reason.partition("\n")[0]
            return f"step {each.claim.step + 1}, {each.claim.text}: {instead}"
    return result.verdict.reason


def report(
    path: Path, session: str | None, machine: str | None, qemu: str, limit: float | None
) -> Report:
    """Raises UsageError as ``request.create`` does, and for a report that claims nothing of what
    its commands do."""
    asked = request.create(path, session, machine, qemu)
    if not claim.any_symptom(asked.claims):
        raise UsageError(
            f"{path.name} shows no output or status that could be compared",
            "add what the commands print, or search with --command",
        )
    return Report(asked, limit)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario of the suite that fails, or runs into one of the ``known`` issues named:
    others have another origin than the bug of the search."""

    request: run.Request
    known: tuple[str, ...] = ()
    exact: bool = False

    @property
    def label(self) -> str:
        return f"{' '.join(self.request.scenarios)} fails"

    @property
    def variants(self) -> tuple[str, ...]:
        found = (
            each for name in self.request.machines for each in machine_file.machine(name).variants
        )
        return tuple(dict.fromkeys(found))

    def look(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:
        for name in self.request.machines:
            machine = replace(machine_file.machine(name), qemu=self.request.qemu)
            unbootable = _unbootable(kernel, machine, directory)
            if unbootable:
                return unbootable
        found = Resolved(spec, kernel, kernel_profile.of(spec, kernel, self.request.behaviours))
        file = resolved.write([found], resolved.file_in(directory))
        request = replace(self.request, kernels=(spec,), resolved=file)
        outcomes = run.run(request, directory, title=self.label)
        failed = [each for each in outcomes if each.result == "failed" or self._is_known(each)]
        if failed:
            said = _told_splats(failed)
            return Observation(
                "shown", f"{failed[0].scenario}: {line(failed[0].reason)}", tuple(said)
            )
        inconclusive = [each for each in outcomes if each.result == "inconclusive"]
        if inconclusive:
            raise HostError(f"{inconclusive[0].scenario}: {line(inconclusive[0].reason)}")
        results = [each.result for each in outcomes]
        if "passed" in results or "known" in results:
            return Observation("clean", self._clean(outcomes))
        return Observation("inconclusive", line(outcomes[0].reason))

    def _is_known(self, outcome: run.Outcome) -> bool:
        return outcome.result == "known" and outcome.issue in self.known

    @staticmethod
    def _clean(outcomes: Sequence[run.Outcome]) -> str:
        passed = sum(each.result == "passed" for each in outcomes)
        issues = sorted({each.issue for each in outcomes if each.result == "known"})
        more = [f"known issue {name} appears (--known {name} looks for it)" for name in issues]
        return "; ".join([f"{passed} scenarios pass", *more])


def _told_splats(failed: Sequence[run.Outcome]) -> list[Splat]:
    """Those that a scenario fails for."""
    lines = [line.strip() for each in failed for line in each.story.splitlines()]
    return splat.find(lines)


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel that does not come up."""

    machine: Machine
    exact: bool = False

    @property
    def label(self) -> str:
        return f"it does not boot on {self.machine.name}"

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.machine.variants)

    def look(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:  # noqa: ARG002
        dead = _unbootable(kernel, self.machine, directory, anew=True)
        return replace(dead, word="shown") if dead else Observation("clean", "it boots")


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands of a user's, whose end, output or splats tell. ``limit`` is on the guest's
    silence, in seconds; None is the guest's own."""

    commands: tuple[str, ...]
    machine: Machine
    label: str
    exact: bool
    tells: Check
    limit: float | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.machine.variants)

    def look(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:  # noqa: ARG002
        unbootable = _unbootable(kernel, self.machine, directory)
        if unbootable:
            return unbootable
        *before, last = self.commands
        try:
            with snapshot.started(kernel, self.machine, directory, limit=self.limit) as running:
                for each in before:
                    step = running.step(each)
                    _note(directory, step)
                    if step.status:
                        return Observation(
                            "inconclusive", f"{each!r} before it fails: {_ended(step)}"
                        )
                end = _end(running, last, kernel, directory)
        except GuestPanic as error:
            splats = splat.find(record.messages(error.log))
            end = CommandEnd(_KILLED, error.message, tuple(splats), panicked=True)
        except (GuestHang, GuestReset) as error:
            return Observation("inconclusive", error.message)
        seen = self.tells(end)
        if seen is None:
            return Observation("inconclusive", _undecided(end), end.splats)
        reason = seen or f"status {end.status}, {line(end.output) or 'no output'}"
        return Observation("shown" if seen else "clean", reason, end.splats)


def _end(running: Guest, command: str, kernel: Kernel, directory: Path) -> CommandEnd:
    """How the last command ends, or where it hangs."""
    try:
        step = running.step(command)
    except GuestHang as error:
        where = hang.locate(running, command, kernel) or error.message
        with (directory / _STEPS).open("a") as file:
            file.write(f"$ {command}\nit does not end: {where}\n")
        found = splat.find([entry.text for entry in running.kmsg_read])
        return CommandEnd(_KILLED, "", tuple(found), where)
    _note(directory, step)
    found = splat.find([entry.text for entry in running.kmsg()])
    return CommandEnd(step.status, step.out + step.err, tuple(found))


def _undecided(end: CommandEnd) -> str:
    """Why the end is inconclusive."""
    if end.hangs is not None:
        return f"it does not end: {line(end.hangs)}"
    if end.panicked:
        return line(end.output)
    return f"it prints no such figure: {line(end.output)}"


def _ended(step: Step) -> str:
    return f"status {step.status}, {line(step.out + step.err) or 'no output'}"


_STEPS = "steps.txt"
# The status of a command that its guest did not survive.
_KILLED = 128


def _note(directory: Path, step: Step) -> None:
    with (directory / _STEPS).open("a") as file:
        file.write(f"$ {step.command}\n{step.out}{step.err}[{step.status}]\n")
