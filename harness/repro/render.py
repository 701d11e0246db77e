# SPDX-License-Identifier: GPL-2.0-only
"""A replay in words: the lines that the command prints, each with its style."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.guest.guest import Step
from harness.guest.state import changes
from harness.kernel.artifact import Kernel
from harness.repro.replay import Attempt, Result
from harness.repro.replayed import Judgement
from harness.repro.request import Request
from harness.repro.verdict import Word
from harness.symbols import symbolise

Line = tuple[str, str]

_SHOWN = 10  # lines at each end of a long output

_VERDICT_STYLES = {
    "reproduced": "bold green",
    "not-reproduced": "bold red",
    "inconclusive": "bold yellow",
}
_HELD = {True: ("green", "holds"), False: ("red", "does not hold"), None: ("yellow", "not judged")}


def opening(asked: Request) -> Iterator[Line]:
    """Before the first step."""
    count = len(asked.session.commands)
    yield "", f"report:  {asked.name}, {count} command{'s' * (count != 1)}"
    yield "", f"machine: {asked.machine.name}"
    for each in asked.notes:
        yield from note(each)


def note(text: str) -> Iterator[Line]:
    """What was chosen for the user."""
    yield "", f"note:    {text}"


def run(directory: Path, kernel: Kernel) -> Iterator[Line]:
    """Before the guest boots: where everything that is observed goes."""
    yield "", f"kernel:  {kernel.label}"
    for each in kernel.notes:
        yield "yellow", f"note:    {each}"
    yield "", f"run:     {directory}"


def command(number: int, text: str) -> Iterator[Line]:
    """Before a step runs."""
    yield "", ""
    yield "bold", f"{number:2}  $ " + text.replace("\n", "\n    > ")


def step(done: Step, judged: Sequence[Judgement], iommu_driver: str) -> Iterator[Line]:
    """What a step printed, what the kernel logged, what changed, and the claims about it."""
    yield from _indented("", done.out)
    yield from _indented("", done.err)
    for line in _shortened([str(entry) for entry in done.kmsg]):
        yield "dim", f"      {line}"
    for line in _differences(done):
        yield "cyan", f"    * {line}"
    for name in sorted(set(done.after.untranslated) - set(done.before.untranslated)):
        yield (
            "yellow",
            f"    ! {name} is bound, firmware names an IOMMU for it, and it has no group",
        )
    differs = [each for each in judged if each.held is False]
    ended = f"shell killed, status {done.status}" if done.killed else f"status {done.status}"
    mark, style = ("differs", "red") if differs else ("as reported", "green")
    yield style, f"    {mark}: {ended}{_refcounts(done, iommu_driver)}"
    for each in differs:
        yield from _side_by_side(each)


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
    counts = {
        name: (done.before.refcount_if_loaded(name), done.after.refcount_if_loaded(name))
        for name in names
    }
    parts = [
        f"{name} {_count(before)} -> {_count(after)}"
        for name, (before, after) in counts.items()
        if before != after or name == iommu_driver
    ]
    groups = f"groups {len(done.before.groups)} -> {len(done.after.groups)}"
    return f"; refcounts: {', '.join(parts)}; {groups}" if parts else f"; {groups}"


def _count(refcount: int | None) -> str:
    return "none" if refcount is None else str(refcount)


def _side_by_side(each: Judgement) -> Iterator[Line]:
    expected = "\n".join(each.claim.lines) if each.claim.kind == "output" else each.claim.text
    for name, text in (("reported", expected), ("observed", each.reason)):
        first, *more = _shortened(text.splitlines()) or [""]
        yield "red", f"      {name}: {first}"
        for line in more:
            yield "red", f"                {line}"


def closing(result: Result) -> Iterator[Line]:
    """The claims, the guest's splats, what was missed, and the verdict."""
    yield "", ""
    yield "bold", "claims:"
    for each in result.judged:
        yield from _claim(each)
    yield "", ""
    yield from _splats(result)
    for first, last in result.lost_records:
        yield "yellow", f"kernel messages {first} to {last} were overwritten before they were read"
    word = result.verdict.word
    yield _VERDICT_STYLES[word], f"{_spoken(word)}: {result.verdict.reason}"


def _claim(each: Judgement) -> Iterator[Line]:
    style, word = _HELD[each.held]
    if each.claim.kind == "context":
        style, word = "dim", "context"
    elif not each.claim.judges and each.held is not True:
        style, word = "dim", f"{word}, which does not decide"
    if each.claim.kind == "silence" and each.held:
        return
    reason = "" if each.held else f" ({' '.join(each.reason.split())[:160]})"
    yield style, f"  {word}: {each.claim.text} [{each.claim.where}]{reason}"


def table(rows: Sequence[Attempt], iommu_driver: str) -> Iterator[Line]:
    """One line a kernel or report: the verdict, and the refcount of the IOMMU's driver after
    each step, "-" where it is not loaded."""
    width = max(len(_row(row)) for row in rows)
    title = "report" if rows[0].name else "kernel"
    yield "", ""
    yield "bold", f"{title:<{width}}  {'verdict':<14}  {iommu_driver} after each step"
    for row in rows:
        if row.result is None:
            yield "red", f"{_row(row):<{width}}  {row.error}"
            continue
        counts = [each.after.refcount_if_loaded(iommu_driver) for each in row.result.steps]
        cells = " ".join("-" if count is None else str(count) for count in counts)
        word = row.result.verdict.word
        yield _VERDICT_STYLES[word], f"{_row(row):<{width}}  {_spoken(word):<14}  {cells}"


def _spoken(word: Word) -> str:
    """As people write it, and not programs."""
    return word.replace("-", " ")


def _row(row: Attempt) -> str:
    """The kernel as it was asked for, and what that is; before it the report's name, where
    there are several."""
    spec = str(row.spec)
    label = row.result.kernel.label if row.result else spec
    kernel = label if label.startswith(spec) else f"{spec} = {label}"
    return f"{row.name} {kernel}".strip()


def _splats(result: Result) -> Iterator[Line]:
    """The guest's splats; of those that are alike the first. Of one that the report has too
    what is new are the places of its frames."""
    for first, *more in symbolise.alike(result.splats):
        times = f", {len(more) + 1} times" if more else ""
        if first in result.unmentioned:
            yield "bold yellow", f"the report does not mention this {first.kind}{times}:"
            lines = [("yellow", line) for line in symbolise.text(first)]
        else:
            yield "bold", f"the kernel reports, as the report does{times}: {first.title}"
            lines = [("", line) for line in symbolise.lines(first)]
        for style, line in lines:
            yield style, f"    {line}"
        yield "", ""
