# SPDX-License-Identifier: GPL-2.0-only
"""Judge claims about splats, panics, killed commands and hangs."""

import itertools
import re
from collections.abc import Iterator

from harness.errors import GuestHang, GuestPanic, GuestReset
from harness.guest.guest import Step
from harness.kernel.artifact import Kernel
from harness.klog.splat import Splat
from harness.report.claim import FATAL_KINDS, Claim
from harness.repro import matching, missing
from harness.repro.session_run import Ruling, SessionRun
from harness.symbols import image

# Tasks that do work for a command, possibly after the command has ended.
_WORKER = re.compile(r"(?:kworker|ksoftirqd|swapper|migration|rcu|irq/)")

KILLED_BY_SIGNAL = re.compile(
    r"(?:Segmentation fault|Killed|Trace/breakpoint trap|Bus error|Aborted)\b"
)
# 128 plus SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGKILL or SIGSEGV.
_FATAL_STATUSES = frozenset({128 + number for number in (4, 5, 6, 7, 9, 11)})

# How many frames of a panic's trace are compared.
_COMPARED_FRAMES = 8


def panic(claim: Claim, run: SessionRun) -> Ruling:
    if not isinstance(run.error, GuestPanic):
        return run.not_reached(claim) if run.error else (False, "the kernel does not panic")
    reported = _panic_reason(claim.splat.text[0] if claim.splat else "")
    text = run.error.text
    if reported and not _same_panic(reported, text):
        return False, f"the kernel panics: {text}"
    splats = [found for found in run.splats if found.kind != "panic"] or run.splats
    function = claim.splat.function if claim.splat else ""
    if function and splats and not any(function in _functions(each, run.kernel) for each in splats):
        return False, f"the kernel panics in {splats[-1].function}"
    return True, f"the kernel panics: {text}"


def _panic_reason(line: str) -> str:
    return line.partition("Kernel panic - not syncing: ")[2].strip() or line.strip()


def _same_panic(reported: str, observed: str) -> bool:
    """Whether the reasons are the same. A report may cut off the end of its reason, and numbers
    depend on the machine."""
    one, other = (re.sub(r"0x[0-9a-f]+|\d+", "N", text.strip()) for text in (reported, observed))
    return bool(one) and other.startswith(one.removesuffix("...").strip())


def _functions(found: Splat, kernel: Kernel) -> Iterator[str]:
    """The functions that a panic can be in: those at the head of its trace. panic() does not
    return. If a function ends with a call to it, the return address is the start of the next
    function, which the kernel prints instead."""
    yield from (found.function, *found.frames[:_COMPARED_FRAMES])
    for each in (frame for chain in found.chains for frame in chain.frames[:_COMPARED_FRAMES]):
        if each.offset == 0:
            yield from image.preceding(kernel.directory / "vmlinux", each.function)


def splat(claim: Claim, run: SessionRun) -> Ruling:
    reported = claim.splat
    if reported is None:
        return _any_oops(run)
    alike = [found for found in run.splats if matching.same_splat(reported, found)]
    in_time = next((found for found in alike if not _is_of_later_step(found, claim, run)), None)
    if in_time:
        return True, f"the kernel reports {in_time.title}"
    if alike:
        return False, f"the kernel reports it only in step {_step_of(alike[0], run) + 1}"
    lacks = missing.detector(reported, run.kernel)
    return (None, lacks) if lacks else _no_splat(claim, reported, run)


def _any_oops(run: SessionRun) -> Ruling:
    """Rule on a crash in prose, which may mean a panic, a reset or a killed task."""
    if isinstance(run.error, GuestPanic | GuestReset):
        return True, str(run.error)
    fatal = next((found for found in run.splats if found.kind in FATAL_KINDS), None)
    if fatal:
        return True, f"the kernel reports {fatal.title}"
    if run.error is not None:
        return None, str(run.error)
    return False, "the kernel does not oops"


def _is_of_later_step(found: Splat, claim: Claim, run: SessionRun) -> bool:
    """Whether the splat appears in a later step than in the report. This is ignored for splats of
    background commands and workers, which may run at any time."""
    if claim.step is None or _WORKER.match(found.comm) or not found.comm:
        return False
    before = run.commands[: claim.step + 1]
    if any(one.background or one.text.rstrip().endswith("&") for one in before):
        return False
    return _step_of(found, run) > claim.step


def _step_of(found: Splat, run: SessionRun) -> int:
    """Return the step during which the kernel logged the first line of the splat."""
    ends = itertools.accumulate(len(step.kmsg) for step in run.steps)
    return next((number for number, end in enumerate(ends) if found.first < end), len(run.steps))


def _no_splat(claim: Claim, reported: Splat, run: SessionRun) -> Ruling:
    """Rule on a splat that the kernel does not report."""
    alike = [found for found in run.splats if found.kind == reported.kind]
    if alike and not reported.function and not reported.line:
        return None, "the report's trace has no function to compare"
    if alike and (run.error is None or isinstance(run.error, GuestPanic | GuestHang)):
        return False, f"the kernel reports a different {reported.kind} splat: {alike[0].title}"
    if run.error is not None and not isinstance(run.error, GuestPanic):
        return run.not_reached(claim)
    return False, f"the kernel reports no {reported.kind} splat"


def killed(claim: Claim, run: SessionRun) -> Ruling:
    step = run.step(claim.step)
    if step is None:
        if isinstance(run.error, GuestPanic):
            return True, f"the kernel panics: {run.error.text}"
        return run.not_reached(claim)
    if is_killed(step):
        return True, f"it is killed, status {step.status}"
    return False, f"it exits with status {step.status}"


def is_killed(step: Step) -> bool:
    """Whether a signal killed the command or a part of it, for example after an oops."""
    printed = (line.strip() for line in (step.out + "\n" + step.err).splitlines())
    by_status = step.killed or step.status in _FATAL_STATUSES
    return by_status or any(KILLED_BY_SIGNAL.match(line) for line in printed)


def hang(claim: Claim, run: SessionRun) -> Ruling:
    assert claim.step is not None
    if claim.step in run.hangs:
        return True, run.hangs[claim.step] or "it hangs"
    step = run.step(claim.step)
    if step is None:
        return run.not_reached(claim)
    ending = f"it exits after {step.seconds:.1f} s with status {step.status}"
    return _is_long_enough(step.seconds, claim.number), ending


def _is_long_enough(seconds: float, claimed: int | None) -> bool | None:
    """Whether a command that ends hangs as long as claimed. Timeouts differ by less than half. A
    short hang is inconclusive, because an emulated machine may just be slow."""
    if claimed is None or seconds < claimed / 2:
        return False
    return True if claimed >= matching.MANY_SECONDS else None
