# SPDX-License-Identifier: GPL-2.0-only
"""A replay in words: the lines that the command prints, each with its style."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.guest.guest import Step
from harness.guest.state import changes
from harness.kernel.artifact import Kernel
from harness.klog.splat import Splat
from harness.repro.replay import Attempt, Request, Result
from harness.scenario.verdict import Outcome, Word

Line = tuple[str, str]

_SHOWN = 10  # lines at each end of a long output

_VERDICT_STYLES = {"reproduced": "bold green", "not-reproduced": "bold red", "unjudged": "bold"}


def opening(asked: Request) -> Iterator[Line]:
    """Before the first step."""
    count = len(asked.session.commands)
    yield "", f"report:  {asked.name}, {count} command{'s' * (count != 1)}"
    yield "", f"machine: {asked.machine.name}"
    for note in asked.notes:
        yield "", f"note:    {note}"


def run(directory: Path, kernel: Kernel) -> Iterator[Line]:
    """Before the guest boots: where everything that is observed goes."""
    yield "", f"kernel:  {kernel.label}"
    for note in kernel.notes:
        yield "yellow", f"note:    {note}"
    yield "", f"run:     {directory}"


def command(number: int, text: str) -> Iterator[Line]:
    """Before a step runs."""
    yield "", ""
    yield "bold", f"{number:2}  $ " + text.replace("\n", "\n    > ")


def step(outcome: Outcome, iommu_driver: str) -> Iterator[Line]:
    """What a step printed, what the kernel logged and what changed."""
    done = outcome.step
    mark = "differs" if outcome.difference else "as told"
    yield from _indented("", done.out)
    yield from _indented("", done.err)
    for entry in done.kmsg:
        yield "dim", f"      {entry}"
    for line in _differences(done):
        yield "cyan", f"    * {line}"
    for name in sorted(set(done.after.untranslated) - set(done.before.untranslated)):
        yield (
            "yellow",
            f"    ! {name} is bound, firmware names an IOMMU for it, and it has no group",
        )
    ended = f"shell killed, status {done.status}" if done.killed else f"status {done.status}"
    style = "red" if outcome.difference else "green"
    yield style, f"    {mark}: {ended}{_refcounts(done, iommu_driver)}"
    if outcome.difference:
        yield from _side_by_side(outcome.difference.expected, outcome.difference.observed)


def _indented(style: str, text: str) -> Iterator[Line]:
    for line in _shortened(text.splitlines()):
        yield style, f"    {line}"


def _shortened(lines: list[str]) -> list[str]:
    """The run directory has them all."""
    if len(lines) <= 2 * _SHOWN:
        return lines
    left_out = f"... {len(lines) - 2 * _SHOWN} lines, all of them in the run directory ..."
    return [*lines[:_SHOWN], left_out, *lines[-_SHOWN:]]


def _differences(done: Step) -> list[str]:
    """What changed, without the refcounts that stand in the step's last line."""
    return [line for line in changes(done.before, done.after) if not line.startswith("module ")]


def _refcounts(done: Step, iommu_driver: str) -> str:
    """The refcounts before and after of the IOMMU's driver and of modules whose count
    the step changed, and the number of groups."""
    names = sorted(done.before.modules.keys() | done.after.modules.keys())
    counts = {name: (done.before.refcount(name), done.after.refcount(name)) for name in names}
    parts = [
        f"{name} {_count(before)} -> {_count(after)}"
        for name, (before, after) in counts.items()
        if before != after or name == iommu_driver
    ]
    groups = f"groups {len(done.before.groups)} -> {len(done.after.groups)}"
    return f"; refcounts: {', '.join(parts)}; {groups}" if parts else f"; {groups}"


def _count(refcount: int | None) -> str:
    return "none" if refcount is None else str(refcount)


def _side_by_side(expected: str, observed: str) -> Iterator[Line]:
    for name, text in (("expected", expected), ("observed", observed)):
        first, *more = _shortened(text.splitlines()) or [""]
        yield "red", f"      {name}: {first}"
        for line in more:
            yield "red", f"                {line}"


def closing(result: Result) -> Iterator[Line]:
    """The splats that the report does not show, what was missed, and the verdict."""
    yield "", ""
    for each in result.unmentioned:
        yield from _splat(each)
    for first, last in result.lost_records:
        yield "yellow", f"kernel messages {first} to {last} were overwritten before they were read"
    word = result.verdict.word
    yield _VERDICT_STYLES[word], f"{_spoken(word)}: {result.verdict.reason}"


def table(rows: Sequence[Attempt], iommu_driver: str) -> Iterator[Line]:
    """One line a kernel: the verdict, and the refcount of the IOMMU's driver after
    each step, "-" where it is not loaded."""
    width = max(len(_kernel(row)) for row in rows)
    yield "", ""
    yield "bold", f"{'kernel':<{width}}  {'verdict':<14}  {iommu_driver} after each step"
    for row in rows:
        if row.result is None:
            yield "red", f"{_kernel(row):<{width}}  {row.error}"
            continue
        counts = [each.step.after.refcount(iommu_driver) for each in row.result.outcomes]
        cells = " ".join("-" if count is None else str(count) for count in counts)
        word = row.result.verdict.word
        yield _VERDICT_STYLES[word], f"{_kernel(row):<{width}}  {_spoken(word):<14}  {cells}"


def _spoken(word: Word) -> str:
    """As people write it, and not programs."""
    return word.replace("-", " ")


def _kernel(row: Attempt) -> str:
    """As it was asked for, and what that is."""
    asked = str(row.spec)
    if row.result is None:
        return asked
    label = row.result.kernel.label
    return label if label.startswith(asked) else f"{asked} = {label}"


def _splat(each: Splat) -> Iterator[Line]:
    yield "bold yellow", f"the report does not mention this {each.kind}:"
    for line in each.text:
        yield "yellow", f"    {line}"
    yield "", ""
