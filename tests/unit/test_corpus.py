# SPDX-License-Identifier: GPL-2.0-only
"""The table of the corpus of reports: complete, sorted, and each mutation has its place."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

REPORTS = Path(__file__).parents[1] / "reports"
TABLE = REPORTS / "verdicts.toml"

KERNELS = {"6.12", "7.2"}
VERDICTS = {"reproduced", "not-reproduced", "inconclusive"}
REQUIRED = {"file", "shape", "verdict", "symptom", "why"}
OPTIONAL = {"machine", "options", "mutation"}
MACHINES = {"smmuv3", "virtio-iommu"}
MAX_BYTES = 20_000
LEAST = 70

# What no text in the table can be a part of.
PACKED = (".gz",)

ENTRIES: list[dict[str, Any]] = tomllib.loads(TABLE.read_text())["report"]
MUTATED = [(entry, mutation) for entry in ENTRIES for mutation in entry.get("mutation", [])]

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=[entry["file"] for entry in ENTRIES])
each_mutation = pytest.mark.parametrize(
    ("entry", "mutation"),
    MUTATED,
    ids=[f"{entry['file']}: {mutation['to'][:40]!r}" for entry, mutation in MUTATED],
)


def test_the_table_names_each_report_once_and_in_order() -> None:
    files = sorted(path.name for path in REPORTS.iterdir() if path != TABLE)
    assert [entry["file"] for entry in ENTRIES] == files


def test_the_corpus_is_large_and_has_each_verdict() -> None:
    assert len(ENTRIES) >= LEAST
    for kernel in KERNELS:
        assert {entry["verdict"][kernel] for entry in ENTRIES} == VERDICTS


@each_entry
def test_an_entry_says_what_it_must(entry: dict[str, Any]) -> None:
    assert REQUIRED <= set(entry) <= REQUIRED | OPTIONAL
    assert all(entry[key].strip() for key in ("shape", "why", "symptom"))
    assert set(entry["verdict"]) == KERNELS
    assert set(entry["verdict"].values()) <= VERDICTS
    assert entry.get("machine", "smmuv3") in MACHINES
    assert all(isinstance(word, str) for word in entry.get("options", []))


@each_entry
def test_a_report_is_small(entry: dict[str, Any]) -> None:
    assert 0 < (REPORTS / entry["file"]).stat().st_size < MAX_BYTES


@each_entry
def test_what_reproduces_has_a_claim_that_can_be_changed(entry: dict[str, Any]) -> None:
    if entry["file"].endswith(PACKED):
        return
    turned = entry.get("mutation", [])
    for kernel, verdict in entry["verdict"].items():
        if verdict == "reproduced":
            assert any(mutation["verdict"][kernel] == "not-reproduced" for mutation in turned)


@each_mutation
def test_a_mutation_has_one_place(entry: dict[str, Any], mutation: dict[str, Any]) -> None:
    assert set(mutation) == {"from", "to", "verdict"}
    assert (REPORTS / entry["file"]).read_bytes().count(mutation["from"].encode()) == 1
    assert mutation["from"] != mutation["to"]


@each_mutation
def test_a_mutation_turns_a_verdict(entry: dict[str, Any], mutation: dict[str, Any]) -> None:
    assert set(mutation["verdict"]) == KERNELS
    assert set(mutation["verdict"].values()) <= VERDICTS
    assert mutation["verdict"] != entry["verdict"]
