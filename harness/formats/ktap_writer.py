# SPDX-License-Identifier: GPL-2.0-only
"""Write KTAP, as Documentation/dev-tools/ktap.rst defines it."""

import re
from collections.abc import Iterator, Sequence

from harness.formats.case import Case, Group

_VERSION = "KTAP version 1"
_FAILURES = frozenset({"failed", "inconclusive"})
_DIRECTIVES = {"skipped": "SKIP", "known": "XFAIL", "inconclusive": "ERROR"}
_INDENT = "    "


def text(groups: Sequence[Group]) -> str:
    """The document: a test for each group, with its cases as subtests."""
    return "\n".join(_lines(groups)) + "\n"


def _lines(groups: Sequence[Group]) -> Iterator[str]:
    yield from (_VERSION, f"1..{len(groups)}")
    for number, group in enumerate(groups, start=1):
        yield from (_INDENT + line for line in _group(group))
        failed = any(each.result in _FAILURES for each in group.cases)
        yield _result(number, group.name, failed=failed)


def _group(group: Group) -> Iterator[str]:
    yield _VERSION
    yield f"# Subtest: {_name(group.name)}"
    yield from (f"# {key}: {_line(value)}" for key, value in group.properties)
    yield f"1..{len(group.cases)}"
    for number, case in enumerate(group.cases, start=1):
        yield from _case(number, case)


def _case(number: int, case: Case) -> Iterator[str]:
    # The diagnostics of a test are before its result.
    details = case.details or case.reason
    if case.result in _FAILURES:
        yield from (f"# {line}".rstrip() for line in details.splitlines())
    word = _DIRECTIVES.get(case.result)
    end = f"{word} {_line(case.reason)}" if word else f"time={case.seconds:.3f}s"
    yield f"{_result(number, case.name, failed=case.result in _FAILURES)} # {end}".rstrip()


def _result(number: int, name: str, *, failed: bool) -> str:
    return f"{'not ok' if failed else 'ok'} {number} {_name(name)}"


def _name(name: str) -> str:
    """A "#" in a name would begin a directive."""
    return _line(name).replace("#", "_")


def _line(value: str) -> str:
    return re.sub(r"\s+", " ", value).strip()
