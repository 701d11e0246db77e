# SPDX-License-Identifier: GPL-2.0-only
"""The functions of vmlinux, a module or an object, and their code."""

import bisect
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.kernel import elf
from harness.kernel.elf import Section, Symbol

_FUNCTION, _NO_TYPE, _FILE = 2, 0, 4
_LOCAL = 0

# Code symbols that scripts/mksysmap excludes from kallsyms: mapping symbols of the ABI, compiler
# labels, and symbols from the linker and objcopy.
_NOT_IN_KALLSYMS = ("$", ".L", "__efistub_", "__kvm_nvhe_", "__pi_.", "__pi_$", "__AArch64")

# ELF for the Arm 64-bit Architecture: Elf64_Rela, and the relocation types with eight bytes.
_RELOCATION = struct.Struct("<QQq")
_WIDE = frozenset((257, 260))  # R_AARCH64_ABS64, R_AARCH64_PREL64
_NARROW_BYTES, _WIDE_BYTES = 4, 8


@dataclass(frozen=True, slots=True)
class Function:
    """A function of an image.

    ``start`` is an address in vmlinux, but an offset into ``section`` in an object that is not
    linked. ``size`` is in bytes. ``room`` is the distance to the next symbol, which kallsyms
    prints as the size, or None for the last function of a section. ``unit`` is the FILE symbol
    before a local function in the symbol table (the name of its source file without the
    directory), or "" for a global function.
    """

    name: str
    section: int
    start: int
    size: int
    room: int | None
    unit: str

    def has_printed_size(self, size: int) -> bool:
        """Whether kallsyms can print this size: kallsyms_lookup_size_offset() computes it from
        the next symbol, and for the last function of a section from what the loader places
        after it."""
        return size == self.room if self.room is not None else size >= self.size


class Functions(Mapping[str, list[Function]]):
    """The functions of an image by name. They are created on first use, because a trace needs
    only twenty of the fifty thousand functions in a vmlinux."""

    def __init__(self, sections: list[Section], symbols: list[Symbol]) -> None:
        starts: dict[int, set[int]] = {n: set() for n, each in enumerate(sections) if each.code}
        self._named: dict[str, list[tuple[Symbol, str]]] = defaultdict(list)
        unit = ""
        for symbol in symbols:
            if symbol.kind == _FILE:
                unit = symbol.name
            elif symbol.section in starts and _in_kallsyms(symbol.name):
                starts[symbol.section].add(symbol.value)
                if symbol.kind in (_FUNCTION, _NO_TYPE):
                    self._named[symbol.name].append((symbol, unit))
        # The sorted addresses of the symbols in each section with code.
        self._starts = {number: sorted(values) for number, values in starts.items()}

    def __getitem__(self, name: str) -> list[Function]:
        if name not in self._named:
            raise KeyError(name)
        return [self._function(symbol, unit) for symbol, unit in self._named[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def _function(self, symbol: Symbol, unit: str) -> Function:
        starts = self._starts[symbol.section]
        place = bisect.bisect_right(starts, symbol.value)
        room = starts[place] - symbol.value if place < len(starts) else None
        local = unit if symbol.binding == _LOCAL else ""
        return Function(symbol.name, symbol.section, symbol.value, symbol.size, room, local)


def _in_kallsyms(name: str) -> bool:
    return bool(name) and not name.startswith(_NOT_IN_KALLSYMS) and not name.endswith("_veneer")


@dataclass(frozen=True, slots=True)
class Image:
    """A vmlinux, a module or an object: its sections, its functions, and its build ID."""

    path: Path
    sections: list[Section]
    functions: Functions
    build_id: str

    def code(self, function: Function) -> bytes:
        """The bytes of the function in the file."""
        section = self.sections[function.section]
        start = function.start - section.address
        return bytes(section.data[start : start + function.size])

    def has(self, section: str) -> bool:
        return any(each.name == section for each in self.sections)


def read(path: Path) -> Image:
    """Read the sections and functions of a file. Raises UsageError unless it is a complete
    64-bit arm64 object."""
    sections, symbols = elf.sections_and_symbols(path)
    return Image(path, sections, Functions(sections, symbols), elf.build_id(sections))


def preceding(path: Path, name: str) -> list[str]:
    """The functions that end where the functions called ``name`` start; none without the file."""
    if not path.is_file():
        return []
    _, symbols = elf.sections_and_symbols(path)
    found = []
    for target in (each for each in symbols if each.name == name):
        before = [
            each
            for each in symbols
            if each.section == target.section
            and each.value < target.value
            and each.kind in (_FUNCTION, _NO_TYPE)
            and _in_kallsyms(each.name)
        ]
        last = max((each.value for each in before), default=None)
        found += [each.name for each in before if each.value == last]
    return found


def same_code(own: Image, function: Function, other: Image, theirs: Function) -> bool:
    """Whether a function of an unlinked object and a function of another image have the same code,
    except for the bytes that the linker relocates."""
    code, linked = bytearray(own.code(function)), bytearray(other.code(theirs))
    if not code or len(code) != len(linked):
        return False
    for place, width in _relocations(own, function):
        for each in (code, linked):
            each[place : place + width] = bytes(width)
    return code == linked


def _relocations(image: Image, function: Function) -> list[tuple[int, int]]:
    """The offset and the width in bytes of each relocation in the function."""
    name = f".rela{image.sections[function.section].name}"
    table = next((each.data for each in image.sections if each.name == name), memoryview(b""))
    whole = table[: len(table) - len(table) % _RELOCATION.size]
    return [
        (offset - function.start, _WIDE_BYTES if info & 0xFFFFFFFF in _WIDE else _NARROW_BYTES)
        for offset, info, _ in _RELOCATION.iter_unpack(whole)
        if function.start <= offset < function.start + function.size
    ]


def follows_call(image: Image, function: Function, offset: int) -> bool:
    """Whether the instruction before ``offset`` is a call: BL, BLR, or BLRAA and its variants (Arm
    Architecture Reference Manual, C4.1). This is true of every return address."""
    section = image.sections[function.section]
    end = function.start - section.address + offset
    if offset < 4 or end > len(section.data):
        return False
    word = int.from_bytes(section.data[end - 4 : end], "little")
    return word & 0xFC000000 == 0x94000000 or word & 0xFEFFF000 == 0xD63F0000
