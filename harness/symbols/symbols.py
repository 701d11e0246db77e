# SPDX-License-Identifier: GPL-2.0-only
"""From function+offset/size of a built kernel to places in its source."""

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
from harness.symbols.objects import Candidate, Known
from harness.symbols.table import Place, Table

VMLINUX = ""
_HINT = "a kernel with --variant debuginfo has it all"

# Below the directory of a prebuilt kernel: its own vmlinux, and Debian's -dbg package.
_PREBUILT = ("vmlinux", "usr/lib/debug/boot/vmlinux-{}", "usr/lib/debug/lib/modules/{}/vmlinux")


@dataclass(frozen=True, slots=True)
class Query:
    """One frame of a trace. ``exact`` says that the address is where the processor was;
    other addresses are those that calls return to, and what is meant is the call."""

    function: str
    offset: int
    size: int
    module: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """Functions with their places, the innermost first and the frame's own last; or the
    ``reason`` why it is not known."""

    places: tuple[tuple[str, Place], ...] = ()
    reason: str = ""


@dataclass(slots=True)
class Symbols:
    """Of one kernel. Debug information is made when it is first needed; ``spec`` says
    from what. A build in the same work tree can take minutes: without ``wait`` what needs
    that tree meanwhile is not known."""

    kernel: Kernel
    spec: KernelSpec | None
    wait: bool
    _images: dict[str, Image | str] = field(default_factory=dict)
    _tables: dict[str, dict[str, Table]] = field(default_factory=lambda: defaultdict(dict))
    _lacking: dict[tuple[str, str], str] = field(default_factory=dict)
    _entries: list[store.Entry] | None = None

    def answers(self, queries: Iterable[Query]) -> dict[Query, Answer]:
        """All answers, for which every object that is needed is compiled once."""
        found = {each: self._functions(each) for each in dict.fromkeys(queries)}
        wanted: dict[str, list[Function]] = defaultdict(list)
        for query, functions in found.items():
            if not isinstance(functions, str):
                wanted[query.module] += functions
        for module, functions in wanted.items():
            self._provide(module, functions)
        return {query: self._answer(query, functions) for query, functions in found.items()}

    def image(self, module: str) -> Image | str:
        """vmlinux or a module; why there is none."""
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
        """Those that the frame may be in."""
        where = self.image(query.module)
        if isinstance(where, str):
            return where
        named = where.functions.get(query.function, [])
        if not named:
            return f"the kernel has no function {query.function}"
        fitting = [each for each in named if each.printed_as(query.size)]
        if not fitting:
            return f"{query.function} has another size in this kernel than {query.size:#x}"
        if query.exact:
            return fitting
        fitting = [each for each in fitting if image.after_call(where, each, query.offset)]
        return fitting or f"{query.function}+{query.offset:#x} is behind no call in this kernel"

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
            return Answer(reason=f"{len(functions)} functions {query.function} have this size")
        places = next(iter(found))
        if not all(place[0] and place[1] for _, place in places):
            return Answer(reason=f"{query.function}+{query.offset:#x} has no line")
        return Answer((*places[:-1], (query.function, places[-1][1])))

    def _provide(self, module: str, functions: Sequence[Function]) -> None:
        """Tables of the functions, or the reasons why they are lacking."""
        self._from_cache(module, functions)
        missing = self._missing(module, functions)
        if not missing:
            return
        where = self.image(module)
        assert not isinstance(where, str)
        reasons: dict[str, str] = {}
        try:
            reasons = self._make(module, where, missing)
            reason = f"no object of {{}} is in the work tree; {_HINT}"
        except HarnessError as error:
            reason = f"{error.message.replace('{', '{{').replace('}', '}}')}; {_HINT}"
        except OSError as error:
            reason = f"{error.strerror}; {_HINT}"
        for each in self._missing(module, functions):
            name = objects.key(each)
            self._lacking[module, name] = reasons.get(name, reason.format(each.name))

    def _missing(self, module: str, functions: Sequence[Function]) -> list[Function]:
        def lacks(name: str) -> bool:
            return name not in self._tables[module] and (module, name) not in self._lacking

        return [each for each in dict.fromkeys(functions) if lacks(objects.key(each))]

    def _from_cache(self, module: str, functions: Sequence[Function]) -> None:
        if self._entries is None:
            self._entries = list(store.entries(self.kernel))
        for entry in self._entries:
            wanted = {objects.key(each) for each in self._missing(module, functions)}
            if entry.image == module and wanted & entry.functions:
                try:
                    self._tables[module] |= entry.tables()
                except HarnessError:
                    continue  # made again

    def _make(self, module: str, where: Image, missing: Sequence[Function]) -> dict[str, str]:
        """Makes and keeps tables; returns the reasons of those that it cannot make."""
        if where.has(".debug_info"):
            title = f"reading the debug information of {module or 'vmlinux'}"
            with progress.phase("own debug information", title):
                self._own(module, where, missing)
            return {}
        if self.spec is None or self.spec.kind == "prebuilt":
            raise UsageError(f"{self.kernel.label} has no debug information")
        with build.open_build_tree(self.spec, wait=self.wait) as tree, cache.scratch() as scratch:
            if tree.key != self.kernel.key:
                raise UsageError(f"{self.kernel.label} has changed since it was built")
            wanted, reasons = _choose(tree.tree.objects, where, missing, module=bool(module))
            title = f"debug information of {module or 'vmlinux'}"
            with progress.phase("debug information", title) as phase:
                phase.expect(len(wanted))
                made = objects.compiled(tree, where, wanted, scratch)
                for functions, known in zip(wanted.values(), made, strict=True):
                    phase.step()
                    if isinstance(known, str):
                        reasons |= dict.fromkeys(map(objects.key, functions), known)
                    else:
                        self._take(module, known)
        return reasons

    def _own(self, module: str, where: Image, missing: Sequence[Function]) -> None:
        """From the debug information that the image has itself."""
        if module:
            with cache.scratch() as scratch:
                self._take(module, objects.of_module(where, scratch))
            return
        tables = objects.of_linked(where, missing)
        self._take(module, Known(f"vmlinux {cache.digest(*tables)}", tables, None))

    def _take(self, module: str, known: Known) -> None:
        store.keep(self.kernel, module, known.name, known.tables, known.file)
        self._tables[module] |= known.tables


