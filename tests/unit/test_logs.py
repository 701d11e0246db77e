# SPDX-License-Identifier: GPL-2.0-only
"""harness.klog on logs of real guests, checked against a table written by hand."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.klog import log
from harness.klog.splat import Splat
from tests.log_formats import FORMATS, convert

LOGS = Path(__file__).parent.parent / "logs"


@dataclass(frozen=True, slots=True)
class Parse:
    """An entry of the table: a log and its splats."""

    file: str
    source: str
    of: str
    format: str
    splats: tuple[dict[str, Any], ...]


def table() -> list[Parse]:
    data = tomllib.loads((LOGS / "parses.toml").read_text())
    splats = {each["file"]: tuple(each.get("splat", ())) for each in data["log"]}
    return [
        Parse(
            each["file"],
            each.get("source", ""),
            each.get("of", ""),
            each.get("format", ""),
            splats[each.get("of") or each["file"]],
        )
        for each in data["log"]
    ]


TABLE = table()
RECORDED = [each for each in TABLE if not each.format]
CONVERTED = [each for each in TABLE if each.format]


def splats(parse: Parse) -> list[Splat]:
    with (LOGS / parse.file).open("rb") as file:
        return list(log.splats(file))


@pytest.mark.parametrize("parse", TABLE, ids=lambda each: each.file.removesuffix(".log"))
def test_klog_finds_the_listed_splats(parse: Parse) -> None:
    found = splats(parse)
    assert [each.kind for each in found] == [each["kind"] for each in parse.splats]
    for number, (expected, splat) in enumerate(zip(parse.splats, found, strict=True)):
        wrong = dict(mismatches(expected, splat))
        assert not wrong, f"splat {number}: expected {expected}"


def mismatches(expected: dict[str, Any], splat: Splat) -> list[tuple[str, object]]:
    """The fields that differ from the table, with the values read from the log."""
    plain = [each for each in expected.items() if each[0] not in {"frames", "chains"}]
    read = [(name, value, getattr(splat, name)) for name, value in plain]
    found: list[tuple[str, object]] = [(name, got) for name, value, got in read if got != value]
    if not contains(splat.frames, expected.get("frames", ())):
        found.append(("frames", splat.frames))
    chains = [each.name for each in splat.chains]
    if chains != expected.get("chains", chains):
        found.append(("chains", chains))
    return found


def contains(frames: Sequence[str], run: Sequence[str]) -> bool:
    """Whether ``run`` appears in the frames without gaps."""
    starts = range(len(frames) - len(run) + 1)
    return any(list(frames[start : start + len(run)]) == list(run) for start in starts)


def test_the_table_lists_each_log_once() -> None:
    names = [each.file for each in TABLE]
    assert sorted(names) == sorted(path.name for path in LOGS.glob("*.log"))
    assert len(names) == len(set(names))


def test_logs_stay_below_12_kb() -> None:
    assert [path.name for path in LOGS.glob("*.log") if path.stat().st_size >= 12_000] == []


def test_recorded_logs_have_a_source() -> None:
    assert [each.file for each in RECORDED if not each.source] == []


@pytest.mark.parametrize("parse", CONVERTED, ids=lambda each: each.file.removesuffix(".log"))
def test_a_converted_log_is_derived_from_a_recorded_log(parse: Parse) -> None:
    text = (LOGS / parse.of).read_bytes().decode()
    assert (LOGS / parse.file).read_bytes().decode() == convert(text, parse.format)


def test_each_format_has_a_converted_log() -> None:
    assert {each.format for each in CONVERTED} == set(FORMATS)
