# SPDX-License-Identifier: GPL-2.0-only
"""Known issues: kernel bugs that scenarios run into, from known-issues.toml and the user's files.

A scenario that names an issue must run into it on each kernel that has the issue, unless the
issue is a race. An issue explains only findings that match its symptoms or follow from them.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.host import toml
from harness.iommu import behaviour, evidence, version
from harness.iommu.evidence import Evidence, ExaminedKernel, Sign
from harness.iommu.finding import Finding, Pattern
from harness.iommu.version import Versions


@dataclass(frozen=True, slots=True)
class Symptom:
    """A pattern for findings that an issue causes.

    As examples, ``like`` is a finding that matches it, and ``unlike`` is a similar finding that
    does not."""

    pattern: Pattern
    like: str = ""
    unlike: str = ""


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """A bug in some kernels.

    Only a kernel with the behaviours in ``needs`` can have the bug. ``signs`` decide by the
    source whether it does, and otherwise the versions ``introduced`` and ``fixed`` decide.
    ``machines`` are patterns for the names of machines on which the bug can appear.

    ``symptoms`` match findings that the bug causes, and ``follows`` match their consequences.
    ``scenarios`` are patterns such as "pinning::test_*" for scenarios that may run into the bug
    without naming it. ``evidence`` is where the bug was observed, or how it follows from the
    source. ``upstream`` is its state upstream."""

    id: str
    title: str
    symptoms: tuple[Symptom, ...]
    machines: tuple[str, ...] = ("*",)
    needs: tuple[str, ...] = ()
    signs: tuple[Sign, ...] = ()
    introduced: Versions = version.NONE
    fixed: Versions = version.NONE
    follows: tuple[Pattern, ...] = ()
    scenarios: tuple[str, ...] = ()
    evidence: str = ""
    upstream: str = ""

    def affects(self, machine: str) -> bool:
        """Whether the bug can appear on the machine of this name."""
        return any(fnmatch.fnmatchcase(machine, pattern) for pattern in self.machines)

    def may_affect(self, scenario: str) -> bool:
        """Whether a scenario, such as "test_pinning.py::test_x", matches ``scenarios``."""
        name = scenario.partition("[")[0].removeprefix("test_").replace(".py::", "::")
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.scenarios)

    def of(self, examined: ExaminedKernel, behaviours: Mapping[str, Evidence]) -> Evidence:
        """Return the evidence for or against the kernel having the issue. ``behaviours`` is the
        evidence for or against each behaviour that the issue requires."""
        for name in self.needs:
            needed = behaviours[name]
            if not needed.shown:
                return Evidence(shown=False, by=needed.by, why=f"no {name}: {needed.why}")
        if self.needs and not self.signs:
            return Evidence(shown=True, by="source", why=f"the kernel has {', '.join(self.needs)}")
        return evidence.decide(examined, self.signs, "", self.introduced, self.fixed)

    def explained(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings that the issue explains: its symptoms, and their consequences after the
        first symptom. ``findings`` are in the order of their occurrence."""
        own: list[Finding] = []
        for finding in findings:
            causes = any(each.pattern.matches(finding) for each in self.symptoms)
            follows = bool(own) and any(each.matches(finding) for each in self.follows)
            if causes or follows:
                own.append(finding)
        return own


BUNDLED = Path(__file__).with_name("known-issues.toml")


@functools.cache
def issues(files: tuple[Path, ...] = ()) -> dict[str, KnownIssue]:
    """Read the bundled known issues and the user's ``files``, and return the issues by id. Raises
    UsageError, with the file's name, for a file that cannot be read, an invalid issue, or an id
    that already exists."""
    found: dict[str, KnownIssue] = {}
    for file in (BUNDLED, *files):
        for issue in read(file):
            if issue.id in found:
                raise UsageError(
                    f"{file}: known issue {issue.id!r} already exists", "choose a different id"
                )
            found[issue.id] = issue
    return found


