# SPDX-License-Identifier: GPL-2.0-only
"""Read the DWARF of a linked file with pyelftools, with the same results as addr2line (BFD).

DWARF 5, sections 2.17 (ranges), 3.3 (subroutines, inlined ones) and 6.2 (lines).
"""

import bisect
import posixpath
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.dwarf.ranges import BaseAddressEntry
from elftools.elf.elffile import ELFFile

from harness.errors import HostError
from harness.kernel import worktree
from harness.symbols.table import Place, Scope, Table

# Start and end address of a function.
Span = tuple[int, int]
Range = tuple[int, int]

_FUNCTIONS = ("DW_TAG_subprogram", "DW_TAG_inlined_subroutine", "DW_TAG_entry_point")
_ENTERED = (*_FUNCTIONS, "DW_TAG_lexical_block")

# The work tree of a kernel built by the harness: root/source and root/objects/VARIANT.
_WORK_TREE = re.compile(rf".*/{worktree.DIRECTORY}/[^/]+/(?:source|objects/[^/]+)/")


@dataclass(slots=True)
class _Unit:
    """A compile unit. ``lines`` are the sequences of its line table: sorted addresses, their
    source lines, and the end address."""

    ranges: list[Range]
    scopes: list[Scope] = field(default_factory=list)
    lines: list[tuple[list[int], list[Place], int]] = field(default_factory=list)


def tables(path: Path, functions: Mapping[str, Span]) -> dict[str, Table]:
    """Read the tables of the ``functions`` that the DWARF of the file describes. Raises
    HostError if the DWARF is invalid."""
    try:
        with path.open("rb") as file:
            return dict(_tables(ELFFile(file).get_dwarf_info(), functions))
    # pyelftools raises any of these for invalid bytes.
    except (DWARFError, ELFError, ConstructError, ArithmeticError, AssertionError) as error:
        raise _unreadable(path, error) from None
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> HostError:
    detail = f"{type(error).__name__}: {error}".rstrip(": ")
    return HostError(f"invalid debug information in {path.name} ({detail})")


def _tables(info: Any, functions: Mapping[str, Span]) -> Iterator[tuple[str, Table]]:
    for cu in info.iter_CUs():
        top = cu.get_top_DIE()
        ranges = _ranges(info, cu, top)
        own = {n: s for n, s in functions.items() if any(a <= s[0] < b for a, b in ranges)}
        if not own:
            continue
        unit = _Unit(ranges)
        name = _files(info, cu, top)
        _walk(info, cu, top, unit, name)
        unit.lines = list(_sequences(info, cu, name))
        for function, span in own.items():
            yield function, _table(unit, span)


def _table(unit: _Unit, span: Span) -> Table:
    start, end = span
    offsets: list[int] = []
    places: list[Place] = []
    for addresses, found, last in unit.lines:
        if not (addresses[0] <= start < last):
            continue
        first = bisect.bisect_right(addresses, start) - 1
        stop = bisect.bisect_left(addresses, end)
        offsets = [address - start for address in addresses[first:stop]]
        places = found[first:stop]
    return Table(tuple(offsets), tuple(places), _scopes(unit, span))


def _scopes(unit: _Unit, span: Span) -> tuple[Scope, ...]:
    """The scopes that contain code of the function, and the scopes that they are inlined into."""
    start, end = span
    selected: set[int] = set()
    for number, scope in enumerate(unit.scopes):
        if any(a < end and start < b for a, b in scope.ranges):
            while number >= 0 and number not in selected:
                selected.add(number)
                number = unit.scopes[number].parent  # noqa: PLW2901
    order = {number: index for index, number in enumerate(sorted(selected))}
    return tuple(
        Scope(
            scope.name,
            order.get(scope.parent, -1),
            scope.call,
            tuple((a - start, b - start) for a, b in scope.ranges),
        )
        for scope in (unit.scopes[number] for number in order)
    )


def _walk(info: Any, cu: Any, top: Any, unit: _Unit, name: Callable[[int], str]) -> None:
    """Add all functions to the unit in the order of the DIEs. Other DIEs, such as types, are
    skipped with their children."""
    waiting = [(each, -1) for each in _entered(top)]
    waiting.reverse()
    while waiting:
        die, parent = waiting.pop()
        if die.tag in _FUNCTIONS:
            inlined = die.tag == "DW_TAG_inlined_subroutine"
            call = (
                (name(_number(die, "DW_AT_call_file")), _number(die, "DW_AT_call_line"))
                if inlined
                else ("", 0)
            )
            ranges = tuple(_merged(_ranges(info, cu, die)))
            unit.scopes.append(Scope(_name(die), parent if inlined else -1, call, ranges))
            parent = len(unit.scopes) - 1
        waiting += [(each, parent) for each in reversed(_entered(die))]


