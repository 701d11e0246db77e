# SPDX-License-Identifier: GPL-2.0-only
"""Predict which scenarios are likely to kill a mutant: first those that have killed it before (on
this host, or according to the table beside the patches), then those about the code that it changes,
then those that have killed other mutants."""

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import past_runs
from harness.suite import scenarios
from harness.suite.mutant import Mutant

# The table beside the patches, which maps a mutant to the scenarios that have killed it.
_FILE = "killers.json"

# The name of the same table on this host.
_PAST_KILLERS = "killers"

Table = dict[str, list[str]]


def likely(mutant: Mutant) -> tuple[str, ...]:
    """The scenarios that are likely to kill the mutant, likeliest first: scenarios that have killed
    it, on this host or according to the table beside it, then scenarios about the code that it
    changes, then scenarios that have killed other mutants, most successful first."""
    every = [name for table in _tables(mutant) for names in table.values() for name in names]
    often = [name for name, _ in Counter(every).most_common()]
    return tuple(dict.fromkeys([*_own(mutant), *related(mutant.text), *often]))


def known(mutant: Mutant) -> tuple[str, ...]:
    """The bundled scenarios that have killed the mutant before."""
    return tuple(each for each in _own(mutant) if each.partition("[")[0] in _words())


def _own(mutant: Mutant) -> list[str]:
    names = (name for table in _tables(mutant) for name in table.get(mutant.name, []))
    return list(dict.fromkeys(names))


def _tables(mutant: Mutant) -> tuple[Table, Table]:
    """The table on this host, and the table beside the patches."""
    return _table(past_runs.read(_PAST_KILLERS)), read(mutant.patch.parent)


def remember(name: str, by: Sequence[str]) -> None:
    """Add the killers of a mutant to the table on this host."""
    past_runs.add(_PAST_KILLERS, name, list(by))


def write(directory: Path, killed: Mapping[str, Sequence[str]]) -> None:
    """Add the killers of mutants to the table beside the patches, which has one line per
    mutant."""
    table = read(directory) | {name: list(by) for name, by in killed.items()}
    lines = (f" {json.dumps(name)}: {json.dumps(table[name])}" for name in sorted(table))
    part = directory / f"{_FILE}.part"
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    part.replace(directory / _FILE)


def read(directory: Path) -> Table:
    """Read the table beside the patches, which is empty if the file does not exist. Raises
    UsageError for a file that cannot be read."""
    file = directory / _FILE
    try:
        return _table(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "remove it") from None
    except ValueError as error:
        raise UsageError(f"cannot read {file}: it is not JSON: {error}", "remove it") from None


def _table(found: Any) -> Table:
    rows = found.items() if isinstance(found, dict) else ()
    return {name: [*map(str, names)] for name, names in rows if isinstance(names, list)}


# Identifiers with an underscore, in C and in prose.
_NAME = re.compile(r"\b_*[a-z]\w*_\w+")
_PATCHED = re.compile(r"^\+\+\+ b/(\S+)", re.MULTILINE)


def related(patch: str) -> list[str]:
    """The scenarios about the code that a patch changes: the docstring contains an identifier of
    the patch, or the subject is a directory in the path of a changed file. Scenarios that share a
    rare name with the patch are first."""
    words = {*_NAME.findall(patch)}.union(*(path.split("/") for path in _PATCHED.findall(patch)))
    shared = {name: about & words for name, about in _words().items() if about & words}
    times = Counter(word for common in shared.values() for word in common)
    return sorted(shared, key=lambda name: min(times[word] for word in shared[name]))


@functools.cache
def _words() -> dict[str, frozenset[str]]:
    """The subject of each scenario and the identifiers in its docstring."""
    return {
        f"{file.name}::{each.name}": frozenset([subject, *_NAME.findall(each.docstring)])
        for subject, file in scenarios.subjects().items()
        for each in scenarios.scenarios_of(file)
    }
