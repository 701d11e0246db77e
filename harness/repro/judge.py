# SPDX-License-Identifier: GPL-2.0-only
"""Each claim of a report held against what the guest did."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.errors import GuestError, GuestHang, GuestPanic
from harness.guest.guest import Step
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.klog.splat import Splat
from harness.report import claim, context, fact, modules, shell, traces
from harness.report.claim import Claim, Kind
from harness.report.session import Command
from harness.repro import compare, lacking
from harness.repro.names import Names


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim and whether it ``held``: None where this guest cannot show it. ``reason``
    says what the guest did."""

    claim: Claim
    held: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a guest did with a session: its ``steps``, of which there are fewer than
    ``commands`` where it was lost to ``error``; its ``splats``, in order; ``hangs`` are the
    steps that did not end, each with where its task waits."""

    commands: tuple[Command, ...]
    steps: tuple[Step, ...]
    splats: tuple[Splat, ...]
    error: GuestError | None
    kernel: Kernel
    names: Names
    hangs: dict[int, str] = field(default_factory=dict)

    def step(self, number: int | None) -> Step | None:
        if number is None or number in self.hangs or number >= len(self.steps):
            return None
        return self.steps[number]


def judge(claims: Sequence[Claim], done: Replayed) -> list[Judgement]:
    """All claims, in their order."""
    return list(_with_reasons(claims, [_judged(each, claims, done) for each in claims], done))


def _judged(each: Claim, claims: Sequence[Claim], done: Replayed) -> Judgement:
    if each.kind == "context":
        return Judgement(each, None, "it is about the reporter's machine")
    held, reason = _JUDGES[each.kind](each, claims, done)
    return Judgement(each, held, reason)


def _with_reasons(
    claims: Sequence[Claim], judged: Sequence[Judgement], done: Replayed
) -> Iterator[Judgement]:
    """The claims of a step for which the guest lacks something cannot be judged, and none
    that does not hold after it."""
    pairs = enumerate(zip(done.commands, done.steps, strict=False))
    lacks = {
        number: what
        for number, (command, step) in pairs
        if (what := _lacks(command, step, _about(claims, number), done))
    }
    first = min(lacks, default=len(done.commands))
    for each in judged:
        place = len(done.commands) if each.claim.step is None else each.claim.step
        if each.held is None or not lacks:
            yield each
        elif place in lacks:
            yield Judgement(each.claim, None, lacks[place])
        elif each.held is False and place > first:
            yield Judgement(each.claim, None, f"step {first + 1}: {lacks[first]}")
        else:
            yield each


def _lacks(command: Command, step: Step, own: Sequence[Claim], done: Replayed) -> str:
    told = "\n".join(line for each in done.commands for line in each.output)
    return lacking.of(command, step, own, told=told, names=done.names, kernel=done.kernel)


def _about(claims: Sequence[Claim], step: int) -> list[Claim]:
    return [each for each in claims if each.step == step]


def _unreached(each: Claim, done: Replayed) -> tuple[None, str]:
    """The reason where there is no step to judge by."""
    reached = len(done.steps)
    if each.step is not None and each.step in done.hangs:
        return None, f"step {each.step + 1} does not end: {done.error or 'it was interrupted'}"
    if done.error is not None:
        return None, f"step {reached + 1}: {done.error}"
    return None, f"step {reached + 1} was not run"


def _panic(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    wanted = _panic_text(each.splat.text[0] if each.splat else "")
    seen = done.error.text if isinstance(done.error, GuestPanic) else None
    if seen is None:
        if done.error is not None:
            return _unreached(each, done)
        return False, "the kernel does not panic"
    if not _same_panic(wanted, seen):
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


def _splat(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    told = each.splat
    assert told is not None
    alike = [found for found in done.splats if same_splat(told, found)]
    same = next((found for found in alike if not _comes_later(each, found, done)), None)
    if same:
        return True, f"the kernel reports {same.title}"
    if alike:
        return False, f"the kernel reports it in step {_step_of(alike[0], done) + 1}"
    detector = lacking.detector(told, done.kernel)
    if detector:
        return None, detector
    return _no_splat(each, told, done)


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


def _no_splat(each: Claim, told: Splat, done: Replayed) -> tuple[bool | None, str]:
    """What it means that the kernel does not report the splat."""
    alike = [found for found in done.splats if found.kind == told.kind]
    if alike and not told.function and not told.line:
        return None, "the report's trace names no function to compare"
    if alike and (done.error is None or isinstance(done.error, GuestPanic | GuestHang)):
        return False, f"the kernel reports another one: {alike[0].title}"
    if done.error is not None and not isinstance(done.error, GuestPanic):
        return _unreached(each, done)
    return False, f"the kernel reports no {told.kind}"


def same_splat(told: Splat, seen: Splat) -> bool:
    """Whether two reports of kernels are the same by meaning: of one kind, in one function
    that is called alike, at one place where both are of one release. Processors, PIDs,
    addresses, offsets, registers, names of processes and taint do not count."""
    if _kind(told) != _kind(seen):
        return False
    if told.function and seen.function:
        return (
            told.function == seen.function and _called_alike(told, seen) and _same_line(told, seen)
        )
    return bool(told.file) and (told.file, told.line) == (seen.file, seen.line)


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


def _called_alike(told: Splat, seen: Splat) -> bool:
    if not told.caller or not seen.caller or told.caller == seen.caller:
        return True
    return told.caller in seen.frames[:8] or seen.caller in told.frames[:8]


def _same_line(told: Splat, seen: Splat) -> bool:
    """Lines move from release to release; within one they say which of a function's checks."""
    if not told.line or not seen.line or told.file != seen.file:
        return True
    same_release = bool(told.kernel) and told.kernel == seen.kernel
    return told.line == seen.line or not same_release


