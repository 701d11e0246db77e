# SPDX-License-Identifier: GPL-2.0-only
"""Find scenarios: the bundled scenarios by their subject (tests/scenarios/test_SUBJECT.py), and
the user's scenarios by path."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from harness.errors import UsageError, did_you_mean
from harness.host import paths


def directory() -> Path:
    """The directory of the bundled scenarios."""
    return paths.data("tests/scenarios")


def subjects() -> dict[str, Path]:
    """The file of each bundled subject."""
    return {file.stem.removeprefix("test_"): file for file in sorted(directory().glob("test_*.py"))}


def select(names: Sequence[str]) -> Iterator[str]:
    """Yield pytest's arguments for the scenarios with these names, or for all bundled scenarios if
    there are no names.

    A name is a subject ("pinning"), the name of a bundled file ("test_pinning.py"), the path of
    the user's file or directory, or a scenario in a file ("pinning::test_x",
    "mine/test_mine.py::test_x"). Raises UsageError for a name that does not exist."""
    if not names:
        yield str(directory())
    for text in names:
        # Drop the parameters: pytest knows them only after it has collected the scenarios.
        name, colons, test = text.partition("[")[0].partition("::")
        file = _file(name)
        if test and test not in (known := [each.name for each in scenarios_of(file)]):
            hint = did_you_mean(test, known, f"see iommu-harness run --list {name}")
            raise UsageError(f"{name} has no scenario {test!r}", hint)
        yield f"{file}{colons}{test}"


def parametrized(names: Sequence[str]) -> Iterator[str]:
    """The names with parameters, as outcomes name scenarios: "test_x.py::test_y[a]". A scenario
    that another name selects with all its parameters is left out."""
    whole = [each for each in names if "[" not in each]
    selected = set(select(whole)) if whole else set()
    for text in names:
        name, bracket, parameters = text.partition("[")
        name, colons, test = name.partition("::")
        if bracket:
            file = _file(name)
            if not selected & {f"{file}::{test}", str(file), str(file.parent)}:
                yield f"{file.name}{colons}{test}{bracket}{parameters}"


def _file(name: str) -> Path:
    """The file of a subject, or the user's file or directory. Raises UsageError for a name that
    does not exist."""
    bundled = {file.name: file for file in subjects().values()} | subjects()
    if name in bundled:
        return bundled[name]
    path = Path(name)
    if not ("/" in name or path.suffix == ".py" or (name and path.is_dir())):
        hint = did_you_mean(name, subjects(), f"use one of {', '.join(subjects())}, or a path")
        raise UsageError(f"unknown subject {name!r}", hint)
    if not path.exists():
        raise UsageError(
            f"cannot read {name}: no such file or directory", "give a subject or an existing path"
        )
    return path.absolute()


@dataclass(frozen=True, slots=True)
class ScenarioText:
    """The name and the docstring of a scenario."""

    name: str
    docstring: str

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring."""
        return " ".join(self.docstring.partition("\n\n")[0].split())


def scenarios_of(path: Path) -> list[ScenarioText]:
    """Read the scenarios in a file, or in all files of a directory. Raises UsageError for a file
    that cannot be read or is not Python."""
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [
        ScenarioText(each.name, ast.get_docstring(each) or "")
        for file in files
        for each in _parse(file).body
        if _is_test(each)
    ]


def rule(name: str) -> str:
    """The rule that a scenario checks (the first paragraph of its docstring), or "" if the scenario
    does not exist. ``name`` is "FILE::SCENARIO", with or without parameters. FILE is the name of
    a bundled file, or an absolute path."""
    path, _, test = name.partition("[")[0].partition("::")
    file = directory() / path
    found = scenarios_of(file) if file.is_file() else []
    return next((each.summary for each in found if each.name == test), "")


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except SyntaxError as error:
        line = f" on line {error.lineno}" if error.lineno else ""
        raise UsageError(f"{file} is not valid Python: {error.msg}{line}") from None
    except ValueError as error:
        raise UsageError(f"{file} is not valid Python: {error}") from None


def _is_test(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
