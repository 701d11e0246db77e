# SPDX-License-Identifier: GPL-2.0-only
"""The table of the report corpus: it is complete and sorted, and its mutations apply."""

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
MIN_REPORTS = 70

# A mutation is plain text, and cannot match in a compressed report.
COMPRESSED = (".gz",)

ENTRIES: list[dict[str, Any]] = tomllib.loads(TABLE.read_text())["report"]


def mutations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return list(entry.get("mutation", []))


def is_sound(verdict: dict[str, str]) -> bool:
    return set(verdict) == KERNELS and set(verdict.values()) <= VERDICTS


def has_refuting_mutation(entry: dict[str, Any], kernel: str) -> bool:
    """Whether a mutation of the report is not reproduced on ``kernel``."""
    return any(each["verdict"][kernel] != "reproduced" for each in mutations(entry))


def test_the_table_lists_each_report_once_in_order() -> None:
    files = sorted(path.name for path in REPORTS.iterdir() if path != TABLE)
    assert [entry["file"] for entry in ENTRIES] == files


def test_the_corpus_has_enough_reports_of_each_verdict() -> None:
    assert len(ENTRIES) >= MIN_REPORTS
    for kernel in KERNELS:
        verdicts = [entry["verdict"][kernel] for entry in ENTRIES]
        assert all(verdicts.count(verdict) >= 10 for verdict in VERDICTS)


def test_entries_have_all_required_keys_and_no_unknown_keys() -> None:
    for entry in ENTRIES:
        assert REQUIRED <= set(entry) <= REQUIRED | OPTIONAL, entry["file"]
        assert all(entry[key].strip() for key in ("shape", "why")), entry["file"]


def test_entries_use_known_verdicts_and_machines() -> None:
    for entry in ENTRIES:
        assert is_sound(entry["verdict"]), entry["file"]
        assert entry.get("machine", "smmuv3") in MACHINES, entry["file"]
        assert all(isinstance(word, str) for word in entry.get("options", [])), entry["file"]


def test_reports_stay_below_the_size_limit() -> None:
    for entry in ENTRIES:
        assert 0 < (REPORTS / entry["file"]).stat().st_size < MAX_BYTES, entry["file"]


def test_reproduced_reports_have_a_mutation_that_is_not_reproduced() -> None:
    for entry in ENTRIES:
        reproduced = {kernel for kernel, word in entry["verdict"].items() if word == "reproduced"}
        if not entry["file"].endswith(COMPRESSED):
            assert all(has_refuting_mutation(entry, kernel) for kernel in reproduced), entry["file"]


def test_a_mutation_matches_its_report_exactly_once() -> None:
    for entry in ENTRIES:
        content = (REPORTS / entry["file"]).read_bytes()
        for mutation in mutations(entry):
            assert set(mutation) == {"from", "to", "verdict"}, entry["file"]
            assert content.count(mutation["from"].encode()) == 1, (entry["file"], mutation["from"])
            assert mutation["from"] != mutation["to"], entry["file"]


def test_a_mutation_changes_the_verdict() -> None:
    for entry in ENTRIES:
        for mutation in mutations(entry):
            assert is_sound(mutation["verdict"]), entry["file"]
            assert mutation["verdict"] != entry["verdict"], entry["file"]
