# SPDX-License-Identifier: GPL-2.0-only
"""The table of the corpus of reports: complete, sorted, and each mutation has its place."""

import tomllib
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parents[1] / "reports"
TABLE = REPORTS / "verdicts.toml"

KERNELS = {"6.12", "7.2"}
VERDICTS = {"reproduced", "not-reproduced", "inconclusive"}
REQUIRED = {"file", "shape", "verdict", "why"}
OPTIONAL = {"machine", "options", "mutation", "symptom", "limit"}
MACHINES = {"smmuv3", "virtio-iommu"}
MAX_BYTES = 20_000
LEAST = 70

# What no text in the table can be a part of.
PACKED = (".gz",)

ENTRIES: list[dict[str, Any]] = tomllib.loads(TABLE.read_text())["report"]


def mutations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return list(entry.get("mutation", []))


def is_sound(verdict: dict[str, str]) -> bool:
    return set(verdict) == KERNELS and set(verdict.values()) <= VERDICTS


def can_be_turned(entry: dict[str, Any], kernel: str) -> bool:
    """Whether a changed claim makes the report one that is not reproduced."""
    return any(each["verdict"][kernel] != "reproduced" for each in mutations(entry))


def test_the_table_names_each_report_once_and_in_order() -> None:
    files = sorted(path.name for path in REPORTS.iterdir() if path != TABLE)
    assert [entry["file"] for entry in ENTRIES] == files


def test_the_corpus_is_large_and_has_each_verdict_often() -> None:
    assert len(ENTRIES) >= LEAST
    for kernel in KERNELS:
        verdicts = [entry["verdict"][kernel] for entry in ENTRIES]
        assert all(verdicts.count(verdict) >= 10 for verdict in VERDICTS)


def test_entries_have_all_keys_and_no_other() -> None:
    for entry in ENTRIES:
        assert REQUIRED <= set(entry) <= REQUIRED | OPTIONAL, entry["file"]
        assert all(entry[key].strip() for key in ("shape", "why")), entry["file"]


def test_entries_name_verdicts_and_machines_that_exist() -> None:
    for entry in ENTRIES:
        assert is_sound(entry["verdict"]), entry["file"]
        assert entry.get("machine", "smmuv3") in MACHINES, entry["file"]
        assert all(isinstance(word, str) for word in entry.get("options", [])), entry["file"]


def test_reports_are_small() -> None:
    for entry in ENTRIES:
        assert 0 < (REPORTS / entry["file"]).stat().st_size < MAX_BYTES, entry["file"]


def test_what_reproduces_has_a_claim_that_can_be_changed() -> None:
    for entry in ENTRIES:
        reproduced = {kernel for kernel, word in entry["verdict"].items() if word == "reproduced"}
        if not entry["file"].endswith(PACKED):
            assert all(can_be_turned(entry, kernel) for kernel in reproduced), entry["file"]


def test_a_mutation_has_one_place() -> None:
    for entry in ENTRIES:
        content = (REPORTS / entry["file"]).read_bytes()
        for mutation in mutations(entry):
            assert set(mutation) == {"from", "to", "verdict"}, entry["file"]
            assert content.count(mutation["from"].encode()) == 1, (entry["file"], mutation["from"])
            assert mutation["from"] != mutation["to"], entry["file"]


def test_a_mutation_turns_a_verdict() -> None:
    for entry in ENTRIES:
        for mutation in mutations(entry):
            assert is_sound(mutation["verdict"]), entry["file"]
            assert mutation["verdict"] != entry["verdict"], entry["file"]
