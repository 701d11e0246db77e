# SPDX-License-Identifier: GPL-2.0-only
"""The symptoms that can be bisected, and the check of a fresh guest for each."""

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
from harness.suite.run import RunRequest, ScenarioOutcome
from harness.suite.scenario_result import RAN, ScenarioResult


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of checking a guest, its ``reason`` in one line, and the kernel's ``splats``."""

    result: RunResult
    reason: str
    splats: tuple[Splat, ...] = ()


class Symptom(Protocol):
    """A symptom to bisect.

    ``label``: a clause that describes the symptom.
    ``exact``: whether no other bug shows the same symptom.
    ``variants``: the kernel variants that the symptom requires.
    """

    @property
    def label(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def variants(self) -> tuple[str, ...]: ...

    def check(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:
        """Check a fresh guest for the symptom, and write all evidence to the directory. Raises
        HarnessError for a failure of this host."""


def _boot_failure(
    kernel: Kernel, machine: Machine, directory: Path, *, kmod: bool = False, cold: bool = False
) -> Observation | None:
    """Boot the kernel, and return the failure, or None if it boots.

    The guest becomes the warm guest of the check, unless ``cold`` is set or the machine cannot
    be saved. A boot that hangs is inconclusive, because this host may be the reason.
    """
    try:
        if machine.migratable and not cold:
            snapshot.warm(kernel, machine, kmod=kmod, directory=directory)
        else:
            with launch.booted(kernel, machine, directory, kmod=kmod):
                pass
    except GuestReset:
        return _early_failure(kernel, machine, directory)
    except GuestLost:
        raise
    except GuestError as error:
        return _failed_boot(error)
    return None


def _early_failure(kernel: Kernel, machine: Machine, directory: Path) -> Observation:
    """Boot a kernel that died before it had a console once more with earlycon, and return its
    failure."""
    try:
        with launch.booted(kernel, machine, directory, arguments="earlycon"):
            return Observation("inconclusive", "died at boot, but booted with earlycon")
    except GuestError as error:
        return _failed_boot(error)


def _failed_boot(error: GuestError) -> Observation:
    if isinstance(error, GuestHang):
        return Observation("inconclusive", f"does not finish booting: {error.message}")
    return Observation("no-boot", error.message, tuple(splat.find(record.messages(error.log))))


@dataclass(frozen=True, slots=True)
class ReproducedReport:
    """The symptom is that a bug report reproduces: every step of its session, in order.

    ``limit``: the seconds without output after which a step hangs, None for the default.
    """

    request: Request
    limit: float | None = None
    exact: bool = True

    @property
    def label(self) -> str:
        return f"{self.request.name} reproduces"

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.request.machine.variants)

    def check(
        self,
        spec: KernelSpec,  # noqa: ARG002
        kernel: Kernel,
        directory: Path,
    ) -> Observation:
        machine = self.request.machine
        failure = _boot_failure(kernel, machine, directory, kmod="kmod" in self.request.extras)
        if failure:
            return failure
        replayed = replay.replay(self.request, kernel, directory, limit=self.limit)
        if isinstance(replayed.error, GuestLost) and not isinstance(replayed.error, GuestReset):
            raise replayed.error
        results: dict[str, RunResult] = {"reproduced": "shown", "not-reproduced": "clean"}
        result = results.get(replayed.verdict.word, "inconclusive")
        return Observation(result, _first_difference(replayed), tuple(replayed.splats))


def _first_difference(replayed: replay.Result) -> str:
    """The first claim about a step that does not hold, with what the guest shows instead; the
    verdict's reason if there is no such claim."""
    for each in replayed.judged:
        if each.held is False and each.claim.decides and each.claim.step is not None:
            instead = each.reason.partition("\n")[0]
            return f"step {each.claim.step + 1}, {each.claim.text}: {instead}"
    return replayed.verdict.reason


def report(
    path: Path, session: str | None, machine: str | None, qemu: str, limit: float | None
) -> ReproducedReport:
    """The symptom of the report in a file. Raises UsageError as ``request.create`` does, and if
    the report has no claim that decides whether it reproduces."""
    found = request.create(path, session, machine, qemu)
    if not claim.any_symptom(found.claims):
        raise UsageError(
            f"{path.name} has no output or exit status to compare with",
            "add the output of the commands, or use --command",
        )
    return ReproducedReport(found, limit)


@dataclass(frozen=True, slots=True)
class FailedScenario:
    """The symptom is that a scenario of the suite fails, or runs into one of the ``known``
    issues. Other known issues have other causes, and do not count."""

    request: RunRequest
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

    def check(self, spec: KernelSpec, kernel: Kernel, directory: Path) -> Observation:
        for name in self.request.machines:
            machine = machine_file.machine(name, *self.request.qemus)
            failure = _boot_failure(kernel, machine, directory)
            if failure:
                return failure
        found = Resolved(spec, kernel, kernel_profile.of(spec, kernel, self.request.behaviours))
        file = resolved.write([found], resolved.file_in(directory))
        request = replace(self.request, kernels=(spec,), resolved=file)
        outcomes = run.run(request, directory, title=self.label)
        failed = [
            each
            for each in outcomes
            if each.result == ScenarioResult.FAILED or self._is_known(each)
        ]
        if failed:
            reason = f"{failed[0].scenario}: {line(failed[0].reason)}"
            return Observation("shown", reason, tuple(_splats(failed)))
        inconclusive = [each for each in outcomes if each.result == ScenarioResult.INCONCLUSIVE]
        if inconclusive:
            raise HostError(f"{inconclusive[0].scenario}: {line(inconclusive[0].reason)}")
        if any(each.result in RAN for each in outcomes):
            return Observation("clean", self._clean(outcomes))
        return Observation("inconclusive", line(outcomes[0].reason))

    def _is_known(self, outcome: ScenarioOutcome) -> bool:
        return outcome.result == ScenarioResult.KNOWN_ISSUE and outcome.issue in self.known

    @staticmethod
    def _clean(outcomes: Sequence[ScenarioOutcome]) -> str:
        passed = sum(each.result == ScenarioResult.PASSED for each in outcomes)
        issues = sorted({each.issue for each in outcomes if each.issue})
        more = [f"known issue {name} appears (--known {name} bisects it)" for name in issues]
        return "; ".join([f"{passed} scenario{'s' * (passed != 1)} passed", *more])


def _splats(failed: Sequence[ScenarioOutcome]) -> list[Splat]:
    """The splats in the text of the failures."""
    lines = [line.strip() for each in failed for line in each.details.splitlines()]
    return splat.find(lines)


@dataclass(frozen=True, slots=True)
class FailedBoot:
    """The symptom is that the kernel does not boot."""

    machine: Machine
    exact: bool = False

    @property
    def label(self) -> str:
        return f"the kernel does not boot on {self.machine.name}"

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.machine.variants)

    def check(
        self,
        spec: KernelSpec,  # noqa: ARG002
        kernel: Kernel,
        directory: Path,
    ) -> Observation:
        failure = _boot_failure(kernel, self.machine, directory, cold=True)
        return replace(failure, result="shown") if failure else Observation("clean", "boots")


