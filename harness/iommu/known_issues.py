# SPDX-License-Identifier: GPL-2.0-only
"""Known issues: bugs of kernels that scenarios run into, from known-issues.toml.

Strict both ways: where a kernel has an issue, the scenario that names it has to show it,
unless it is a race that may go well; and it explains those findings that it is about, and
no others.
"""

import fnmatch
import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.iommu import evidence
from harness.iommu.evidence import Evidence, ExaminedKernel, Sign
from harness.iommu.finding import Finding, Pattern
from harness.iommu.version import Versions


@dataclass(frozen=True, slots=True)
class Symptom:
    """Findings of one kind that an issue causes, with one that is (``like``), and one near
    by that is not (``unlike``)."""

    pattern: Pattern
    like: str
    unlike: str


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """``needs`` are the behaviours without which no kernel has it, ``signs`` what in the
    source decides it, ``introduced`` and ``fixed`` the versions, where neither can;
    ``machines`` are patterns of names. ``symptoms`` are what it causes, and ``follows`` what
    comes after these, and is nothing of its own. ``evidence`` is where it was seen or follows
    from, ``upstream`` what has become of it there."""

    id: str
    title: str
    needs: tuple[str, ...]
    signs: tuple[Sign, ...]
    introduced: Versions
    fixed: Versions
    machines: tuple[str, ...]
    symptoms: tuple[Symptom, ...]
    follows: tuple[Pattern, ...]
    evidence: str
    upstream: str

    def on(self, machine: str) -> bool:
        """Whether the machine of that name can show it."""
        return any(fnmatch.fnmatchcase(machine, pattern) for pattern in self.machines)

    def of(self, examined: ExaminedKernel, behaviours: Mapping[str, Evidence]) -> Evidence:
        """Whether the kernel has it, by what is believed of its behaviours."""
        for name in self.needs:
            needed = behaviours[name]
            if not needed.shown:
                return Evidence(shown=False, by=needed.by, why=f"no {name}: {needed.why}")
        if self.needs and not self.signs:
            return Evidence(shown=True, by="source", why=f"it has {', '.join(self.needs)}")
        return evidence.decide(examined, self.signs, "", self.introduced, self.fixed)

    def explained(self, findings: Sequence[Finding]) -> list[Finding]:
        """Those of a test's findings, in the order in which they came, that are the
        issue's, and what followed from them."""
        own: list[Finding] = []
        for finding in findings:
            causes = any(each.pattern.matches(finding) for each in self.symptoms)
            follows = bool(own) and any(each.matches(finding) for each in self.follows)
            if causes or follows:
                own.append(finding)
        return own


@functools.cache
def issues() -> dict[str, KnownIssue]:
    """All known issues, by id."""
    data = tomllib.loads((Path(__file__).with_name("known-issues.toml")).read_text())
    found = [_issue(each) for each in data["issue"]]
    return {each.id: each for each in found}


def _issue(record: dict[str, Any]) -> KnownIssue:
    symptoms = (
        Symptom(Pattern(each["is"]), each["like"], each["unlike"]) for each in record["symptoms"]
    )
    return KnownIssue(
        record["id"],
        record["title"],
        tuple(record.get("needs", ())),
        tuple(Sign(**each) for each in record.get("signs", ())),
        Versions(tuple(record["introduced"])),
        Versions(tuple(record.get("fixed", ()))),
        tuple(record["machines"]),
        tuple(symptoms),
        tuple(map(Pattern, record.get("follows", ()))),
        record["evidence"],
        record["upstream"],
    )