def _choose(
    tree: Path, where: Image, missing: Sequence[Function], *, module: bool
) -> tuple[dict[Candidate, list[Function]], dict[str, str]]:
    """The objects to compile with what is wanted of each, and why none is for others."""
    among = objects.candidates(tree, {each.name for each in missing}, module=module)
    wanted: dict[Candidate, list[Function]] = defaultdict(list)
    for function in missing:
        for each in objects.likely(function, where, among[function.name]):
            wanted[each].append(function)
    reasons = {
        objects.key(each): f"{candidate.name} does not have the code of {each.name}"
        for candidate, functions in wanted.items()
        for each in functions
    }
    return dict(wanted), reasons


def _prebuilt(kernel: Kernel, spec: KernelSpec | None) -> Path | None:
    """The vmlinux beside a prebuilt kernel, if its build ID is in the Image."""
    if spec is None or spec.kind != "prebuilt":
        return None
    below = paths.absolute(spec.where)
    for form in _PREBUILT:
        path = below / form.format(kernel.release)
        if path.is_file() and _belongs(path, kernel):
            return path
    return None


def _belongs(path: Path, kernel: Kernel) -> bool:
    try:
        build_id = image.read(path).build_id
    except UsageError:
        return False
    return bool(build_id) and bytes.fromhex(build_id) in kernel.image.read_bytes()


def build_ids(symbols: Symbols, modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The build ID of vmlinux ("") and of modules, of those that have one."""
    for module in modules:
        where = symbols.image(module)
        if not isinstance(where, str) and where.build_id:
            yield module, where.build_id