def _killed(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    step = done.step(each.step)
    if step is None:
        if isinstance(done.error, GuestPanic):
            return True, f"the kernel panics: {done.error.text}"
        return _unreached(each, done)
    if died(step):
        return True, f"it is killed, status {step.status}"
    return False, f"it ends with status {step.status}"


_DEATH = re.compile(r"(?:Segmentation fault|Killed|Trace/breakpoint trap|Bus error|Aborted)\b")
# 128 and SIGKILL, SIGSEGV, SIGTRAP, SIGBUS, SIGABRT.
_FATAL = frozenset({128 + number for number in (4, 5, 6, 7, 9, 11)})


def died(step: Step) -> bool:
    """Whether a signal, as of an oops, killed the command or a part of it."""
    printed = (line.strip() for line in (step.out + "\n" + step.err).splitlines())
    return step.killed or step.status in _FATAL or any(_DEATH.match(line) for line in printed)


def _hang(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    assert each.step is not None
    if each.step in done.hangs:
        return True, done.hangs[each.step] or "it does not end"
    step = done.step(each.step)
    if step is None:
        return _unreached(each, done)
    return False, f"it ends after {step.seconds:.1f} s with status {step.status}"


def _fact(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    step = done.step(each.step)
    said = each.fact
    if step is None or said is None:
        return _unreached(each, done)
    lines = (step.out + "\n" + step.err).splitlines()
    seen = [found for found in map(fact.of, lines) if found]
    if said.kind == fact.IN_USE:
        printed = any(_same_fact(said, found, done.names) for found in seen)
        return _in_use(said, step, printed)
    if said.kind.startswith("fails: "):
        errno = said.kind.removeprefix("fails: ")
        found = any(
            other.kind.endswith(errno) or _in_use_errno(other.kind, errno) for other in seen
        )
        return found, _did(step)
    if said.kind == fact.NOT_LOADED and step.before.refcount(said.subject) is not None:
        return False, f"{said.subject} is loaded"
    return any(_same_fact(said, other, done.names) for other in seen), _did(step)


def _in_use_errno(kind: str, errno: str) -> bool:
    return kind == fact.IN_USE and errno in ("EBUSY", "EAGAIN", "EWOULDBLOCK")


def _same_fact(said: fact.Fact, seen: fact.Fact, names: Names) -> bool:
    subject = names.translate(said.subject)
    return fact.same_kind(said, seen) and (
        subject == seen.subject or not said.subject or not seen.subject
    )


def _in_use(said: fact.Fact, step: Step, printed: bool) -> tuple[bool, str]:
    """Judged by what happened and not by any wording: that it is in use by the refcount, by
    which modules by its holders."""
    module = said.subject
    found = step.after.modules.get(module)
    if found is None:
        return False, f"{module} is not loaded; {_did(step)}"
    count = found.refcount
    if not set(said.holders) <= set(found.holders):
        held = ", ".join(found.holders) or "no module"
        return False, f"{module} has refcount {count}, held by {held}"
    if step.status == 0 and not compare.is_compound(step.command):
        return False, f"the command succeeds; {_did(step)}"
    if not printed:
        return False, _did(step)
    return count > 0, f"{module} has refcount {count}, status {step.status}"


def _did(step: Step) -> str:
    printed = " | ".join(
        line.strip() for line in (step.out + step.err).splitlines() if line.strip()
    )
    return f"status {step.status}, " + (printed[:300] or "no output")


def _status(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    step = done.step(each.step)
    if step is None:
        return _unreached(each, done)
    return step.status == each.number, f"exit status {step.status}"


def _refcount(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    step = done.step(each.step)
    if step is None:
        return _unreached(each, done)
    module = each.subject or done.names.iommu_driver
    found = step.after.modules.get(module.replace("-", "_"))
    if each.number is None:
        return found is None, f"{module} is {'loaded' if found else 'not loaded'}"
    if found is None:
        return (None if lacking.module(module, done.kernel) else False), f"{module} is not loaded"
    row = modules.row(each.lines[0]) if each.lines else None
    reason = f"{module} has refcount {found.refcount}"
    if row is None:
        return found.refcount == each.number, reason
    # Which modules hold others depends on the configuration; what else holds it does not.
    listed = {other.subject for other in claims if other.step == each.step}
    more = set(found.holders) - set(row.holders)
    held = set(row.holders) <= set(found.holders) and not more & listed
    same = row.anonymous == found.refcount - len(found.holders)
    return held and same, f"{reason}, held by {', '.join(found.holders) or 'no module'}"


def _output(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    step = done.step(each.step)
    if step is None:
        return _unreached(each, done)
    wanted = [done.names.translate(line) for line in each.lines]
    out, err = _without_claimed(step, each, claims, done.names)
    if traces.prints_log(step.command):
        held = _log_lines(wanted, step)
    else:
        held = compare.same_output(wanted, out, err, step.command)
    foreign = "" if held else _foreign(each, done)
    return (None, foreign) if foreign else (held, f"it prints {_printed(step)}")


def _foreign(each: Claim, done: Replayed) -> str:
    """Why what is printed is about a device that the guest does not have, or ""."""
    text = "\n".join(each.lines)
    return done.names.about(text) or lacking.hardware(text)


def _printed(step: Step) -> str:
    lines = [line for line in (step.out + step.err).splitlines() if line.strip()]
    return "\n".join(lines[:40]) or "nothing"


def _without_claimed(
    step: Step, each: Claim, claims: Sequence[Claim], names: Names
) -> tuple[str, str]:
    """What a step printed but for lines that other claims of it are about."""
    others = [
        names.translate(other.lines[0])
        for other in claims
        if other.step == each.step and other.kind == "fact" and other.lines
    ]
    dead = claim.told_dead(claims, each.step if each.step is not None else -1)

    def kept(text: str) -> str:
        lines = [
            line
            for line in text.splitlines()
            if not any(compare.same_line(other, line) for other in others)
            and not (dead and _DEATH.match(line.strip()))
        ]
        return "\n".join(lines)

    return kept(step.out), kept(step.err)


def _log_lines(wanted: Sequence[str], step: Step) -> bool:
    """Whether what the command prints of the log has the messages, in order, none of them
    more often where it shows all that match; the log of a guest has others."""
    printed = [compare.normal(line) for line in step.out.splitlines()]
    told = [compare.normal(line) for line in wanted if not compare.is_elision(line)]
    seen = iter(printed)
    if not all(any(compare.same_message(line, text) for text in seen) for line in told):
        return False
    if len(told) < len(wanted) or not _shows_all(step.command):
        return True
    return all(_times(line, printed) <= _times(line, told) for line in told)


def _shows_all(command: str) -> bool:
    """Whether it prints all messages that match, and no end or beginning of them."""
    names = shell.programs(command)
    return names[-1:] == ["grep"] and not {"head", "tail"} & set(names)


def _times(line: str, texts: Sequence[str]) -> int:
    return sum(compare.same_message(line, text) for text in texts)


def _message(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    del claims
    assert each.step is not None
    if done.step(each.step) is None:
        return _unreached(each, done)
    wanted = done.names.translate(each.lines[0])
    # A worker may say it while the next command runs.
    logged = [record.text for step in done.steps[each.step : each.step + 2] for record in step.kmsg]
    printed = done.steps[each.step].out.splitlines()
    if any(compare.same_message(wanted, compare.normal(text)) for text in [*logged, *printed]):
        return True, "the kernel says so"
    foreign = _foreign(each, done)
    if foreign:
        return None, foreign
    own = [record.text for record in done.steps[each.step].kmsg]
    return False, "the kernel says " + ("\n".join(own[:20]) or "nothing")


def _silence(each: Claim, claims: Sequence[Claim], done: Replayed) -> tuple[bool | None, str]:
    """A command that the report shows to print nothing: it must not fail or die, and one
    that shows something must show nothing."""
    assert each.step is not None
    step = done.step(each.step)
    if step is None:
        return _unreached(each, done)
    if died(step) and not claim.told_dead(claims, each.step) and not _shown(claims, step):
        return False, f"it is killed, {_did(step)}"
    if step.status and step.err.strip():
        return False, _did(step)
    if step.out.strip() and context.shows_state(step.command) and not _noise(step):
        return False, f"it prints {_printed(step)}"
    return True, f"status {step.status}"


def _shown(claims: Sequence[Claim], step: Step) -> bool:
    """Whether the report shows a splat of the step, though not that the command dies of it."""
    seen = splat.find([record.text for record in step.kmsg])
    told = [each.splat for each in claims if each.splat]
    return any(same_splat(one, other) for one in told for other in seen)


def _noise(step: Step) -> bool:
    """Whether a command shows the whole log, of which a report leaves out what it likes."""
    return traces.prints_log(step.command) and "|" not in step.command


_JUDGES: dict[Kind, Callable[[Claim, Sequence[Claim], Replayed], tuple[bool | None, str]]] = {
    "panic": _panic,
    "splat": _splat,
    "killed": _killed,
    "hang": _hang,
    "fact": _fact,
    "status": _status,
    "refcount": _refcount,
    "output": _output,
    "message": _message,
    "silence": _silence,
}
