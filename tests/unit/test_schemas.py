# SPDX-License-Identifier: GPL-2.0-only
"""The schemas of ``--json``, and the output of commands that do not boot a guest."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

import harness
from harness.bisect import journal, search
from harness.errors import HarnessError
from harness.host import inventory
from harness.iommu.evidence import Evidence
from harness.kernel.artifact import Kernel
from harness.klog import kinds
from harness.klog.frame import Chain, Frame
from harness.klog.record import Record
from harness.klog.splat import Splat
from harness.report import claim
from harness.repro import verdict
from harness.selftests.run import SelftestOutcome
from harness.suite import harmless, mutants, run, smoke
from tests import command, fake_linux, schemas

FILES = sorted(path.name.removesuffix(".schema.json") for path in schemas.SCHEMAS.iterdir())


def test_the_reference_page_matches_the_schemas() -> None:
    assert schemas.PAGE.read_text() == schemas.page(), "run python -m tests.schemas"


def test_the_reference_page_contains_every_schema() -> None:
    assert sorted([*schemas.COMMANDS, *schemas.LINES, "common"]) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_schema_conforms_to_draft_2020_12(name: str) -> None:
    assert schemas.schema(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schemas.schema(name)["$id"] == f"{name}.schema.json"
    Draft202012Validator.check_schema(schemas.schema(name))


def objects(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object nested in a schema, with its path."""
    if isinstance(value, dict):
        yield place, value
        for name, part in value.items():
            yield from objects(part, f"{place}/{name}")
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from objects(part, f"{place}/{number}")


# Definitions that are extended, and closed where they are used.
OPEN = {f"common/$defs/{name}" for name in ("kernel", "replay", "splat-facts", "item")}
MAY_BE_ABSENT = {
    "common/$defs/error": {"detail"},
    "run-list": {"behaviours"},
    "scenarios-line": {"retried", "issue", "kept"},
    "decode/properties/splats/items": {"known", "total", "reason"},
}


def parts() -> list[tuple[str, dict[str, Any]]]:
    found = [each for name in FILES for each in objects(schemas.schema(name), name)]
    return [(place, each) for place, each in found if isinstance(each.get("properties"), dict)]


@pytest.mark.parametrize(("place", "part"), parts(), ids=[place for place, _ in parts()])
def test_an_object_requires_every_key_and_allows_no_other(place: str, part: dict[str, Any]) -> None:
    closed = part.get("additionalProperties", part.get("unevaluatedProperties"))
    assert closed is (None if place in OPEN else False)
    required = set(part["properties"]) - MAY_BE_ABSENT.get(place, set())
    assert set(part.get("required", ())) == required
    assert all(each.get("description") for each in part["properties"].values())


def properties(place: str) -> set[str]:
    name, *keys = place.split("/")
    found = schemas.schema(name)
    for key in keys:
        found = found[key]
    return set(found["properties"])


@pytest.mark.parametrize(
    ("place", "record", "added", "left_out"),
    [
        ("common/$defs/kernel", Kernel, set(), set()),
        ("common/$defs/record", Record, set(), set()),
        ("common/$defs/frame", Frame, set(), set()),
        ("common/$defs/chain", Chain, set(), set()),
        ("common/$defs/splat-facts", Splat, set(), {"text"}),
        ("common/$defs/outcome", run.ScenarioOutcome, set(), set()),
        ("scenarios-line", run.ScenarioOutcome, {"collected"}, {"round"}),
        ("mutants/properties/mutants/items", mutants.Score, {"caught"}, set()),
        ("mutants-harmless/properties/harmless/items", harmless.HarmlessScore, set(), set()),
        ("bisect/properties/steps/items", search.Step, {"name"}, set()),
        ("bisect-status/properties/last", journal.Run, set(), set()),
        ("behaviours/properties/issues/items", Evidence, {"name", "guess"}, set()),
        ("machines-boot/properties/machines/items", smoke.SmokeResult, set(), set()),
        ("selftests/properties/tests/items", SelftestOutcome, set(), set()),
    ],
)
def test_a_schema_has_the_fields_of_its_class(
    place: str, record: Any, added: set[str], left_out: set[str]
) -> None:
    names = set(record.__dataclass_fields__)
    assert properties(place) == (names | added) - left_out


