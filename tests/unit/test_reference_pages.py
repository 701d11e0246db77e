# SPDX-License-Identifier: GPL-2.0-only
"""The tables in docs/reference match the code, and links in the documentation resolve."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from harness import api
from harness.iommu import machine_file
from harness.kernel import config
from harness.plugin import options
from harness.report import claim
from tests import documents, reference, schemas

ROOT = documents.ROOT
REFERENCE = ROOT / "docs/reference"


def first_cells(page: str, head: str) -> list[str]:
    """The words in backticks in the first column of the table with the first heading ``head``."""
    text = (REFERENCE / f"{page}.md").read_text()
    table = text.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    assert table, f"{page}.md has no table {head!r}"
    rows = table.splitlines()[2:]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


def plugin_options(pytestconfig: pytest.Config) -> Iterator[str]:
    (group,) = (each for each in pytestconfig._parser._groups if each.name == "iommu-harness")
    for option in group.options:
        yield from option.names()


def test_pytest_page_lists_the_options(pytestconfig: pytest.Config) -> None:
    """--iommu-resolved is left out, because only the harness passes it."""
    named = [text.split()[0] for text in first_cells("pytest", "option")]
    assert sorted([*named, "--iommu-resolved"]) == sorted(plugin_options(pytestconfig))


def test_pytest_page_lists_the_markers() -> None:
    named = [text.partition("(")[0] for text in first_cells("pytest", "marker")]
    assert named == [text.partition("(")[0] for text in options.MARKERS]


def test_pytest_page_lists_the_modules_of_the_api() -> None:
    modules = [name for name in api.__all__ if isinstance(getattr(api, name), ModuleType)]
    assert sorted(first_cells("pytest", "module")) == sorted(modules)


def test_kernels_page_lists_the_variants() -> None:
    named = [text.split() for text in first_cells("kernels", "option")]
    variants = [words[1] for words in named if words[0] == "--variant"]
    assert sorted(variants) == sorted(config.variants())


def test_kernels_page_lists_the_conditions_in_fragments() -> None:
    for line in first_cells("kernels", "line"):
        assert config._condition(line), line
    assert set(config._CONDITIONS) < set(first_cells("kernels", "line"))


def test_machines_page_lists_the_keys_and_the_guest_modules() -> None:
    keys = {text.strip("[]") for text in first_cells("machines", "key")}
    assert keys == set(machine_file._KEYS)
    sources = (ROOT / "guest-scripts/modules").glob("*.c")
    assert sorted(first_cells("machines", "guest module")) == sorted(each.stem for each in sources)


def test_reports_page_lists_the_kinds_of_claims() -> None:
    assert sorted(first_cells("reports", "kind")) == sorted(get_args(claim.Kind))


def enumerated(place: str) -> list[str]:
    name, *keys = place.split("/")
    found: Any = schemas.schema(name)
    for key in keys:
        found = found[key]
    words: list[str] = found["properties"]["result"]["enum"]
    return words


def test_scenarios_page_lists_the_results() -> None:
    """The page describes each result of scenarios and of mutants."""
    text = (REFERENCE / "scenarios.md").read_text()
    for place in ("common/$defs/outcome", "mutants/properties/mutants/items"):
        for result in enumerated(place):
            assert f"\n| {result.replace('-', ' ')} |" in text, (place, result)


def test_command_line_page_and_manual_match_the_help() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run python -m tests.reference"
    assert reference.MANUAL.read_text() == reference.manual(), "run python -m tests.reference"


def test_changelog_begins_with_unreleased_and_the_current_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


# The text of a link may contain brackets in backticks.
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub generates for the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = (match[1].lower() for match in _HEADING.finditer(text))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


PAGES = [*documents.pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve_to_existing_pages_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for match in _LINK.finditer(text):
        if match[1].startswith(("http:", "https:")):
            continue
        target = page.parent / match[1] if match[1] else page
        assert target.exists(), match[0]
        assert not match[2] or match[2] in anchors(target), match[0]


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_show_commands_only_in_console_blocks(page: Path) -> None:
    for block in documents.blocks(page):
        if block["kind"] != "console":
            assert not re.search(r"^\$ ", block["text"], re.MULTILINE), block["text"]
