# SPDX-License-Identifier: GPL-2.0-only
"""Render a replay as lines of text, each with a style."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.guest.guest import Step
from harness.guest.state import changes
from harness.kernel.artifact import Kernel
from harness.repro.replay import Attempt, Result
from harness.repro.request import Request
from harness.repro.serialize import refcounts
from harness.repro.session_run import Judgement
from harness.repro.verdict import Word
from harness.symbols import symbolise

Line = tuple[str, str]

# How many lines are shown at each end of a long output.
_MAX_SHOWN = 10

# How many characters of a claim's reason are shown.
_MAX_CHARACTERS = 160

_VERDICT_STYLES = {
    "reproduced": "bold green",
    "not-reproduced": "bold red",
    "inconclusive": "bold yellow",
}
_HELD = {
    True: ("green", "holds"),
    False: ("red", "does not hold"),
    None: ("yellow", "inconclusive"),
}


def opening(request: Request) -> Iterator[Line]:
    """Render the report and the machine, before the kernel is built."""
    count = len(request.session.commands)
    yield "", f"report:  {request.name}, {count} command{'s' * (count != 1)}"
    yield "", f"machine: {request.machine.name}"
    for each in request.notes:
        yield from note(each)


def note(text: str) -> Iterator[Line]:
    """Render a choice that is made for the user."""
    yield "", f"note:    {text}"


def run(directory: Path, kernel: Kernel) -> Iterator[Line]:
    """Render the kernel and the run directory, before the guest starts."""
    yield "", f"kernel:  {kernel.label}"
    for each in kernel.notes:
        yield "yellow", f"note:    {each}"
    yield "", f"run:     {directory}"


def command(number: int, text: str) -> Iterator[Line]:
    """Render a command, before it runs."""
    yield "", ""
    yield "bold", f"{number:2}  $ " + text.replace("\n", "\n    > ")


def step(done: Step, judged: Sequence[Judgement], iommu_driver: str) -> Iterator[Line]:
    """Render a step: its output, the messages of the kernel, the changes, and whether the step
    matches the report."""
    yield from _indented(done.out)
    yield from _indented(done.err)
    for line in _shortened([str(entry) for entry in done.kmsg]):
        yield "dim", f"      {line}"
    for line in changes(done.before, done.after):
        # Refcounts are in the step's last line.
        if not line.startswith("module "):
            yield "cyan", f"    * {line}"
    for name in sorted(set(done.after.untranslated) - set(done.before.untranslated)):
        yield (
            "yellow",
            f"    ! {name} is bound and has no group, but firmware names an IOMMU for it",
        )
    differing = [each for each in judged if each.held is False]
    ended = f"shell killed, status {done.status}" if done.killed else f"status {done.status}"
    outcome, style = (
        ("differs from the report", "red") if differing else ("matches the report", "green")
    )
    yield style, f"    {outcome}: {ended}{_counts(done, iommu_driver)}"
    for each in differing:
        yield from _side_by_side(each)


def _indented(text: str) -> Iterator[Line]:
    for line in _shortened(text.splitlines()):
        yield "", f"    {line}"


def _shortened(lines: list[str]) -> list[str]:
    """Return the first and last lines. The run directory has all lines."""
    if len(lines) <= 2 * _MAX_SHOWN:
        return lines
    elision = f"... {len(lines) - 2 * _MAX_SHOWN} more lines in the run directory ..."
    return [*lines[:_MAX_SHOWN], elision, *lines[-_MAX_SHOWN:]]


def _counts(done: Step, iommu_driver: str) -> str:
    """Describe the refcounts of the IOMMU driver and of modules with a changed refcount, and the
    number of groups, each before and after the step."""
    parts = [
        f"{name} {_refcount(before)} -> {_refcount(after)}"
        for name, (before, after) in refcounts(done).items()
        if before != after or name == iommu_driver
    ]
    groups = f"groups {len(done.before.groups)} -> {len(done.after.groups)}"
    return f"; refcounts: {', '.join(parts)}; {groups}" if parts else f"; {groups}"


def _refcount(count: int | None) -> str:
    return "none" if count is None else str(count)


def _side_by_side(each: Judgement) -> Iterator[Line]:
    expected = "\n".join(each.claim.lines) if each.claim.kind == "output" else each.claim.text
    for title, text in (("reported", expected), ("observed", each.reason)):
        first, *more = _shortened(text.splitlines()) or [""]
        yield "red", f"      {title}: {first}"
        for line in more:
            yield "red", f"                {line}"


def closing(result: Result) -> Iterator[Line]:
    """Render the claims, the guest's splats, lost kernel messages, and the verdict."""
    yield "", ""
    yield "bold", "claims:"
    for each in result.judged:
        yield from _claim(each)
    yield "", ""
    yield from _splats(result)
    for first, last in result.lost_records:
        yield "yellow", f"kernel messages {first} to {last} were overwritten before they were read"
    word = result.verdict.word
    yield _VERDICT_STYLES[word], f"{_words(word)}: {result.verdict.reason}"


def _claim(each: Judgement) -> Iterator[Line]:
    if each.claim.kind == "silence" and each.held:
        return
    style, word = _HELD[each.held]
    if each.claim.kind == "context":
        style, word = "dim", "context"
    elif not each.claim.decides and not each.held:
        style, word = "dim", f"{word}, not decisive"
    reason = "" if each.held else f" ({' '.join(each.reason.split())[:_MAX_CHARACTERS]})"
    yield style, f"  {word}: {each.claim.text} [{each.claim.where}]{reason}"


def table(attempts: Sequence[Attempt], iommu_driver: str) -> Iterator[Line]:
    """Render a line for each kernel or report: the verdict, and the refcount of the IOMMU driver
    after each step, "-" if the driver is not loaded."""
    width = max(len(_title(each)) for each in attempts)
    title = "report" if attempts[0].name else "kernel"
    yield "", ""
    yield "bold", f"{title:<{width}}  {'verdict':<14}  {iommu_driver} after each step"
    for each in attempts:
        if each.result is None:
            yield "red", f"{_title(each):<{width}}  {each.error}"
            continue
        counts = [one.after.refcount_if_loaded(iommu_driver) for one in each.result.steps]
        cells = " ".join("-" if count is None else str(count) for count in counts)
        word = each.result.verdict.word
        yield _VERDICT_STYLES[word], f"{_title(each):<{width}}  {_words(word):<14}  {cells}"


def _words(word: Word) -> str:
    return word.replace("-", " ")


def _title(attempt: Attempt) -> str:
    """The kernel as requested and its label, after the report's name if there are several
    reports."""
    spec = str(attempt.spec)
    label = attempt.result.kernel.label if attempt.result else spec
    kernel = label if label.startswith(spec) else f"{spec} = {label}"
    return f"{attempt.name} {kernel}".strip()


def _splats(result: Result) -> Iterator[Line]:
    """Render the guest's splats, but only the first of several equal splats. If the report also has
    the splat, only its title and the source lines of its frames are shown."""
    for first, *more in symbolise.grouped(result.splats):
        times = f", {len(more) + 1} times" if more else ""
        if first in result.unmentioned:
            yield "bold yellow", f"{first.kind} that the report does not mention{times}:"
            lines = [("yellow", line) for line in symbolise.text(first)]
        else:
            yield "bold", f"{first.kind} that the report mentions{times}: {first.title}"
            lines = [("", line) for line in symbolise.lines(first)]
        for style, line in lines:
            yield style, f"    {line}"
        yield "", ""
