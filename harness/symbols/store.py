# SPDX-License-Identifier: GPL-2.0-only
"""Tables of functions in the cache, one entry for each object of a kernel.

The name of an entry begins with the key of its kernel. ``functions.json`` lists its functions,
``tables.json`` contains the tables, ``object.elf`` is the object that they were read from.
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

# This is part of every name. Increase it when the format of the tables changes.
_RECIPE = "1"
_KIND = "symbols"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the cache. ``image`` is the name of a module, or "" for vmlinux. ``functions``
    are the keys of the functions that have a table."""

    path: Path
    image: str
    functions: frozenset[str]

    def tables(self) -> dict[str, Table]:
        """Load the tables. Raises HostError if the entry is damaged or no longer in the cache."""
        title = f"symbols {self.path.name}"
        entry = cache.entry(_KIND, self.path.name, title, _refuse)
        try:
            return table.load(json.loads((entry / "tables.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise HostError(f"invalid data in the cache entry {title} ({detail})") from error


def _refuse(_into: Path) -> None:
    raise HostError("the symbols are no longer in the cache")


def entries(kernel: Kernel) -> Iterator[Entry]:
    """Yield all entries of a kernel."""
    for path in cache.directory(_KIND).glob(f"{kernel.key}-{_RECIPE}-*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((path / "functions.json").read_text())
            yield Entry(path, str(record["image"]), frozenset(record["functions"]))


def keep(
    kernel: Kernel, image: str, name: str, tables: dict[str, Table], file: Path | None
) -> None:
    """Store the tables from the object ``name`` of an image. ``file`` is the linked object."""

    def make(into: Path) -> None:
        record = {"image": image, "object": name, "functions": list(tables)}
        (into / "functions.json").write_text(json.dumps(record))
        (into / "tables.json").write_text(json.dumps(table.dump(tables)))
        if file:
            shutil.copy(file, into / "object.elf")

    key = f"{kernel.key}-{_RECIPE}-{cache.digest(image, name)}"
    cache.entry(_KIND, key, f"symbols of {name}, {kernel.label}", make)
