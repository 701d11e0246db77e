# SPDX-License-Identifier: GPL-2.0-only
"""The option ``--output FORMAT=FILE``: results in the formats of other tools."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import typer

from harness.errors import UsageError, did_you_mean
from harness.formats import junit_writer, ktap_writer
from harness.formats.case import Case, Group, Result
from harness.suite.scenario_result import ScenarioResult

_FORMATS: dict[str, Callable[[Sequence[Group]], str]] = {
    "junit": junit_writer.text,
    "ktap": ktap_writer.text,
}

Outputs = Annotated[
    list[str],
    typer.Option(
        "--output",
        metavar="FORMAT=FILE",
        help="Also write the results to FILE in this format: junit or ktap; may be repeated. The"
        " file - is standard output, where the results are then the only text.",
    ),
]


_RESULTS: dict[ScenarioResult, Result] = {
    ScenarioResult.PASSED: "passed",
    ScenarioResult.FAILED: "failed",
    ScenarioResult.KNOWN_ISSUE: "known",
    ScenarioResult.NOT_APPLICABLE: "skipped",
    ScenarioResult.SKIPPED: "skipped",
    ScenarioResult.INCONCLUSIVE: "inconclusive",
}


class Outcome(Protocol):
    """What the outcomes of scenarios and of selftests have in common."""

    @property
    def kernel(self) -> str: ...
    @property
    def machine(self) -> str: ...
    @property
    def result(self) -> ScenarioResult: ...
    @property
    def reason(self) -> str: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Output:
    """A format, and the file to write; None for standard output."""

    name: str
    file: Path | None


def parse(texts: Sequence[str], *, as_json: bool) -> list[Output]:
    """Parse the arguments of --output. Raises UsageError for an unknown format, a file that cannot
    be written, and two texts for standard output."""
    found = [_parse(each) for each in texts]
    if sum(each.file is None for each in found) + as_json > 1:
        raise UsageError("only one format can be printed", "write the others to files")
    return found


def _parse(text: str) -> Output:
    name, equals, file = text.partition("=")
    if name not in _FORMATS:
        hint = did_you_mean(name, _FORMATS, f"use {' or '.join(_FORMATS)}")
        raise UsageError(f"unknown format {name!r}", hint)
    if not equals or not file:
        raise UsageError(f"--output {name} has no file", f"for example {name}=results.{name}")
    if file == "-":
        return Output(name, None)
    try:
        # Before hours of work, not after them.
        with Path(file).open("a"):
            pass
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}", "choose a different file"
        ) from None
    return Output(name, Path(file))


def is_printed(outputs: Sequence[Output]) -> bool:
    """Whether one of the outputs is standard output."""
    return any(each.file is None for each in outputs)


def write(outputs: Sequence[Output], groups: Sequence[Group]) -> None:
    """Write each output."""
    for each in outputs:
        text = _FORMATS[each.name](groups)
        if each.file:
            each.file.write_text(text)
        else:
            sys.stdout.write(text)


def groups(outcomes: Iterable[tuple[str, Outcome, str]], tools: Mapping[str, str]) -> list[Group]:
    """Group outcomes by kernel and machine. Each is given with its name and details. ``tools`` are
    the versions of QEMU and of the harness."""
    found: dict[tuple[str, str], list[Case]] = {}
    for name, each, details in outcomes:
        reason = each.reason.partition("\n")[0]
        case = Case(name, _RESULTS[each.result], reason, details or each.reason, each.seconds)
        found.setdefault((each.kernel, each.machine), []).append(case)
    return [
        Group(
            f"{kernel} on {machine}",
            cases,
            (("kernel", kernel), ("machine", machine), *tools.items()),
        )
        for (kernel, machine), cases in found.items()
    ]
