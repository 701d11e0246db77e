# SPDX-License-Identifier: GPL-2.0-only
"""Debug information on demand: recompile the objects that contain the functions.

Kernels are built without -g, which doubles the build time. A trace needs few objects: each is
compiled with the command of kbuild and ``-g`` to another file, and is used only if its code is
identical to that of the kernel.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from harness.errors import HarnessError, UsageError
from harness.host import program, tools
from harness.kernel.build import BuildTree
from harness.symbols import dwarf, image, recipe
from harness.symbols.image import Function, Image
from harness.symbols.recipe import Recipe
from harness.symbols.table import Table

_LINKER = tools.CROSS + "ld"

# Two makes cannot run in one work tree at the same time.
_REFRESHING = Lock()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that contains a function of a requested name; ``name`` is its path in the
    object directory."""

    name: str
    path: Path
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class ObjectTables:
    """The ``tables`` of functions of an image by key, from the object ``name``; ``file`` is
    the linked object, None for vmlinux itself."""

    name: str
    tables: dict[str, Table]
    file: Path | None


def key(function: Function) -> str:
    """A unique key for one function of an image; several functions can have its name."""
    return f"{function.section}:{function.start:x}:{function.name}"


def candidates(objects: Path, names: Iterable[str], *, module: bool) -> dict[str, list[Candidate]]:
    """For each name the compiled objects that contain it in a string table."""
    requested = {name: name.encode() + b"\0" for name in names}
    found: dict[str, list[Candidate]] = {name: [] for name in requested}
    for path in sorted(objects.rglob("*.o")):
        data = path.read_bytes()
        here = [name for name, text in requested.items() if text in data]
        made = recipe.read(objects, path) if here else None
        if made is None or made.of_module != module:
            continue
        for name in here:
            found[name].append(Candidate(str(path.relative_to(objects)), path, made))
    return found


def likeliest(function: Function, target: Image, objects: Sequence[Candidate]) -> list[Candidate]:
    """The objects that the function is most likely from: with the same code, then with the
    same FILE symbol; all if no object matches."""
    ranked: dict[tuple[bool, bool], list[Candidate]] = {}
    for each in objects:
        try:
            compiled_image = image.read(each.path)
        except UsageError:
            continue
        for counterpart in compiled_image.functions.get(function.name, ()):
            same = image.same_code(compiled_image, counterpart, target, function)
            named = bool(function.unit) and counterpart.unit == function.unit
            ranked.setdefault((same, named), []).append(each)
    return ranked[max(ranked)] if ranked else []


def compiled(
    tree: BuildTree, target: Image, requested: Mapping[Candidate, Sequence[Function]], scratch: Path
) -> Iterator[ObjectTables | str]:
    """The tables from each object for functions of the image, or the reason for having none,
    in order."""

    def attempt(number: int, candidate: Candidate) -> ObjectTables | str:
        return _attempt(tree, target, candidate, requested[candidate], scratch / f"{number}")

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(attempt, range(len(requested)), requested)


def _attempt(
    tree: BuildTree, target: Image, candidate: Candidate, requested: Sequence[Function], into: Path
) -> ObjectTables | str:
    """Compile one object with -g. If its code differs from the image, compile it again after
    kbuild has updated it."""
    into.mkdir()
    try:
        found = _tables_of(candidate.name, target, _compile(candidate, into / "first.o", tree))
        if found.tables.keys() >= set(map(key, requested)):
            return found
        with _REFRESHING:
            tree.refresh(candidate.name)
        made = recipe.read(tree.tree.objects, candidate.path)
        if made is None:
            return found
        again = Candidate(candidate.name, candidate.path, made)
        return _tables_of(candidate.name, target, _compile(again, into / "again.o", tree))
    except HarnessError as error:
        return f"cannot compile {candidate.name} with -g: {error.message}"


def _compile(candidate: Candidate, into: Path, tree: BuildTree) -> Path:
    command = candidate.recipe.with_debug_information(into)
    program.run(command, cwd=candidate.recipe.directory, env=tree.kbuild.environment())
    return into


def _tables_of(name: str, target: Image, path: Path) -> ObjectTables:
    """The tables of the functions with the same code as in the image."""
    compiled_image = image.read(path)
    linked = link(path)
    places = image.read(linked).functions
    spans: dict[str, dwarf.Span] = {}
    for function in (each for named in compiled_image.functions.values() for each in named):
        here = [each for each in places.get(function.name, ()) if each.size == function.size]
        counterpart = _counterpart(compiled_image, function, target)
        if counterpart and len(here) == 1:
            spans[key(counterpart)] = (here[0].start, here[0].start + here[0].size)
    return ObjectTables(name, dwarf.tables(linked, spans), linked)


def _counterpart(compiled_image: Image, function: Function, target: Image) -> Function | None:
    """The function of the image with the same code as a function of an object: the only one
    of that name, or the one that is local to the same file."""
    named = target.functions.get(function.name, [])
    if len(named) > 1:
        named = [each for each in named if each.unit == function.unit]
    same = [each for each in named if image.same_code(compiled_image, function, target, each)]
    return same[0] if len(same) == 1 else None


def link(path: Path) -> Path:
    """Link an object to relocate its DWARF and to assign distinct addresses to its sections,
    which all begin at 0 in an object. External symbols stay undefined. Raises
    ProgramFailed."""
    linked = path.with_suffix(".elf")
    options = ("--noinhibit-exec", "--unresolved-symbols=ignore-all", "-o", linked.name)
    program.run([_LINKER, *options, path.name], cwd=path.parent)
    return linked


def of_linked(target: Image, functions: Sequence[Function]) -> dict[str, Table]:
    """The tables of functions of a vmlinux with debug information."""
    spans = {key(each): (each.start, each.start + each.size) for each in functions}
    return dwarf.tables(target.path, spans)


def of_module(target: Image, scratch: Path) -> ObjectTables:
    """The tables from the debug information of a module."""
    copied = scratch / "module.o"
    shutil.copy(target.path, copied)
    return _tables_of(target.path.name, target, copied)
