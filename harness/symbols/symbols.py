# SPDX-License-Identifier: GPL-2.0-only
"""Translate function+offset/size of a kernel to source lines."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import HarnessError, UsageError
from harness.host import cache, paths, progress
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.symbols import image, objects, store
from harness.symbols.image import Function, Image
from harness.symbols.objects import Candidate, ObjectTables
from harness.symbols.table import Place, Table

VMLINUX = ""
_HINT = "build the kernel with --variant debuginfo"

# Paths of vmlinux below the directory of a prebuilt kernel. The last two are from Debian's -dbg
# package.
_PREBUILT = ("vmlinux", "usr/lib/debug/boot/vmlinux-{}", "usr/lib/debug/lib/modules/{}/vmlinux")


@dataclass(frozen=True, slots=True)
class Query:
    """A frame of a trace. ``exact``: its address is the address of an instruction. Otherwise it is
    a return address, and the answer is the source line of the call before it."""

    function: str
    offset: int
    size: int
    module: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The functions at an address with their source lines, innermost first and the function of the
    frame last; or the ``reason`` why there are none."""

    places: tuple[tuple[str, Place], ...] = ()
    reason: str = ""


@dataclass(slots=True)
class Symbols:
    """The symbols of a kernel. Debug information is compiled from ``spec`` on first use. A build
    in the same work tree can take minutes: without ``wait``, answers that require the tree fail
    while the build runs."""

    kernel: Kernel
    spec: KernelSpec | None
    wait: bool
    _images: dict[str, Image | str] = field(default_factory=dict)
    _tables: dict[str, dict[str, Table]] = field(default_factory=lambda: defaultdict(dict))
    _lacking: dict[tuple[str, str], str] = field(default_factory=dict)
    _entries: list[store.Entry] | None = None

    def answers(self, queries: Iterable[Query]) -> dict[Query, Answer]:
        """Answer all queries. Each required object is compiled only once."""
        found = {each: self._functions(each) for each in dict.fromkeys(queries)}
        required: dict[str, list[Function]] = defaultdict(list)
        for query, functions in found.items():
            if not isinstance(functions, str):
                required[query.module] += functions
        for module, functions in required.items():
            self._load(module, functions)
        return {query: self._answer(query, functions) for query, functions in found.items()}

    def image(self, module: str) -> Image | str:
        """Return the image of vmlinux ("") or of a module, or the reason if there is none."""
        if module not in self._images:
            self._images[module] = self._read(module)
        return self._images[module]

    def _read(self, module: str) -> Image | str:
        path = self._path(module)
        if path is None:
            return f"the kernel has no {f'module {module}' if module else 'vmlinux'}"
        try:
            return image.read(path)
        except UsageError as error:
            return error.message

    def _path(self, module: str) -> Path | None:
        if module:
            modules = (*self.kernel.modules.rglob("*.ko"), *self.kernel.guest_modules)
            return next((each for each in modules if each.stem.replace("-", "_") == module), None)
        path = self.kernel.directory / "vmlinux"
        return path if path.is_file() else _prebuilt(self.kernel, self.spec)

    def _functions(self, query: Query) -> list[Function] | str:
        """Return the functions that may contain the frame, or the reason if there are none."""
        binary = self.image(query.module)
        if isinstance(binary, str):
            return binary
        named = binary.functions.get(query.function, [])
        if not named:
            return f"the kernel has no function {query.function}"
        matching = [each for each in named if each.has_printed_size(query.size)]
        if not matching:
            return f"{query.function} does not have size {query.size:#x} in this kernel"
        if query.exact:
            return matching
        matching = [each for each in matching if image.follows_call(binary, each, query.offset)]
        return (
            matching or f"{query.function}+{query.offset:#x} does not follow a call in this kernel"
        )

    def _answer(self, query: Query, functions: list[Function] | str) -> Answer:
        if isinstance(functions, str):
            return Answer(reason=functions)
        offset = query.offset if query.exact else query.offset - 1
        found: set[tuple[tuple[str, Place], ...]] = set()
        for each in functions:
            name = objects.key(each)
            table = self._tables[query.module].get(name)
            if table is None:
                return Answer(reason=self._lacking[query.module, name])
            found.add(tuple(table.at(offset)))
        if len(found) > 1:
            return Answer(
                reason=f"{len(functions)} functions with the name {query.function} have this size"
            )
        places = next(iter(found))
        if not all(place[0] and place[1] for _, place in places):
            return Answer(
                reason=f"{query.function}+{query.offset:#x} has no line in the debug information"
            )
        return Answer((*places[:-1], (query.function, places[-1][1])))

    def _load(self, module: str, functions: Sequence[Function]) -> None:
        """Load or make the tables of the functions. Record the reason for each missing table."""
        self._from_cache(module, functions)
        missing = self._missing(module, functions)
        if not missing:
            return
        binary = self.image(module)
        assert not isinstance(binary, str)
        reasons: dict[str, str] = {}
        try:
            reasons = self._make(module, binary, missing)
            reason = f"the work tree contains no object with {{}}; {_HINT}"
        except HarnessError as error:
            reason = f"{error.message.replace('{', '{{').replace('}', '}}')}; {_HINT}"
        except OSError as error:
            reason = f"cannot make debug information: {error.strerror}; {_HINT}"
        for each in self._missing(module, functions):
            name = objects.key(each)
            self._lacking[module, name] = reasons.get(name, reason.format(each.name))

    def _missing(self, module: str, functions: Sequence[Function]) -> list[Function]:
        def is_missing(name: str) -> bool:
            return name not in self._tables[module] and (module, name) not in self._lacking

        return [each for each in dict.fromkeys(functions) if is_missing(objects.key(each))]

    def _from_cache(self, module: str, functions: Sequence[Function]) -> None:
        if self._entries is None:
            self._entries = list(store.entries(self.kernel))
        for entry in self._entries:
            required = {objects.key(each) for each in self._missing(module, functions)}
            if entry.image == module and required & entry.functions:
                try:
                    self._tables[module] |= entry.tables()
                except HarnessError:
                    continue  # made again

    def _make(self, module: str, binary: Image, missing: Sequence[Function]) -> dict[str, str]:
        """Make and store tables. Returns the reasons for the tables that cannot be made."""
        if binary.has(".debug_info"):
            title = f"reading the debug information of {module or 'vmlinux'}"
            with progress.phase("own debug information", title):
                self._read_own(module, binary, missing)
            return {}
        if self.spec is None or self.spec.kind == "prebuilt":
            raise UsageError(f"{self.kernel.label} has no debug information")
        with build.open_build_tree(self.spec, wait=self.wait) as tree, cache.scratch() as scratch:
            if tree.key != self.kernel.key:
                raise UsageError(
                    f"the source or config of {self.kernel.label} has changed since its build"
                )
            required, reasons = _select_objects(
                tree.tree.objects, binary, missing, module=bool(module)
            )
            title = f"debug information of {module or 'vmlinux'}"
            with progress.phase("debug information", title) as phase:
                phase.expect(len(required))
                made = objects.compiled(tree, binary, required, scratch)
                for functions, made_tables in zip(required.values(), made, strict=True):
                    phase.step()
                    if isinstance(made_tables, str):
                        reasons |= dict.fromkeys(map(objects.key, functions), made_tables)
                    else:
                        self._store(module, made_tables)
        return reasons

    def _read_own(self, module: str, binary: Image, missing: Sequence[Function]) -> None:
        """Read the tables from debug information in the image, and store them."""
        if module:
            with cache.scratch() as scratch:
                self._store(module, objects.of_module(binary, scratch))
            return
        tables = objects.of_linked(binary, missing)
        self._store(module, ObjectTables(f"vmlinux {cache.digest(*tables)}", tables, None))

    def _store(self, module: str, made_tables: ObjectTables) -> None:
        store.keep(self.kernel, module, made_tables.name, made_tables.tables, made_tables.file)
        self._tables[module] |= made_tables.tables