def _entered(die: Any) -> list[Any]:
    return [each for each in die.iter_children() if each.tag in _ENTERED]


def _number(die: Any, attribute: str) -> int:
    found = die.attributes.get(attribute)
    return int(found.value) if found else 0


def _name(die: Any) -> str:
    """Return the name of a DIE, or of its abstract origin or specification."""
    for _ in range(8):
        found = die.attributes.get("DW_AT_name")
        if found:
            return str(found.value.decode(errors="replace"))
        origin = next(
            (n for n in ("DW_AT_abstract_origin", "DW_AT_specification") if n in die.attributes),
            None,
        )
        if origin is None:
            break
        die = die.get_DIE_from_attribute(origin)
    return ""


def _ranges(info: Any, cu: Any, die: Any) -> list[Range]:
    low, high = die.attributes.get("DW_AT_low_pc"), die.attributes.get("DW_AT_high_pc")
    if low and high:
        end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
        return [(low.value, end)]
    ranges = die.attributes.get("DW_AT_ranges")
    if not ranges:
        return []
    first = cu.get_top_DIE().attributes.get("DW_AT_low_pc")
    base = first.value if first else 0
    found = []
    for each in info.range_lists().get_range_list_at_offset(ranges.value, cu=cu):
        if isinstance(each, BaseAddressEntry):
            base = each.base_address
            continue
        start = 0 if getattr(each, "is_absolute", False) else base
        found.append((start + each.begin_offset, start + each.end_offset))
    return found


def _merged(ranges: list[Range]) -> list[Range]:
    """Drop empty ranges, and merge adjacent ranges (BFD, arange_add)."""
    found: list[Range] = []
    for low, high in ranges:
        if low == high:
            continue
        for index, (start, end) in enumerate(found):
            if low == end or high == start:
                found[index] = (start, high) if low == end else (low, end)
                break
        else:
            found.append((low, high))
    return found


def _files(info: Any, cu: Any, top: Any) -> Callable[[int], str]:
    """Return a function that maps the number of a file in the line table to its path."""
    program = info.line_program_for_CU(cu)
    comp_dir = top.attributes.get("DW_AT_comp_dir")
    directory = comp_dir.value.decode(errors="replace") if comp_dir else ""
    paths = _paths(program, directory) if program else []

    def name(number: int) -> str:
        return paths[number] if 0 <= number < len(paths) else ""

    return name


def _paths(program: Any, directory: str) -> list[str]:
    header = program.header
    directories = [each.decode(errors="replace") for each in header["include_directory"]]
    fifth = header["version"] >= 5
    if not fifth:
        directories.insert(0, "")
    found = [] if fifth else [""]
    for entry in header["file_entry"]:
        number = entry["dir_index"]
        below = directories[number] if number < len(directories) else ""
        found.append(_trimmed(directory, below, entry["name"].decode(errors="replace")))
    return found


def _trimmed(directory: str, below: str, name: str) -> str:
    """Return the path of a source file, relative to its common parent with ``directory``."""
    path = posixpath.normpath(posixpath.join(directory, below, name))
    if tree := _WORK_TREE.match(path):
        return path[tree.end() :]
    if not directory.startswith("/") or not path.startswith("/"):
        return path
    shared = posixpath.commonpath((path, posixpath.normpath(directory)))
    return posixpath.relpath(path, shared) if shared != "/" else path


def _sequences(
    info: Any, cu: Any, name: Callable[[int], str]
) -> Iterator[tuple[list[int], list[Place], int]]:
    """Yield the sequences of the line table. The last row for an address takes precedence (BFD,
    add_line_info)."""
    program = info.line_program_for_CU(cu)
    rows: dict[int, Place] = {}
    for entry in program.get_entries() if program else ():
        state = entry.state
        if state is None:
            continue
        if not state.end_sequence:
            rows[state.address] = (name(state.file), state.line)
            continue
        if rows:
            addresses = sorted(rows)
            yield addresses, [rows[each] for each in addresses], state.address
        rows = {}
