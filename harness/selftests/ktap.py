# SPDX-License-Identifier: GPL-2.0-only
"""Parse the results that kselftest programs and KUnit print (Documentation/dev-tools/ktap.rst)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

_RESULT = re.compile(
    r"(?P<indent> *)(?P<negated>not )?ok (?P<number>\d+)(?: -)?(?: (?P<name>[^#]*?))?"
    r"\s*(?:#\s*(?P<directive>SKIP|TODO|XFAIL|TIMEOUT|ERROR)?\b[\s:]*(?P<reason>.*))?"
)
_PLAN = re.compile(r"(?P<indent> *)1\.\.(?P<count>\d+)\b")
_DIAGNOSTIC = re.compile(r"\s*#\s*(?P<text>\S.*)")
# What the harness of kselftest and KUnit print for every test.
_ROUTINE = re.compile(
    r"(?:RUN|OK|FAIL|SKIP)\b|(?:Subtest|FAILED|PASSED|Totals|module):|Starting\b"
    r"|.*\bpass:\d+ fail:"
)
_REASON_LINES = 6


class Result(StrEnum):
    """How a subtest ended. The values are used in JSON."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Subtest:
    """A subtest without subtests of its own. ``name`` has the names of the tests that contain it,
    separated by dots. ``reason`` is why it failed or was skipped. ``line`` is the index of the
    line with its result."""

    name: str
    result: Result
    reason: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The subtests of a test, and how many results at the outermost level are ``missing``, because
    the test ended before it printed them."""

    subtests: tuple[Subtest, ...]
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    subtest: Subtest
    depth: int


def parse(lines: Iterable[str]) -> Report:
    """Parse the lines of a test. Lines that are not KTAP are ignored, so it may be the kernel log.
    No content raises an exception."""
    entries: list[_Entry] = []
    diagnostics: list[str] = []
    in_assertion = False
    plans: dict[int, int] = {}
    results: dict[int, int] = {}
    for number, line in enumerate(lines):
        if match := _RESULT.fullmatch(line.rstrip()):
            depth = len(match["indent"])
            _add(entries, _subtest(match, diagnostics, number), depth)
            results[depth] = results.get(depth, 0) + 1
            diagnostics = []
        elif match := _PLAN.match(line):
            depth = len(match["indent"])
            plans[depth] = plans.get(depth, 0) + int(match["count"][:9])
        elif match := _DIAGNOSTIC.fullmatch(line):
            if not _ROUTINE.match(match["text"]):
                diagnostics.append(match["text"])
            # KUnit prints the values on the next lines, without a mark (kunit_do_failed_assertion).
            in_assertion = " FAILED at " in line
        elif in_assertion:
            diagnostics.append(line.strip())
    outermost = min(plans, default=0)
    missing = max(0, plans.get(outermost, 0) - results.get(outermost, 0))
    return Report(tuple(each.subtest for each in entries), missing)


def _subtest(match: re.Match[str], diagnostics: Sequence[str], line: int) -> Subtest:
    result = Result.FAILED if match["negated"] else Result.PASSED
    if match["directive"] in ("SKIP", "TODO"):
        result = Result.SKIPPED
    reason = match["reason"] or ""
    if result == Result.FAILED:
        reason = "\n".join([*([reason] if reason else []), *diagnostics[:_REASON_LINES]])
    return Subtest(match["name"] or f"test {match['number']}", result, reason, line)


def _add(entries: list[_Entry], found: Subtest, depth: int) -> None:
    """Add a result. The results before it that are further indented are its own subtests, which
    replace it unless it fails for another reason than theirs."""
    at = len(entries)
    while at and entries[at - 1].depth > depth:
        at -= 1
    inner = [
        _Entry(replace(each.subtest, name=f"{found.name}.{each.subtest.name}"), depth)
        for each in entries[at:]
    ]
    entries[at:] = inner
    is_explained = any(each.subtest.result == Result.FAILED for each in inner)
    if not inner or (found.result == Result.FAILED and not is_explained):
        entries.append(_Entry(found, depth))
