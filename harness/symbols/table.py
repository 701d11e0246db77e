# SPDX-License-Identifier: GPL-2.0-only
"""Compact debug information of one function: lines and inlined calls."""

import bisect
from dataclasses import dataclass
from typing import Any

# A source line: the path of the file, and the number of the line.
Place = tuple[str, int]
_NOWHERE: Place = ("", 0)


@dataclass(frozen=True, slots=True)
class Scope:
    """A function, or a function that is inlined into another scope.

    ``parent`` is the index of the scope that contains it, or -1. ``call`` is the source line of
    the inlined call. ``ranges`` are pairs of start and end offsets in bytes from the start of the
    table's function. An inlined function may be outside that function, in a cold part.
    """

    name: str
    parent: int
    call: Place
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows and scopes of a function. ``offsets`` are the sorted start offsets of the rows, and
    ``places`` are their source lines."""

    offsets: tuple[int, ...]
    places: tuple[Place, ...]
    scopes: tuple[Scope, ...]

    def at(self, offset: int) -> list[tuple[str, Place]]:
        """Return the functions and source lines at an instruction, innermost first, as ``addr2line
        -i`` prints them. The last is the function of the table, with the name "" if the DWARF does
        not contain its name."""
        row = bisect.bisect_right(self.offsets, offset) - 1
        place = self.places[row] if row >= 0 else _NOWHERE
        number = self._innermost(offset)
        found = []
        while number >= 0 and self.scopes[number].parent >= 0:
            scope = self.scopes[number]
            found.append((scope.name, place))
            place, number = scope.call, scope.parent
        return [*found, (self.scopes[number].name if number >= 0 else "", place)]

    def _innermost(self, offset: int) -> int:
        """The index of the scope with the shortest range that contains ``offset``, or -1 if there
        is none. Of equal ranges the last one is used, because it is inlined into the others (BFD,
        lookup_address_in_function_table)."""
        best, length = -1, 0
        for number, scope in enumerate(self.scopes):
            for start, end in scope.ranges:
                if start <= offset < end and (best < 0 or end - start <= length):
                    best, length = number, end - start
        return best


def dump(tables: dict[str, Table]) -> dict[str, Any]:
    """Convert the tables to a JSON object that contains each file name once."""
    files: dict[str, int] = {}

    def number(place: Place) -> tuple[int, int]:
        return files.setdefault(place[0], len(files)), place[1]

    functions = {
        name: {
            "offsets": table.offsets,
            "places": [number(place) for place in table.places],
            "scopes": [
                (scope.name, scope.parent, number(scope.call), scope.ranges)
                for scope in table.scopes
            ],
        }
        for name, table in tables.items()
    }
    return {"files": list(files), "functions": functions}


def load(record: dict[str, Any]) -> dict[str, Table]:
    """Convert the result of ``dump`` to tables. Raises KeyError, TypeError, IndexError or
    ValueError if the data is invalid."""
    files = record["files"]

    def place(pair: list[int]) -> Place:
        return files[pair[0]], pair[1]

    return {
        name: Table(
            tuple(table["offsets"]),
            tuple(map(place, table["places"])),
            tuple(
                Scope(scope, parent, place(call), tuple((start, end) for start, end in ranges))
                for scope, parent, call, ranges in table["scopes"]
            ),
        )
        for name, table in record["functions"].items()
    }
