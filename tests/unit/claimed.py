# SPDX-License-Identifier: GPL-2.0-only
"""What the text of a report claims."""

from pathlib import Path

from harness.report import reading
from harness.report.claim import Claim


def symptoms(tmp_path: Path, text: str) -> list[Claim]:
    """The claims that make its verdict."""
    path = tmp_path / "report"
    path.write_text(text)
    claims = reading.choose(reading.read(path), None).claims
    return [each for each in claims if each.symptom]


def claimed(tmp_path: Path, text: str) -> list[tuple[str, int | None]]:
    """Their kinds and steps."""
    return [(each.kind, each.step) for each in symptoms(tmp_path, text)]


def numbered(tmp_path: Path, text: str) -> list[tuple[str, int | None, int | None]]:
    """Their kinds, steps and numbers."""
    return [(each.kind, each.step, each.number) for each in symptoms(tmp_path, text)]