def enumerated(place: str) -> set[str]:
    name, *keys = place.split("/")
    found: Any = schemas.schema(name)
    for key in keys:
        found = found[key]
    return set(found["enum"])


def error_classes(above: type[HarnessError] = HarnessError) -> Iterator[str]:
    for each in above.__subclasses__():
        yield each.__name__
        yield from error_classes(each)


def test_the_error_schema_lists_every_error_class() -> None:
    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        importlib.import_module(module.name)
    assert enumerated("common/$defs/error/properties/kind") == set(error_classes())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("common/$defs/claim/properties/kind", claim.Kind),
        ("common/$defs/replay/properties/verdict", verdict.Word),
        ("common/$defs/splat-facts/properties/severity", kinds.Severity),
        ("mutants/properties/mutants/items/properties/result", mutants.MutantResult),
        ("mutants-harmless/properties/harmless/items/properties/result", harmless.HarmlessResult),
        ("bisect-status/properties/last/properties/result", journal.RunResult),
    ],
)
def test_an_enumeration_matches_its_literal_type(place: str, words: Any) -> None:
    assert enumerated(place) == set(get_args(words))


def test_validate_rejects_an_extra_or_missing_key() -> None:
    error = {"kind": "UsageError", "message": "unknown kernel", "hint": ""}
    schemas.validate("error", {"error": error})
    with pytest.raises(AssertionError, match=r"\$.error: .*'extra' was unexpected"):
        schemas.validate("error", {"error": error | {"extra": ""}})
    del error["hint"]
    with pytest.raises(AssertionError, match="'hint' is a required property"):
        schemas.validate("error", {"error": error})


# command.run() validates everything that a command prints.


def test_commands_print_valid_errors_and_lists() -> None:
    for words in (
        ("repro", "/nope", "--json"),
        ("repro", "--json"),
        ("run", "--list", "--json"),
        ("run", "--list", "pinning", "--json"),
        ("machines", "--json"),
        ("doctor", "--json"),
        ("kernel", "list", "--json"),
        ("cache", "ls", "--json"),
        ("cache", "verify", "--json"),
        ("cache", "gc", "--json"),
    ):
        command.run(*words)


def test_commands_print_valid_kernels_and_cache_entries(tmp_path: Path) -> None:
    tree = fake_linux.write(tmp_path / "tree")
    broken = fake_linux.write(tmp_path / "broken")
    (broken / "drivers/iommu/iommu.c").write_text("int a = b;\n")
    command.run("kernel", "build", f"tree:{tree}", "--json")
    both = command.run("kernel", "build", f"tree:{tree}", f"tree:{broken}", "--json")
    assert [*map(len, json.loads(both.out)["kernels"])] == [9, 2]
    assert json.loads(command.run("kernel", "list", "--json").out)["kernels"]
    assert json.loads(command.run("kernel", "config", f"tree:{tree}", "--json").out)["options"]
    (kernel,) = (item for item in inventory.items() if item.kind == "kernel")
    (kernel.path / "Image").write_text("changed")
    assert json.loads(command.run("cache", "ls", "kernel", "--json").out)["items"]
    assert json.loads(command.run("cache", "verify", "--json").out)["damaged"]
    assert json.loads(command.run("cache", "gc", "--days", "0", "--json").out)["removed"]


def test_decode_prints_valid_splats() -> None:
    logs = schemas.ROOT / "tests/logs"
    for name in ("6.12-kasan-use-after-free.log", "6.12-boot.log", "7.2-warn-late-probe-kmsg.log"):
        command.run("decode", logs / name, "--json")
