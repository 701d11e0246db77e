# SPDX-License-Identifier: GPL-2.0-only
"""What DWARF says of one function, small enough to be kept: lines and inlined calls."""

import bisect
from dataclasses import dataclass
from typing import Any

Place = tuple[str, int]
_NOWHERE: Place = ("", 0)


@dataclass(frozen=True, slots=True)
class Scope:
    """A function, or one inlined into the scope of index ``parent`` (-1 for none) by the
    call at ``call``. ``ranges`` are from and to, in bytes from the start of the function
    that the table is of; what is inlined may stand outside of it, in a cold part."""

    name: str
    parent: int
    call: Place
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """``offsets`` are where rows begin, in order, with the ``places`` of each."""

    offsets: tuple[int, ...]
    places: tuple[Place, ...]
    scopes: tuple[Scope, ...]

    def at(self, offset: int) -> list[tuple[str, Place]]:
        """Functions and places of one instruction, the innermost first, as ``addr2line -i``
        has them; the last is the function itself, named "" where DWARF has none."""
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
        """The scope whose range is the shortest: of those of one length, the last is the
        one that is inlined into the others (BFD, lookup_address_in_function_table)."""
        best, length = -1, 0
        for number, scope in enumerate(self.scopes):
            for start, end in scope.ranges:
                if start <= offset < end and (best < 0 or end - start <= length):
                    best, length = number, end - start
        return best


def dump(tables: dict[str, Table]) -> dict[str, Any]:
    """As JSON: file names stand apart, once."""
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
    """What ``dump`` made. Raises KeyError, TypeError, IndexError or ValueError for
    anything else."""
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
