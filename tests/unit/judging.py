# SPDX-License-Identifier: GPL-2.0-only
"""Helpers that judge claims against fabricated steps, without a guest."""

from pathlib import Path

from harness.errors import GuestLost, GuestPanic
from harness.guest.guest import Step
from harness.guest.state import Module, State
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.klog.record import Record
from harness.report import session_claims
from harness.report.claim import Claim
from harness.report.commands import Command
from harness.report.session import Session
from harness.repro import judge, verdict
from harness.repro.device_names import DeviceNames
from harness.repro.session_run import Judgement, SessionRun
from harness.repro.verdict import Verdict

OLD_BUSYBOX = "modprobe: can't unload module arm_smmu_v3: Resource temporarily unavailable"


BUSYBOX = "modprobe: can't unload module 'arm-smmu-v3': Resource temporarily unavailable"


KMOD = "modprobe: FATAL: Module arm_smmu_v3 is in use."


RMMOD = "rmmod: ERROR: Module arm_smmu_v3 is in use"


LIBKMOD = (
    "rmmod: ERROR: ../libkmod/libkmod-module.c:854 kmod_module_remove_module() "
    "could not remove 'arm_smmu_v3': Resource temporarily unavailable"
)


RMMOD_TRIES = "rmmod: ERROR: could not remove module arm_smmu_v3: Resource temporarily unavailable"


TOYBOX = "rmmod: failed to unload arm_smmu_v3: Try again"


IN_USE = [OLD_BUSYBOX, BUSYBOX, KMOD, RMMOD, LIBKMOD, RMMOD_TRIES, TOYBOX]


def with_refcount(refcount: int | None) -> State:
    if refcount is None:
        return State()
    return State(modules={"arm_smmu_v3": Module("arm_smmu_v3", "live", refcount, ())})


def step(
    status: int = 0,
    out: str = "",
    err: str = "",
    kmsg: tuple[str, ...] = (),
    refcount: int | None = None,
    killed: bool = False,
) -> Step:
    records = tuple(Record(6, number, 0.0, text) for number, text in enumerate(kmsg))
    state = with_refcount(refcount)
    return Step("x", status, killed, out, err, records, state, state, 0.001)


def command(*output: str, status: int | None = None, text: str = "x") -> Command:
    return Command(text, output, status, 1, tuple(range(2, 2 + len(output))))


KERNEL = Kernel("key", "debian:6.12", "6.12.117", "gcc", Path("/nonexistent"))


def judged(
    commands: list[Command],
    steps: list[Step],
    error: GuestPanic | GuestLost | None = None,
    hangs: dict[int, str] | None = None,
    claims: list[Claim] | None = None,
) -> list[Judgement]:
    found = claims or session_claims.find(Session(tuple(commands)))
    run = SessionRun(
        tuple(commands),
        found,
        tuple(steps),
        tuple(splat.find([record.text for step in steps for record in step.kmsg])),
        error,
        KERNEL,
        DeviceNames("", "arm_smmu_v3"),
        hangs or {},
    )
    return judge.judge_claims(found, run)


def verdict_of(
    commands: list[Command], steps: list[Step], error: GuestPanic | GuestLost | None = None
) -> Verdict:
    return verdict.decide(judged(commands, steps, error))


def difference(reported: Command, done: Step) -> str | None:
    """The reason why the first deciding claim does not hold, or None if all claims hold."""
    found = judged([reported], [done])
    return next((each.reason for each in found if each.held is False and each.claim.decides), None)


OOPS = ("[ 1.0] Unable to handle kernel NULL pointer dereference at virtual address 08",)