@dataclass(frozen=True, slots=True)
class FailedCommand:
    """The symptom is in the result of the last of the user's ``commands``.

    ``last_check``: checks the result of the last command.
    ``limit``: the seconds without output after which a command hangs, None for the default.
    """

    commands: tuple[str, ...]
    machine: Machine
    label: str
    exact: bool
    last_check: Check
    limit: float | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.machine.variants)

    def check(
        self,
        spec: KernelSpec,  # noqa: ARG002
        kernel: Kernel,
        directory: Path,
    ) -> Observation:
        failure = _boot_failure(kernel, self.machine, directory)
        if failure:
            return failure
        *before, last = self.commands
        try:
            with snapshot.started(kernel, self.machine, directory, limit=self.limit) as running:
                for each in before:
                    step = running.step(each)
                    _record(directory, step)
                    if step.status:
                        reason = f"set-up command {each!r} fails: {_ended(step)}"
                        return Observation("inconclusive", reason)
                end = _end(running, last, kernel, directory)
        except GuestPanic as error:
            splats = splat.find(record.messages(error.log))
            end = CommandEnd(_KILLED, error.message, tuple(splats), panicked=True)
        except (GuestHang, GuestReset) as error:
            return Observation("inconclusive", error.message)
        shown = self.last_check(end)
        if shown is None:
            return Observation("inconclusive", _undecided(end), end.splats)
        reason = shown or f"status {end.status}, {line(end.output) or 'no output'}"
        return Observation("shown" if shown else "clean", reason, end.splats)


def _end(running: Guest, command: str, kernel: Kernel, directory: Path) -> CommandEnd:
    """Run the last command, and return how it ends or where it hangs."""
    try:
        step = running.step(command)
    except GuestHang as error:
        where = hang.locate(running, command, kernel) or error.message
        with (directory / _STEPS).open("a") as file:
            file.write(f"$ {command}\nhangs: {where}\n")
        found = splat.find([entry.text for entry in running.kmsg_read])
        return CommandEnd(_KILLED, "", tuple(found), where)
    _record(directory, step)
    found = splat.find([entry.text for entry in running.kmsg()])
    return CommandEnd(step.status, step.out + step.err, tuple(found))


def _undecided(end: CommandEnd) -> str:
    """The reason why the end is inconclusive."""
    if end.hangs is not None:
        return f"hangs: {line(end.hangs)}"
    if end.panicked:
        return line(end.output)
    return f"prints no number that matches --figure: {line(end.output)}"


def _ended(step: Step) -> str:
    return f"status {step.status}, {line(step.out + step.err) or 'no output'}"


_STEPS = "steps.txt"
# The exit status that is recorded for a command that hangs or that died with its guest.
_KILLED = 128


def _record(directory: Path, step: Step) -> None:
    with (directory / _STEPS).open("a") as file:
        file.write(f"$ {step.command}\n{step.out}{step.err}[{step.status}]\n")
