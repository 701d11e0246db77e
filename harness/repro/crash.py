# SPDX-License-Identifier: GPL-2.0-only
"""Claims about how a kernel or a command fails: splats, panics, deaths and hangs."""

import itertools
import re

from harness.errors import GuestHang, GuestPanic, GuestReset
from harness.guest.guest import Step
from harness.klog.splat import Splat
from harness.report.claim import DEADLY, Claim
from harness.repro import lacking
from harness.repro.replayed import Case, Held, Replayed, unreached


def panic(case: Case) -> Held:
    each, done = case.claim, case.done
    wanted = _panic_text(each.splat.text[0] if each.splat else "")
    seen = done.error.text if isinstance(done.error, GuestPanic) else None
    if seen is None:
        if done.error is not None:
            return unreached(each, done)
        return False, "the kernel does not panic"
    if wanted and not _same_panic(wanted, seen):
        return False, f"the kernel panics: {seen}"
    own = [found for found in done.splats if found.kind != "panic"] or done.splats
    where = each.splat.function if each.splat else ""
    # By the whole trace: after a call that does not return it names the next function.
    if where and own and not any(where in (found.function, *found.frames[:8]) for found in own):
        return False, f"the kernel panics in {own[-1].function}"
    return True, f"the kernel panics: {seen}"


def _panic_text(line: str) -> str:
    return line.partition("Kernel panic - not syncing: ")[2].strip() or line.strip()


def _same_panic(wanted: str, seen: str) -> bool:
    """A report may cut the text short; numbers in it are the machine's."""
    one, other = (re.sub(r"0x[0-9a-f]+|\d+", "N", text.strip()) for text in (wanted, seen))
    return bool(one) and other.startswith(one.removesuffix("...").strip())


def splat(case: Case) -> Held:
    each, done = case.claim, case.done
    reported = each.splat
    if reported is None:
        return _oops(done)
    alike = [found for found in done.splats if same_splat(reported, found)]
    same = next((found for found in alike if not _comes_later(each, found, done)), None)
    if same:
        return True, f"the kernel reports {same.title}"
    if alike:
        return False, f"the kernel reports it in step {_step_of(alike[0], done) + 1}"
    detector = lacking.detector(reported, done.kernel)
    if detector:
        return None, detector
    return _no_splat(each, reported, done)


def _oops(done: Replayed) -> Held:
    """Any that a task or the kernel dies of: words do not say which."""
    if isinstance(done.error, GuestPanic | GuestReset):
        return True, str(done.error)
    deadly = next((found for found in done.splats if found.kind in DEADLY), None)
    if deadly:
        return True, f"the kernel reports {deadly.title}"
    if done.error is not None:
        return None, str(done.error)
    return False, "the kernel does not oops"


# Tasks that do what a command began, when it may have ended.
_WORKER = re.compile(r"(?:kworker|ksoftirqd|swapper|migration|rcu|irq/)")


def _comes_later(each: Claim, found: Splat, done: Replayed) -> bool:
    """Whether a command typed after the one below which the report has the splat is what makes
    it. What goes on in the background, or a worker does, has no such order."""
    if each.step is None or _WORKER.match(found.comm) or not found.comm:
        return False
    before = done.commands[: each.step + 1]
    if any(one.background or one.text.rstrip().endswith("&") for one in before):
        return False
    return _step_of(found, done) > each.step


def _step_of(found: Splat, done: Replayed) -> int:
    """The step in whose part of the log the splat begins."""
    ends = itertools.accumulate(len(step.kmsg) for step in done.steps)
    return next((number for number, end in enumerate(ends) if found.first < end), len(done.steps))


def _no_splat(each: Claim, reported: Splat, done: Replayed) -> Held:
    """What it means that the kernel does not report the splat."""
    alike = [found for found in done.splats if found.kind == reported.kind]
    if alike and not reported.function and not reported.line:
        return None, "the report's trace names no function to compare"
    if alike and (done.error is None or isinstance(done.error, GuestPanic | GuestHang)):
        return False, f"the kernel reports another one: {alike[0].title}"
    if done.error is not None and not isinstance(done.error, GuestPanic):
        return unreached(each, done)
    return False, f"the kernel reports no {reported.kind}"


def same_splat(reported: Splat, seen: Splat) -> bool:
    """Whether two reports of kernels are the same by meaning: of one kind, in one function
    that is called alike, at one place where both are of one release. Processors, PIDs,
    addresses, offsets, registers, names of processes and taint do not count."""
    if _kind(reported) != _kind(seen):
        return False
    if reported.function and seen.function:
        return (
            reported.function == seen.function
            and _called_alike(reported, seen)
            and _same_line(reported, seen)
        )
    return bool(reported.file) and (reported.file, reported.line) == (seen.file, seen.line)


_LOCKDEP = re.compile(
    r"possible [a-z ]+? (?:dep|lock|det)|inconsistent|suspicious RCU|bad unlock|held"
)


def _kind(splat: Splat) -> tuple[str, str]:
    """The kind, of lockdep's and sanitizers' reports with what exactly they say."""
    detail = ""
    if splat.kind == "KASAN":
        # 5.18 and later say which kind of use after free.
        match = re.search(r"KASAN: ([\w-]+)", splat.opening or splat.text[0])
        detail = (match[1] if match else "").removeprefix("slab-").removeprefix("vmalloc-")
    if splat.kind == "lockdep":
        match = _LOCKDEP.search(splat.opening or splat.text[0])
        detail = match[0] if match else ""
    return splat.kind, detail


def _called_alike(reported: Splat, seen: Splat) -> bool:
    if not reported.caller or not seen.caller or reported.caller == seen.caller:
        return True
    return reported.caller in seen.frames[:8] or seen.caller in reported.frames[:8]


def _same_line(reported: Splat, seen: Splat) -> bool:
    """Lines move from release to release; within one they say which of a function's checks."""
    if not reported.line or not seen.line or reported.file != seen.file:
        return True
    same_release = bool(reported.kernel) and reported.kernel == seen.kernel
    return reported.line == seen.line or not same_release


def killed(case: Case) -> Held:
    each, done = case.claim, case.done
    step = done.step(each.step)
    if step is None:
        if isinstance(done.error, GuestPanic):
            return True, f"the kernel panics: {done.error.text}"
        return unreached(each, done)
    if died(step):
        return True, f"it is killed, status {step.status}"
    return False, f"it ends with status {step.status}"


DEATH = re.compile(r"(?:Segmentation fault|Killed|Trace/breakpoint trap|Bus error|Aborted)\b")
# 128 and SIGKILL, SIGSEGV, SIGTRAP, SIGBUS, SIGABRT.
_FATAL = frozenset({128 + number for number in (4, 5, 6, 7, 9, 11)})


def died(step: Step) -> bool:
    """Whether a signal, as of an oops, killed the command or a part of it."""
    printed = (line.strip() for line in (step.out + "\n" + step.err).splitlines())
    return step.killed or step.status in _FATAL or any(DEATH.match(line) for line in printed)


def hang(case: Case) -> Held:
    each, done = case.claim, case.done
    assert each.step is not None
    if each.step in done.hangs:
        return True, done.hangs[each.step] or "it does not end"
    step = done.step(each.step)
    if step is None:
        return unreached(each, done)
    return False, f"it ends after {step.seconds:.1f} s with status {step.status}"
