# SPDX-License-Identifier: GPL-2.0-only
"""Read kernel modules and vmlinux as ELF objects.

The objects are untrusted. Every offset and size is checked against the file before it is used, so
neither memory nor time depends on the values in their headers.
"""

import mmap
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from harness.errors import UsageError
from harness.host import paths

_MAX_BYTES = 2 << 30  # a vmlinux with debug information has 1 GB
_LARGE = 64 << 20
_MAX_SECTIONS = 4096
_MAX_NAME = 512  # KSYM_NAME_LEN
_MAX_TABLES = 1 << 20  # bytes of tables of struct of_device_id

_BUILD_ID = re.compile(rb"\x03\0\0\0GNU\0")
_NOBITS = "SHT_NOBITS"
_EXECUTED = 4  # SHF_EXECINSTR

# Elf64_Sym: name, info, other, section, value, size.
_SYMBOL = struct.Struct("<IBBHQQ")
_UNDEFINED = 0
_LOCAL, _WEAK = 0, 2
_OBJECT = 1

# __ksymtab entries are 12 bytes, three relative offsets
# (HAVE_ARCH_PREL32_RELOCATIONS, include/linux/export-internal.h).
_EXPORT = "__ksymtab_"
_EXPORT_SIZE = 12
_GPL_FLAG = 1  # KSYM_FLAG_GPL_ONLY of __kflagstab, which replaces __ksymtab_gpl

# struct of_device_id (include/linux/mod_devicetable.h): name[32], type[32],
# compatible[128] and a pointer.
_OF_ID_SIZE, _OF_COMPATIBLE = 200, slice(64, 192)
_COMPATIBLE = re.compile(rb"[a-zA-Z0-9][\w,.+-]*,[\w,.+-]+")


@dataclass(frozen=True, slots=True)
class Object:
    """A module or vmlinux.

    ``info`` has the lines of .modinfo as pairs. ``exports`` maps each exported symbol to whether
    it is for GPL modules only. ``imports`` maps each imported symbol to whether it may be missing
    (weak). ``compatibles`` are the strings in the tables of struct of_device_id.
    """

    path: Path
    info: tuple[tuple[str, str], ...]
    exports: dict[str, bool]
    imports: dict[str, bool]
    compatibles: tuple[str, ...]
    build_id: str

    def values(self, name: str) -> list[str]:
        """All values of a .modinfo field, in the order of the file."""
        return [value for key, value in self.info if key == name]

    def value(self, name: str) -> str:
        """The first value of a .modinfo field, or ""."""
        return next(iter(self.values(name)), "")


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an object. ``data`` is empty if the section is not in the file (SHT_NOBITS).
    ``code`` is whether it is executable."""

    name: str
    address: int
    data: memoryview
    link: int
    code: bool = False


# A NamedTuple, because a vmlinux has 50000 symbols, and tuples are created in a third of the
# time.
class Symbol(NamedTuple):
    """A symbol. ``section`` is the index of its section, or 0 if the file does not define it."""

    name: str
    binding: int
    kind: int
    section: int
    value: int
    size: int


def read(path: Path) -> Object:
    """Read an object. Raises UsageError if the file is damaged or is not a 64-bit arm64 object."""
    sections, symbols = sections_and_symbols(path)
    by_name = {section.name: section for section in sections}
    return Object(
        path,
        tuple(_modinfo(by_name)),
        dict(_exports(sections, symbols)),
        {each.name: each.binding == _WEAK for each in symbols if _is_import(each)},
        tuple(dict.fromkeys(_compatibles(sections, symbols))),
        build_id(sections),
    )


def sections_and_symbols(path: Path) -> tuple[list[Section], list[Symbol]]:
    """Read the sections and symbols of an object. Raises UsageError as ``read`` does."""
    if not path.is_file():
        reason = paths.not_a_file(path)
        raise UsageError(f"cannot read {path}: {reason}", "give a .ko file or a vmlinux")
    if path.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{path} is larger than 2 GiB", "give a .ko file or a vmlinux")
    try:
        data = _content(path)
        sections = list(_sections(path, data))
        return sections, list(_symbols(sections))
    # These are all the exceptions that pyelftools and struct raise for malicious files.
    except (ELFError, ConstructError, ArithmeticError, AssertionError, AttributeError) as error:
        raise _broken(path, error) from None
    except (LookupError, TypeError, ValueError, struct.error, MemoryError, OSError) as error:
        raise _broken(path, error) from None


def _content(path: Path) -> memoryview:
    """The content of a file. A large file is mapped, because most of its debug information is not
    read."""
    if path.stat().st_size < _LARGE:
        return memoryview(path.read_bytes())
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def _broken(path: Path, error: BaseException) -> UsageError:
    reason = str(error) or "invalid ELF structure"
    return UsageError(f"{path} is a damaged kernel object ({reason})", "build it again")


def _sections(path: Path, data: memoryview) -> Iterator[Section]:
    """Yield the sections as pyelftools reads them, each checked against the size of the file."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        header = elf.header
        if elf.elfclass != 64 or not elf.little_endian or header["e_machine"] != "EM_AARCH64":
            machine = str(header["e_machine"]).removeprefix("EM_")
            raise UsageError(
                f"{path} is for {machine}, not for arm64", "give an arm64 module or vmlinux"
            )
        count = elf.num_sections()
        end = header["e_shoff"] + count * header["e_shentsize"]
        if not 0 < count <= _MAX_SECTIONS or end > len(data):
            raise ValueError(f"invalid section header table: {count} headers in {len(data)} bytes")
        _check_names(data, header)
        for number in range(count):
            section = elf.get_section(number)
            start, size = section["sh_offset"], section["sh_size"]
            if section["sh_type"] == _NOBITS:
                start = size = 0  # the offset has no meaning for a section that is not in the file
            if start + size > len(data):
                raise ValueError(f"section {number} ends beyond the file")
            yield Section(
                section.name,
                section["sh_addr"],
                data[start : start + size],
                section["sh_link"],
                bool(section["sh_flags"] & _EXECUTED),
            )


