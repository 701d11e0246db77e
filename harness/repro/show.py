# SPDX-License-Identifier: GPL-2.0-only
"""A replay in words: the lines that the command prints, each with its style."""

from collections.abc import Iterator

from harness.guest.guest import Step
from harness.guest.state import changes
from harness.klog.splat import Splat
from harness.repro.replay import Request, Result
from harness.scenario.verdict import Outcome

Line = tuple[str, str]

_VERDICT_STYLES = {"reproduced": "bold green", "not-reproduced": "bold red", "unjudged": "bold"}


def opening(asked: Request) -> Iterator[Line]:
    """Before the first step."""
    count = len(asked.session.commands)
    yield "", f"report:  {asked.name}, {count} command{'s' * (count != 1)}"
    yield "", f"machine: {asked.machine.name}"
    for note in asked.notes:
        yield "", f"note:    {note}"


def step(number: int, outcome: Outcome) -> Iterator[Line]:
    """One step, with what it printed, what the kernel logged and what changed."""
    done = outcome.step
    mark = "differs" if outcome.difference else "as told"
    yield "", ""
    yield "bold", f"{number:2}  $ " + done.command.replace("\n", "\n    > ")
    yield from _indented("", done.out)
    yield from _indented("", done.err)
    for entry in done.kmsg:
        yield "dim", f"      {entry}"
    for line in _differences(done):
        yield "cyan", f"    * {line}"
    ended = f"shell killed, status {done.status}" if done.killed else f"status {done.status}"
    style = "red" if outcome.difference else "green"
    yield style, f"    {mark}: {ended}{_refcounts(done)}"
    if outcome.difference:
        yield from _side_by_side(outcome.difference.expected, outcome.difference.observed)


def _indented(style: str, text: str) -> Iterator[Line]:
    for line in text.splitlines():
        yield style, f"    {line}"


def _differences(done: Step) -> list[str]:
    """What changed, without the refcounts that stand in the step's last line."""
    return [line for line in changes(done.before, done.after) if not line.startswith("module ")]


def _refcounts(done: Step) -> str:
    """Refcounts of all modules before and after, and the number of groups."""
    names = sorted(done.before.modules.keys() | done.after.modules.keys())
    parts = [
        f"{name} {_count(done.before.refcount(name))} -> {_count(done.after.refcount(name))}"
        for name in names
    ]
    parts.append(f"groups {len(done.before.groups)} -> {len(done.after.groups)}")
    return "; refcounts: " + ", ".join(parts) if names else "; " + parts[0]


def _count(refcount: int | None) -> str:
    return "none" if refcount is None else str(refcount)


def _side_by_side(expected: str, observed: str) -> Iterator[Line]:
    for name, text in (("expected", expected), ("observed", observed)):
        first, *more = text.splitlines() or [""]
        yield "red", f"      {name}: {first}"
        for line in more:
            yield "red", f"                {line}"


def closing(result: Result) -> Iterator[Line]:
    """The splats that the report does not show, and the verdict."""
    yield "", ""
    for each in result.unmentioned:
        yield from _splat(each)
    word = result.verdict.word
    yield _VERDICT_STYLES[word], f"{word.replace('-', ' ')}: {result.verdict.reason}"
    yield "", f"kernel:  {result.kernel.label}"
    yield "", f"run:     {result.directory}"


def _splat(each: Splat) -> Iterator[Line]:
    yield "bold yellow", f"the report does not mention this {each.kind}:"
    for line in each.text:
        yield "yellow", f"    {line}"
    yield "", ""
