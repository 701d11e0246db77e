# SPDX-License-Identifier: GPL-2.0-only
"""docs/architecture.md matches the tree, and the paths in the contributor pages exist."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/architecture.md"
PAGES = [PAGE, *sorted((ROOT / "docs/howto").glob("*.md")), ROOT / "CONTRIBUTING.md"]

# Created by a run, and therefore not in the tree.
NOT_OF_THE_TREE = {"result.json"}

# "`A` and `B` of `FILE`", "`FILE` (`A`)".
_NAMED_IN = re.compile(
    r"`(?P<first>\w+)`(?: and `(?P<second>\w+)`)? of `(?P<file>[\w./-]+\.\w+)`"
    r"|`(?P<before>[\w./-]+\.py)` \(`(?P<within>\w+)`\)"
)


def layers() -> list[set[str]]:
    """The layers of the import-linter contract, topmost first."""
    record = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = record["tool"]["importlinter"]["contracts"]
    return [set(line.split(" | ")) for line in contract["layers"]]


def diagram() -> list[str]:
    """The packages in the page's diagram, from top to bottom."""
    text = PAGE.read_text().split("```")[1]
    return re.findall(r"\bharness\.\w+", text)


def packages() -> set[str]:
    """The packages and modules directly in harness/."""
    found = (path for path in (ROOT / "harness").iterdir() if path.name[0] not in "._")
    return {
        f"harness.{path.stem}"
        for path in found
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }


def test_the_diagram_shows_each_package_once() -> None:
    assert sorted(diagram()) == sorted(packages())


def test_the_layers_contain_each_package_once() -> None:
    assert sorted(name for layer in layers() for name in layer) == sorted(packages())


def test_the_diagram_follows_the_order_of_the_layers() -> None:
    rank = {name: number for number, layer in enumerate(layers()) for name in layer}
    ranks = [rank[name] for name in diagram()]
    assert ranks == sorted(ranks), diagram()


def rows(heading: str) -> list[tuple[str, ...]]:
    """The rows of the first table below ``heading`` in the page, without the table's header."""
    text = PAGE.read_text().partition(heading)[2].partition("\n\n|")[2]
    table = text.partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_table_lists_each_directory_beside_the_package() -> None:
    """The table lists the subdirectories of tests/ separately and omits hidden directories."""
    named = {path for row in rows("Beside the package:") for path in paths(row[0])}
    parts = [Path(name).parts for name in tracked()]
    found = {parts[0] for parts in parts if len(parts) > 1} - {"harness", "docs", "tests"}
    found |= {f"tests/{parts[1]}" for parts in parts if parts[0] == "tests" and len(parts) > 2}
    assert {path.rstrip("/") for path in named} == {name for name in found if name[0] != "."}


def test_the_guest_scripts_row_lists_each_subdirectory() -> None:
    (row,) = (row for row in rows("Beside the package:") if row[0] == "`guest-scripts/`")
    found = {path.name for path in (ROOT / "guest-scripts").iterdir() if path.is_dir()}
    assert {path.rstrip("/") for path in paths(row[1])} == found


def test_each_answer_contains_a_path() -> None:
    questions = rows("## Where a fact is")
    assert len(questions) > 5
    for question, answer in questions:
        assert question.endswith("?")
        assert list(paths(answer)), question


# A path with a slash, or a file name; a word in capitals is a placeholder.
_PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+)?|[\w-]+\.(?:c|config|dts|json|md|patch|py|toml))`")
_PLACEHOLDER = re.compile(r"\b[A-Z]+\b(?!\.md)")


def paths(text: str) -> Iterator[str]:
    """Yield the paths in backticks."""
    yield from (name for name in _PATH.findall(text) if name not in NOT_OF_THE_TREE)


def exists(name: str, beside: list[str]) -> bool:
    """Whether ``name`` exists, relative to the root, to a path in ``beside`` or to its parent."""
    pattern = _PLACEHOLDER.sub("*", name)
    starts = [Path(), *(Path(other) for other in beside), *(Path(other).parent for other in beside)]
    return any(any((ROOT / start).glob(pattern)) for start in starts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_a_contributor_page_exist(page: Path) -> None:
    for paragraph in re.split(r"\n\n|\n(?=[-|]|\d+\. )", page.read_text()):
        named = list(paths(paragraph))
        for name in named:
            assert exists(name, [other for other in named if other != name]), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_identifiers_attributed_to_a_file_occur_in_it(page: Path) -> None:
    for match in _NAMED_IN.finditer(" ".join(page.read_text().split())):
        text = (ROOT / (match["file"] or match["before"])).read_text()
        for name in filter(None, (match["first"], match["second"], match["within"])):
            assert re.search(rf"\b{name}\b", text), match[0]
