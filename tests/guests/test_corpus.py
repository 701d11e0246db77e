# SPDX-License-Identifier: GPL-2.0-only
"""Replays of the report corpus; tests/reports/verdicts.toml lists the verdicts by kernel."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.kernel.artifact import Kernel
from harness.repro import device_names, replay, request
from harness.repro.request import Request
from tests.conftest import REPORTS

# Seconds of silence that count as a hang, unless a report sleeps longer on purpose.
_LIMIT = 6.0


@dataclass(frozen=True)
class Case:
    """A report or a mutation of it: its ``text``, and its ``verdict`` by kernel version."""

    id: str
    file: str
    text: bytes
    verdict: dict[str, str]
    symptom: str = ""
    machine: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    limit: float = _LIMIT


def _cases() -> Iterator[Case]:
    table = tomllib.loads((REPORTS / "verdicts.toml").read_text())
    for each in table["report"]:
        yield from _of_report(each)


def _of_report(each: dict[str, Any]) -> Iterator[Case]:
    words = each.get("options", [])
    options = dict(zip(words[::2], words[1::2], strict=True))
    text = (REPORTS / each["file"]).read_bytes()
    machine, name = each.get("machine"), each["file"]
    limit = each.get("limit", _LIMIT)
    symptom = each.get("symptom", "")
    yield Case(name, name, text, each["verdict"], symptom, machine, options, limit)
    for number, mutation in enumerate(each.get("mutation", []), start=1):
        mutated = text.replace(mutation["from"].encode(), mutation["to"].encode())
        assert mutated != text
        verdict = mutation["verdict"]
        yield Case(f"{name}-mutated-{number}", name, mutated, verdict, "", machine, options, limit)


@pytest.mark.parametrize("case", list(_cases()), ids=lambda case: case.id)
def test_replay_returns_the_listed_verdict(kernel: Kernel, tmp_path: Path, case: Case) -> None:
    version = ".".join(kernel.release.split(".")[:2])
    if version not in case.verdict:
        pytest.skip(f"the table has no verdict for {version}")
    run = tmp_path / "run"
    run.mkdir()
    result = replay.replay(_request(case, tmp_path), kernel, run, limit=case.limit)
    assert result.verdict.word == case.verdict[version], result.verdict.reason
    if result.verdict.word == "reproduced":
        assert case.symptom in result.verdict.symptom


def _request(case: Case, directory: Path) -> Request:
    path = directory / case.file
    path.write_bytes(case.text)
    chosen = device_names.parse_choices(
        [case.options["--device"]] if "--device" in case.options else []
    )
    return request.create(path, case.options.get("--session"), case.machine, devices=chosen)
