# SPDX-License-Identifier: GPL-2.0-only
"""Compile objects again with debug information, on demand.

Kernels are built without -g, which doubles the build time. A trace needs only a few objects. Each
of them is compiled to a different file with kbuild's command and ``-g``, and its debug information
is used only if its code is identical to the code in the kernel.
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
    """An object that contains a function with a requested name. ``name`` is the path of the object
    relative to the object directory."""

    name: str
    path: Path
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class ObjectTables:
    """The ``tables`` of an image's functions by key (``key``), read from the object ``name``.
    ``file`` is the linked object, or None for vmlinux itself."""

    name: str
    tables: dict[str, Table]
    file: Path | None


def key(function: Function) -> str:
    """Return a key for the function that is unique in its image, unlike its name."""
    return f"{function.section}:{function.start:x}:{function.name}"


def candidates(objects: Path, names: Iterable[str], *, module: bool) -> dict[str, list[Candidate]]:
    """Find the compiled objects that contain each name. ``module`` selects objects of modules,
    otherwise objects of vmlinux are searched."""
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
    """Return the objects from which the function is most likely: objects with the same code, or
    otherwise with the same FILE symbol, or otherwise all objects with a function of its name."""
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
    """Compile the objects again, and yield for each object the tables of the image's functions or
    the reason why there are none, in the order of ``requested``."""

    def attempt(number: int, candidate: Candidate) -> ObjectTables | str:
        return _attempt(tree, target, candidate, requested[candidate], scratch / f"{number}")

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(attempt, range(len(requested)), requested)


def _attempt(
    tree: BuildTree, target: Image, candidate: Candidate, requested: Sequence[Function], into: Path
) -> ObjectTables | str:
    """Compile an object with -g. If its code differs from the image, let kbuild update the object
    and compile it again."""
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
    """Read the tables of the functions that have the same code in the object and the image."""
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
    """Return the function of the image that has the same code as a function of an object, or None
    if it is not unique. Of several functions with its name, it is local to the same file."""
    named = target.functions.get(function.name, [])
    if len(named) > 1:
        named = [each for each in named if each.unit == function.unit]
    same = [each for each in named if image.same_code(compiled_image, function, target, each)]
    return same[0] if len(same) == 1 else None


def link(path: Path) -> Path:
    """Link an object to relocate its DWARF and to assign distinct addresses to its sections,
    which all begin at 0 in an object. External symbols stay undefined. Raises ProgramFailed if
    the linker fails."""
    linked = path.with_suffix(".elf")
    options = ("--noinhibit-exec", "--unresolved-symbols=ignore-all", "-o", linked.name)
    program.run([_LINKER, *options, path.name], cwd=path.parent)
    return linked


def of_linked(target: Image, functions: Sequence[Function]) -> dict[str, Table]:
    """Read the tables of functions from a vmlinux with debug information."""
    spans = {key(each): (each.start, each.start + each.size) for each in functions}
    return dwarf.tables(target.path, spans)


def of_module(target: Image, scratch: Path) -> ObjectTables:
    """Read the tables of all functions from a module with debug information."""
    copied = scratch / "module.o"
    shutil.copy(target.path, copied)
    return _tables_of(target.path.name, target, copied)
