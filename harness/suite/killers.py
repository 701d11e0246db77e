# SPDX-License-Identifier: GPL-2.0-only
"""Which scenarios are likely to kill a mutant: those that have, here or wherever the table
beside the patches was made, and those that are about what it changes."""

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import past_runs
from harness.suite import run
from harness.suite.mutant import Mutant

# Beside the patches: by the mutant's name, the scenarios that have killed it.
_TABLE = "killers.json"

# The same on this host.
_CATCHERS = "catchers"

Table = dict[str, list[str]]


def likely(mutant: Mutant) -> tuple[str, ...]:
    """The scenarios that have killed this mutant, on this host or by the table beside it,
    those that are about what it changes, and those that have killed most others."""
    here, kept = _table(past_runs.read(_CATCHERS)), kept_with(mutant.patch.parent)
    every = [name for table in (here, kept) for names in table.values() for name in names]
    often = [name for name, _ in Counter(every).most_common()]
    own = [*here.get(mutant.name, []), *kept.get(mutant.name, [])]
    return tuple(dict.fromkeys([*own, *related(mutant.text), *often]))


def remember(name: str, by: Sequence[str]) -> None:
    """On this host."""
    past_runs.add(_CATCHERS, name, list(by))


def keep(directory: Path, killed: Mapping[str, Sequence[str]]) -> None:
    """In the table beside the patches, one mutant a line."""
    table = kept_with(directory) | {name: list(by) for name, by in killed.items()}
    lines = (f" {json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
    (directory / _TABLE).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def kept_with(directory: Path) -> Table:
    """The table beside the patches, empty where there is none. Raises UsageError for one
    that is no table."""
    file = directory / _TABLE
    try:
        return _table(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "remove it") from None


def _table(found: Any) -> Table:
    rows = found.items() if isinstance(found, dict) else ()
    return {name: [*map(str, names)] for name, names in rows if isinstance(names, list)}


# Names of functions and the like, in C and in prose.
_NAME = re.compile(r"\b_*[a-z]\w*_\w+")
_PATCHED = re.compile(r"^\+\+\+ b/(\S+)", re.MULTILINE)


def related(patch: str) -> list[str]:
    """The scenarios that name what is in the patch, or whose subject is a directory of what
    it patches: in front those that share with it what few of them have."""
    words = {*_NAME.findall(patch)}.union(*(path.split("/") for path in _PATCHED.findall(patch)))
    shared = {name: about & words for name, about in _words().items() if about & words}
    times = Counter(word for common in shared.values() for word in common)
    return sorted(shared, key=lambda name: min(times[word] for word in shared[name]))


@functools.cache
def _words() -> dict[str, frozenset[str]]:
    """By the scenario, its subject and what its docstring names."""
    return {
        f"{file.name}::{test.name}": frozenset(
            [file.stem.removeprefix("test_"), *_NAME.findall(test.docstring)]
        )
        for file in sorted(run.directory().glob("test_*.py"))
        for test in run.tests_of(file)
    }