def read(file: Path) -> list[KnownIssue]:
    """Read the known issues in a file. Raises UsageError as ``issues`` does."""
    records = toml.read(file)
    try:
        _check_keys(records, ["issue"], ["issue"])
        return [_issue(each) for each in _tables(records, "issue")]
    except _InvalidIssue as error:
        raise UsageError(f"{file}: {error}", error.hint) from None


class _InvalidIssue(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _issue(record: dict[str, Any]) -> KnownIssue:
    try:
        return _parse(record)
    except _InvalidIssue as error:
        raise _InvalidIssue(f"known issue {record.get('id')!r}: {error}", error.hint) from None


def _parse(record: dict[str, Any]) -> KnownIssue:
    _check_keys(record, [each.name for each in fields(KnownIssue)], ["id", "title", "symptoms"])
    if not record.keys() & {"needs", "signs", "introduced"}:
        raise _InvalidIssue("requires needs, signs or introduced, to decide which kernels have it")
    needs = _names(record, "needs")
    for name in needs:
        if name not in behaviour.TABLE:
            hint = did_you_mean(name, behaviour.TABLE, "see iommu-harness behaviours")
            raise _InvalidIssue(f"needs unknown behaviour {name!r}", hint)
    return KnownIssue(
        _text(record, "id"),
        _text(record, "title"),
        tuple(map(_symptom, _tables(record, "symptoms"))),
        _names(record, "machines") or ("*",),
        needs,
        tuple(map(_sign, _tables(record, "signs"))),
        _versions(record, "introduced"),
        _versions(record, "fixed"),
        tuple(map(Pattern, _names(record, "follows"))),
        _names(record, "scenarios"),
        _text(record, "evidence"),
        _text(record, "upstream"),
    )


def _symptom(record: dict[str, Any]) -> Symptom:
    _check_keys(record, ["is", "like", "unlike"], ["is"])
    return Symptom(Pattern(_text(record, "is")), _text(record, "like"), _text(record, "unlike"))


def _sign(record: dict[str, Any]) -> Sign:
    _check_keys(record, [each.name for each in fields(Sign)], ["code"])
    if not record.get("file") and not record.get("option"):
        raise _InvalidIssue("a sign requires file or option")
    types = {each.name: bool if each.name in ("shown", "must") else str for each in fields(Sign)}
    values = {key: _value(record, key, types[key]) for key in record}
    try:
        re.compile(values["code"])
    except re.error as error:
        raise _InvalidIssue(
            f"code {values['code']!r} is not a regular expression: {error}"
        ) from None
    return Sign(**values)


_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")


def _versions(record: Mapping[str, Any], key: str) -> Versions:
    marks = _names(record, key)
    for mark in marks:
        if not _VERSION.fullmatch(mark):
            raise _InvalidIssue(
                f"{key} must be kernel versions such as 6.12 or 6.12.111, not {mark!r}"
            )
    return Versions(marks)


def _check_keys(record: Mapping[str, Any], known: Sequence[str], required: Iterable[str]) -> None:
    for key in record:
        if key not in known:
            hint = did_you_mean(key, known, f"known keys: {', '.join(known)}")
            raise _InvalidIssue(f"unknown key {key!r}", hint)
    for key in required:
        if not record.get(key):
            raise _InvalidIssue(f"requires {key}")


def _text(record: Mapping[str, Any], key: str) -> str:
    return str(_value(record, key, str))


def _names(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = _value(record, key, list)
    if not all(isinstance(name, str) for name in names):
        raise _InvalidIssue(f"{key} must be a list of strings, not {names!r}")
    return tuple(names)


def _tables(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = _value(record, key, list)
    if not all(isinstance(table, dict) for table in tables):
        raise _InvalidIssue(f"{key} must be a list of tables, not {tables!r}")
    return tables


def _value(record: Mapping[str, Any], key: str, kind: Callable[[], Any]) -> Any:
    """The value of a key, or the empty value of the type ``kind`` if the key is absent."""
    value = record.get(key, kind())
    if not isinstance(value, type(kind())):
        raise _InvalidIssue(f"{key} must be of type {type(kind()).__name__}, not {value!r}")
    return value
