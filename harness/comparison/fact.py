# SPDX-License-Identifier: GPL-2.0-only
"""Facts: what one step of a session did, as lines that are the same in each run of a kernel whose
behaviour is the same. Time stamps, addresses and PIDs are left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.guest import state
from harness.guest.guest import Step
from harness.guest.state import State
from harness.guest.tracing import Event
from harness.klog import splat
from harness.klog.record import Record

# The result of a step after the guest has ended.
NOT_RUN = "does not run"

# The line before a WARN or BUG is not part of its splat.
_CUT_HERE = "------------[ cut here ]"

Aspect = Literal["status", "output", "state", "splat", "log", "trace", "iommu"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A line about one step.

    ``step`` counts from 1; 0 is the guest before the first step. ``aspect`` is what the line is
    about: the exit status, the output, a change in sysfs, a splat, a kernel-log record, a trace
    event of the kernel, or a command that QEMU's IOMMU received. ``number`` counts equal lines of
    a step, from 1. ``position`` is where the line was in its run, and is not compared."""

    step: int
    aspect: Aspect
    text: str
    number: int = 1
    position: int = field(default=0, compare=False)


# Numbers that differ from boot to boot: pointers and other addresses, as the kernel and QEMU
# print them.
_ADDRESS = re.compile(r"\b(?:0x)?[0-9a-f]{8,16}\b|\b0x[0-9a-f]{5,}\b")
_STAMP = re.compile(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
_PID = re.compile(r"\b(pid|PID|tid)([ :=]+)\d+")
_DURATION = re.compile(r"\b\d+(?:\.\d+)?( ?)(usecs?|msecs?|secs?|seconds?|us|ms|ns|s|jiffies)\b")
# What coreutils' and busybox's time print.
_TIMES = re.compile(r"(?:real|user|sys)\s+\S+( \S+)?")


def normal(line: str) -> str:
    """Return a line without what differs between two boots of the same kernel."""
    line = _STAMP.sub("", line)
    if _TIMES.fullmatch(line.strip()):
        return ""
    line = _ADDRESS.sub("ADDRESS", line.rstrip())
    line = _PID.sub(r"\1\2N", line)
    return _DURATION.sub(r"N\1\2", line)


def of_boot(found: State) -> list[Fact]:
    """The facts about the guest before the first step."""
    return _numbered(0, _of_state(State(), found))


def of_step(
    number: int, step: Step, trace: Sequence[Event] = (), commands: Sequence[str] = ()
) -> list[Fact]:
    """The facts about a step: ``trace`` are the kernel's trace events during the step, and
    ``commands`` the lines of QEMU's trace."""
    return _numbered(
        number,
        (
            ("status", "killed by a signal" if step.killed else f"exit status {step.status}"),
            *(("output", text) for text in _lines(step.out)),
            *(("output", text) for text in _lines(step.err)),
            *_of_state(step.before, step.after),
            *_of_log(step.kmsg),
            *(("trace", f"{each.name}: {normal(each.text)}") for each in trace),
            *(("iommu", normal(each)) for each in commands),
        ),
    )


def of_end(number: int, reason: str, log: Sequence[str], steps: int) -> list[Fact]:
    """The facts about a step that ended the guest for this reason, and about the steps after it,
    of which there are ``steps`` in total. ``log`` are the kernel's messages since the step began.
    """
    facts = _numbered(number, [("status", normal(reason)), *_splats(log)])
    return [*facts, *(Fact(each, "status", NOT_RUN) for each in range(number + 1, steps + 1))]


def _lines(text: str) -> list[str]:
    return [line for line in map(normal, text.splitlines()) if line]


def _of_state(before: State, after: State) -> Iterator[tuple[Aspect, str]]:
    for subject, parts in state.differences(before, after):
        yield from (("state", f"{subject}: {part}") for part in parts)
    for name in after.devices.keys() - before.devices.keys():
        device = after.devices[name]
        yield "state", f"device {name}: driver {device.driver or 'none'}"
        yield "state", f"device {name}: group {'none' if device.group is None else device.group}"


def _of_log(records: Sequence[Record]) -> Iterator[tuple[Aspect, str]]:
    """The splats, and the records outside of them."""
    texts = [each.text for each in records]
    found = splat.find(texts)
    inside = {index for each in found for index in range(each.first, each.last + 1)}
    yield from _splats(texts)
    for index, text in enumerate(texts):
        if index not in inside and not text.startswith(_CUT_HERE):
            yield "log", normal(text)


def _splats(lines: Sequence[str]) -> Iterator[tuple[Aspect, str]]:
    for each in splat.find(lines):
        yield "splat", each.title + (f", called by {each.caller}" if each.caller else "")


def _numbered(step: int, lines: Iterable[tuple[Aspect, str]]) -> list[Fact]:
    seen: Counter[tuple[Aspect, str]] = Counter()
    facts = []
    for position, (aspect, text) in enumerate(lines):
        seen[aspect, text] += 1
        facts.append(Fact(step, aspect, text, seen[aspect, text], position))
    return facts