def _select_objects(
    tree: Path, binary: Image, missing: Sequence[Function], *, module: bool
) -> tuple[dict[Candidate, list[Function]], dict[str, str]]:
    """Return the objects to compile, each with the functions required of it, and for each function
    the reason to report if its table is still missing afterwards."""
    objects_of = objects.candidates(tree, {each.name for each in missing}, module=module)
    required: dict[Candidate, list[Function]] = defaultdict(list)
    for function in missing:
        for each in objects.likeliest(function, binary, objects_of[function.name]):
            required[each].append(function)
    reasons = {
        objects.key(each): f"the code of {each.name} in {candidate.name} differs from the kernel"
        for candidate, functions in required.items()
        for each in functions
    }
    return dict(required), reasons


def _prebuilt(kernel: Kernel, spec: KernelSpec | None) -> Path | None:
    """Return the vmlinux of a prebuilt kernel if its build ID is in the Image, otherwise None."""
    if spec is None or spec.kind != "prebuilt":
        return None
    below = paths.absolute(spec.where)
    for form in _PREBUILT:
        path = below / form.format(kernel.release)
        if path.is_file() and _has_build_id(path, kernel):
            return path
    return None


def _has_build_id(path: Path, kernel: Kernel) -> bool:
    try:
        build_id = image.read(path).build_id
    except UsageError:
        return False
    return bool(build_id) and bytes.fromhex(build_id) in kernel.image.read_bytes()


def build_ids(symbols: Symbols, modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each of the ``modules`` that has a build ID, with its build ID. The module "" is
    vmlinux."""
    for module in modules:
        binary = symbols.image(module)
        if not isinstance(binary, str) and binary.build_id:
            yield module, binary.build_id