def _check_names(data: memoryview, header: Mapping[str, int]) -> None:
    """Raise ValueError if a name in the table of section names is too long: pyelftools reads each
    name up to its end."""
    place = header["e_shoff"] + header["e_shstrndx"] * header["e_shentsize"]
    start, size = struct.unpack_from("<QQ", data, place + 24)  # sh_offset, sh_size
    if any(len(name) > _MAX_NAME for name in bytes(data[start : start + size]).split(b"\0")):
        raise ValueError("a section's name is too long")


def _symbols(sections: list[Section]) -> Iterator[Symbol]:
    table = next((section for section in sections if section.name == ".symtab"), None)
    if table is None:
        return
    names = bytes(sections[table.link].data)
    whole = len(table.data) - len(table.data) % _SYMBOL.size
    for name, info, _, section, value, size in _SYMBOL.iter_unpack(table.data[:whole]):
        end = names.index(b"\0", name, name + _MAX_NAME)
        text = names[name:end].decode(errors="replace")
        yield Symbol(text, info >> 4, info & 15, section, value, size)


def _is_import(symbol: Symbol) -> bool:
    return symbol.section == _UNDEFINED and symbol.binding != _LOCAL and bool(symbol.name)


def _modinfo(sections: dict[str, Section]) -> Iterator[tuple[str, str]]:
    section = sections.get(".modinfo")
    for line in bytes(section.data).split(b"\0") if section else ():
        name, equal, value = line.decode(errors="replace").partition("=")
        if equal:
            yield name, value


def _exports(sections: list[Section], symbols: list[Symbol]) -> Iterator[tuple[str, bool]]:
    """Yield the name of each exported symbol, and whether the symbol is GPL-only. A GPL-only symbol
    is in the section __ksymtab_gpl (older kernels, such as 6.12) or has a flag in __kflagstab
    (newer kernels, such as 7.2)."""
    flags = next((each.data for each in sections if each.name == "__kflagstab"), None)
    for symbol in symbols:
        if not symbol.name.startswith(_EXPORT) or symbol.section >= len(sections):
            continue
        section = sections[symbol.section]
        if section.name not in ("__ksymtab", "__ksymtab_gpl"):
            continue
        gpl = section.name == "__ksymtab_gpl"
        if flags is not None:
            number = (symbol.value - section.address) // _EXPORT_SIZE
            gpl = 0 <= number < len(flags) and bool(flags[number] & _GPL_FLAG)
        yield symbol.name.removeprefix(_EXPORT), gpl


def _compatibles(sections: list[Section], symbols: list[Symbol]) -> Iterator[str]:
    """Yield the compatible strings of all tables of struct of_device_id. A table is an object in
    which each entry has a compatible string, except the last, which is empty."""
    places = {(each.section, each.value): each for each in symbols if each.kind == _OBJECT}
    budget = _MAX_TABLES
    for symbol in places.values():
        if symbol.size < 2 * _OF_ID_SIZE or symbol.size % _OF_ID_SIZE or symbol.size > budget:
            continue
        if symbol.section >= len(sections):
            continue
        budget -= symbol.size
        data = bytes(sections[symbol.section].data[symbol.value : symbol.value + symbol.size])
        entries = [data[at : at + _OF_ID_SIZE] for at in range(0, len(data), _OF_ID_SIZE)]
        names = [entry[_OF_COMPATIBLE].rstrip(b"\0") for entry in entries]
        if names[-1:] == [b""] and all(_COMPATIBLE.fullmatch(name) for name in names[:-1]):
            yield from (name.decode() for name in names[:-1])


def build_id(sections: Iterable[Section]) -> str:
    """The build ID in hexadecimal, or "" if there is none. It is in the GNU note of type 3. A
    vmlinux has all its notes in one section."""
    for section in sections:
        if section.name in (".note.gnu.build-id", ".notes") and (
            match := _BUILD_ID.search(bytes(section.data))
        ):
            return bytes(section.data[match.end() : match.end() + 20]).hex()
    return ""
