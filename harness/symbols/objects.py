# SPDX-License-Identifier: GPL-2.0-only
"""Debug information on demand: the objects that functions stand in, compiled once more.

Kernels are built without -g, which takes twice the time. What a trace needs is a few
objects: each is compiled by kbuild's own command with ``-g`` to another place, and
counts only when its code is the one that the kernel runs.
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

# Two makes in one work tree are in each other's way.
_REFRESHING = Lock()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that has functions of a wanted name; ``name`` is its path in the objects."""

    name: str
    path: Path
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Known:
    """The ``tables`` of an image's functions by their keys, from the object ``name``;
    ``file`` is the object, linked, None where it is vmlinux itself."""

    name: str
    tables: dict[str, Table]
    file: Path | None


def key(function: Function) -> str:
    """Names one function of an image: several may have its name."""
    return f"{function.section}:{function.start:x}:{function.name}"


def candidates(objects: Path, names: Iterable[str], *, module: bool) -> dict[str, list[Candidate]]:
    """The compiled objects whose names of symbols include each of ``names``."""
    wanted = {name: name.encode() + b"\0" for name in names}
    found: dict[str, list[Candidate]] = {name: [] for name in wanted}
    for path in sorted(objects.rglob("*.o")):
        data = path.read_bytes()
        here = [name for name, text in wanted.items() if text in data]
        made = recipe.read(objects, path) if here else None
        if made is None or made.of_module != module:
            continue
        for name in here:
            found[name].append(Candidate(str(path.relative_to(objects)), path, made))
    return found


def likely(function: Function, of: Image, among: Sequence[Candidate]) -> list[Candidate]:
    """The objects that the function is from: those with the same code now, and of these
    with the same file's name in the symbol table; the others where none has."""
    scored: dict[tuple[bool, bool], list[Candidate]] = {}
    for each in among:
        try:
            mine = image.read(each.path)
        except UsageError:
            continue
        for theirs in mine.functions.get(function.name, ()):
            same = image.same_code(mine, theirs, of, function)
            named = bool(function.unit) and theirs.unit == function.unit
            scored.setdefault((same, named), []).append(each)
    return scored[max(scored)] if scored else []


def compiled(
    tree: BuildTree, of: Image, wanted: Mapping[Candidate, Sequence[Function]], scratch: Path
) -> Iterator[Known | str]:
    """What each object says of the image's functions, or why it says nothing, in order."""

    def attempt(number: int, candidate: Candidate) -> Known | str:
        return _attempt(tree, of, candidate, wanted[candidate], scratch / f"{number}")

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(attempt, range(len(wanted)), wanted)


def _attempt(
    tree: BuildTree, of: Image, candidate: Candidate, wanted: Sequence[Function], into: Path
) -> Known | str:
    """Compiled with -g; where its code is not the image's, once more after kbuild has
    brought it up to date."""
    into.mkdir()
    try:
        found = _known(candidate.name, of, _compile(candidate, into / "first.o", tree))
        if found.tables.keys() >= set(map(key, wanted)):
            return found
        with _REFRESHING:
            tree.refresh(candidate.name)
        made = recipe.read(tree.tree.objects, candidate.path)
        if made is None:
            return found
        again = Candidate(candidate.name, candidate.path, made)
        return _known(candidate.name, of, _compile(again, into / "again.o", tree))
    except HarnessError as error:
        return f"{candidate.name} cannot be compiled with -g: {error.message}"


def _compile(candidate: Candidate, into: Path, tree: BuildTree) -> Path:
    command = candidate.recipe.with_debug_information(into)
    program.run(command, cwd=candidate.recipe.directory, env=tree.kbuild.environment())
    return into


def _known(name: str, of: Image, path: Path) -> Known:
    """Of the functions that have the code that the image has."""
    mine = image.read(path)
    linked = link(path)
    places = image.read(linked).functions
    spans: dict[str, dwarf.Span] = {}
    for function in (each for named in mine.functions.values() for each in named):
        here = [each for each in places.get(function.name, ()) if each.size == function.size]
        theirs = _counterpart(mine, function, of)
        if theirs and len(here) == 1:
            spans[key(theirs)] = (here[0].start, here[0].start + here[0].size)
    return Known(name, dwarf.tables(linked, spans), linked)


def _counterpart(mine: Image, function: Function, of: Image) -> Function | None:
    """The image's own of an object's function: the only one of that name, or of several
    the one that is local to the same file; with the same code."""
    named = of.functions.get(function.name, [])
    if len(named) > 1:
        named = [each for each in named if each.unit == function.unit]
    same = [each for each in named if image.same_code(mine, function, of, each)]
    return same[0] if len(same) == 1 else None


def link(path: Path) -> Path:
    """The object with its sections at addresses of their own and its DWARF relocated: in an
    object all begin at 0. Symbols of others stay undefined. Raises ProgramFailed."""
    linked = path.with_suffix(".elf")
    options = ("--noinhibit-exec", "--unresolved-symbols=ignore-all", "-o", linked.name)
    program.run([_LINKER, *options, path.name], cwd=path.parent)
    return linked


def of_linked(of: Image, functions: Sequence[Function]) -> dict[str, Table]:
    """The tables of functions of a vmlinux that has debug information."""
    spans = {key(each): (each.start, each.start + each.size) for each in functions}
    return dwarf.tables(of.path, spans)


def of_module(of: Image, scratch: Path) -> Known:
    """What a module's own debug information says of its functions."""
    copied = scratch / "module.o"
    shutil.copy(of.path, copied)
    return _known(of.path.name, of, copied)
