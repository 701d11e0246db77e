# SPDX-License-Identifier: GPL-2.0-only
"""The claims of a report, as short tuples to compare."""

from pathlib import Path

from harness.report import bug_report, session_selection
from harness.report.claim import Claim


def symptoms(tmp_path: Path, text: str) -> list[Claim]:
    """The claims of a report that decide the verdict."""
    path = tmp_path / "report"
    path.write_text(text)
    claims = session_selection.select(bug_report.read(path), None).claims
    return [each for each in claims if each.symptom]


def symptom_steps(tmp_path: Path, text: str) -> list[tuple[str, int | None]]:
    """The kind and step of each symptom."""
    return [(each.kind, each.step) for each in symptoms(tmp_path, text)]


def symptom_numbers(tmp_path: Path, text: str) -> list[tuple[str, int | None, int | None]]:
    """The kind, step and number of each symptom."""
    return [(each.kind, each.step, each.number) for each in symptoms(tmp_path, text)]
