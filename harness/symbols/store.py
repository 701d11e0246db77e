# SPDX-License-Identifier: GPL-2.0-only
"""Tables of functions in the cache: an entry for each object of a kernel.

An entry's name begins with its kernel's key. ``functions.json`` says whose functions
it has, ``tables.json`` has the tables, ``object.elf`` is what they were read from.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError
from harness.host import cache
from harness.kernel.artifact import Kernel
from harness.symbols import table
from harness.symbols.table import Table

# Part of every name: raise it when the tables change.
_RECIPE = "1"
_KIND = "symbols"


@dataclass(frozen=True, slots=True)
class Entry:
    """``image`` is a module's name, "" for vmlinux; ``functions`` are the keys that the
    entry has tables of."""

    path: Path
    image: str
    functions: frozenset[str]

    def tables(self) -> dict[str, Table]:
        """Raises HostError for an entry that is damaged, which is then gone."""
        title = f"symbols {self.path.name}"
        entry = cache.entry(_KIND, self.path.name, title, _refuse)
        try:
            return table.load(json.loads((entry / "tables.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise HostError(f"{title} cannot be read: {error}") from error


def _refuse(_into: Path) -> None:
    raise HostError("the symbols are gone")


def entries(kernel: Kernel) -> Iterator[Entry]:
    """All that there is of a kernel."""
    for path in cache.directory(_KIND).glob(f"{kernel.key}-{_RECIPE}-*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((path / "functions.json").read_text())
            yield Entry(path, str(record["image"]), frozenset(record["functions"]))


def keep(
    kernel: Kernel, image: str, name: str, tables: dict[str, Table], file: Path | None
) -> None:
    """Stores the tables of the object ``name`` of an image; ``file`` is the linked object."""

    def make(into: Path) -> None:
        record = {"image": image, "object": name, "functions": list(tables)}
        (into / "functions.json").write_text(json.dumps(record))
        (into / "tables.json").write_text(json.dumps(table.dump(tables)))
        if file:
            shutil.copy(file, into / "object.elf")

    key = f"{kernel.key}-{_RECIPE}-{cache.digest(image, name)}"
    cache.entry(_KIND, key, f"symbols of {name}, {kernel.label}", make)
