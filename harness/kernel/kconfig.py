# SPDX-License-Identifier: GPL-2.0-only
"""Run a kernel's own Kconfig, which creates its configuration and explains it.

The explanation of a symbol is the text of menuconfig's search. kconfigs/explain.c prints it,
linked with the Kconfig code of the same tree.
"""

import operator
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import OptionLost
from harness.host import paths, program
from harness.kernel import config
from harness.kernel.config import Option
from harness.kernel.kbuild import Kbuild

_DEFINITION = re.compile(r"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)

_SYMBOL = re.compile(r"^harness-symbol (\S+)$", re.MULTILINE)
_DEFINED = re.compile(r"^Defined at (\S+)", re.MULTILINE)
_DEPENDS = re.compile(r"^  Depends on: (.+)$", re.MULTILINE)
_PROMPT = re.compile(r"^  Prompt: ", re.MULTILINE)
_SELECTED = re.compile(r"^(?:Selected|Implied) by \[([ym])\]:\n((?:  - .+\n?)+)", re.MULTILINE)
_TOKEN = re.compile(r"\s*(&&|\|\||!=|<=|>=|[!()=<>]|[^\s&|!()=<>\[]+)(?: \[=([^\]]*)\])?")

_TRISTATE = {"n": 0, "m": 1, "y": 2}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Symbol:
    """Kconfig's explanation of a symbol.

    ``defined`` has the location of each definition, and ``depends`` its dependencies with their
    current values. ``prompted`` is whether a user can set the symbol. ``selected_by`` are the
    symbols that select it.
    """

    name: str
    defined: tuple[str, ...]
    depends: tuple[str, ...]
    prompted: bool
    selected_by: tuple[str, ...]


def configure(kbuild: Kbuild, options: Sequence[Option]) -> None:
    """Write a .config with the options. All other options are off if Kconfig allows it. Options
    that a kernel may lack are skipped if this kernel does not define them.

    Raises OptionLost with the first option that Kconfig dropped or changed, the line that requests
    it, and the reason.
    """
    known = _defined_symbols(kbuild.tree.source)
    requested = config.applicable(options, known)
    with tempfile.NamedTemporaryFile("w", suffix=".config") as file:
        file.writelines(option.line + "\n" for option in requested)
        file.flush()
        kbuild.make("allnoconfig", environment={"KCONFIG_ALLCONFIG": file.name})
    dotconfig = (kbuild.tree.objects / ".config").read_text()
    missing = config.violated(requested, dotconfig)
    if not missing:
        return
    result = config.values(dotconfig)
    symbols = explain(kbuild, [option.name for option in missing if option.name in known])
    first, *others = [
        f"{option.where}: {option.line} became {result.get(option.name, 'n')!r}: "
        f"{reason(option, symbols.get(option.name))}"
        for option in missing
    ]
    more = f" (and {len(others)} more)" if others else ""
    raise OptionLost(
        f"{first}{more}", "change the fragment, or use a different kernel", "\n".join(others)
    )


def _defined_symbols(source: Path) -> set[str]:
    """The symbols that the tree's Kconfig files define."""
    names: set[str] = set()
    for path in program.run(["find", str(source), "-name", "Kconfig*", "-type", "f"]).splitlines():
        names |= set(_DEFINITION.findall(Path(path).read_text(errors="replace")))
    return names


def explain(kbuild: Kbuild, names: Iterable[str]) -> dict[str, Symbol]:
    """Run Kconfig to explain the symbols, with the values of the current .config."""
    listed = list(names)
    if not listed:
        return {}
    objects = kbuild.tree.objects / "scripts/kconfig"
    parts = [str(path) for path in sorted(objects.glob("*.o")) if path.name != "conf.o"]
    headers = kbuild.tree.source / "scripts"
    data = paths.data("kconfigs")
    with tempfile.TemporaryDirectory() as scratch:
        tool, symbols = Path(scratch, "explain"), Path(scratch, "symbols")
        symbols.write_text("".join(f"{name}\n" for name in listed))
        include = [f"-I{headers / 'kconfig'}", f"-I{headers / 'include'}"]
        program.run(["gcc", "-o", str(tool), *include, str(data / "explain.c"), *parts])
        text = kbuild.make(
            "harness-explain-config",
            environment={
                "MAKEFILES": str(data / "explain.mk"),
                "HARNESS_EXPLAIN": str(tool),
                "HARNESS_SYMBOLS": str(symbols),
            },
        )
    return parse(text)


def parse(text: str) -> dict[str, Symbol]:
    """Parse the output of explain.c, and return the explanations by symbol name."""
    _, *parts = _SYMBOL.split(text)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: _symbol(name, facts) for name, facts in pairs}


def _symbol(name: str, facts: str) -> Symbol:
    selectors = [
        line.strip(" -") for _, lines in _SELECTED.findall(facts) for line in lines.splitlines()
    ]
    return Symbol(
        name,
        tuple(_DEFINED.findall(facts)),
        tuple(_DEPENDS.findall(facts)),
        bool(_PROMPT.search(facts)),
        tuple(selector.split(" ")[0] for selector in selectors if selector),
    )


def reason(option: Option, symbol: Symbol | None) -> str:
    """Why a symbol does not have the requested value. ``symbol`` is None if no Kconfig file of the
    kernel defines it."""
    if symbol is None:
        return "this kernel does not have the option"
    if not symbol.defined:
        return "it is an option of other architectures"
    if option.value != "y" and symbol.selected_by:
        return f"it is selected by {', '.join(symbol.selected_by)}"
    needed = 1 if option.value == "m" else 2
    unmet = [_unmet(each, needed) for each in symbol.depends]
    if unmet and all(unmet):
        return "it depends on " + ", or ".join(" and ".join(each) for each in unmet)
    if not symbol.prompted:
        return "it cannot be set, only selected by other options"
    return "another option selects it or excludes it"


def _unmet(expression: str, needed: int) -> list[str]:
    """The terms of a conjunction with values below ``needed``."""
    return [term for term in _conjuncts(expression) if evaluate(term) < needed]


def _conjuncts(expression: str) -> list[str]:
    """The terms of the outermost "&&" of an expression."""
    terms, depth, start = [], 0, 0
    for at, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if depth == 0 and expression.startswith("||", at):
            return [expression.strip()]
        if depth == 0 and expression.startswith("&&", at):
            terms.append(expression[start:at].strip())
            start = at + 2
    terms.append(expression[start:].strip())
    return terms


def evaluate(expression: str) -> int:
    """Evaluate an expression that includes the values of its symbols, such as "A [=y] && !B [=n]".
    The result is 0, 1 or 2 for n, m or y. An expression that cannot be parsed evaluates to n,
    which makes it appear in the error message."""
    tokens = [(match[1], match[2]) for match in _TOKEN.finditer(expression)]
    try:
        return _Evaluation(tokens).whole()
    except (IndexError, ValueError, RecursionError):
        return 0


class _Evaluation:
    """An evaluation of tokens by recursive descent, with Kconfig's rules: && is the minimum, ||
    the maximum, and !A is 2 - A (Documentation/kbuild/kconfig-language.rst)."""

    def __init__(self, tokens: list[tuple[str, str | None]]) -> None:
        self._tokens = tokens
        self._at = 0

    def whole(self) -> int:
        result = self._either()
        if self._at != len(self._tokens):
            raise ValueError(self._tokens[self._at])
        return result

    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _either(self) -> int:
        result = self._both()
        while self._next() == "||":
            self._at += 1
            result = max(result, self._both())
        return result

    def _both(self) -> int:
        result = self._term()
        while self._next() == "&&":
            self._at += 1
            result = min(result, self._term())
        return result

    def _term(self) -> int:
        word, given = self._tokens[self._at]
        self._at += 1
        if word == "!":
            return 2 - self._term()
        if word == "(":
            result = self._either()
            if self._next() != ")":
                raise ValueError(word)
            self._at += 1
            return result
        if self._next() in _COMPARISONS:
            return self._compared(word if given is None else given)
        # A symbol without a value is not defined for this architecture.
        return _TRISTATE.get(word if given is None else given, 0)

    def _compared(self, left: str) -> int:
        compare = _COMPARISONS[self._next()]
        word, given = self._tokens[self._at + 1]
        self._at += 2
        right = word if given is None else given
        if left.isdecimal() and right.isdecimal():
            return 2 * compare(int(left), int(right))
        return 2 * compare(left, right)


@dataclass(frozen=True, slots=True)
class Line:
    """An option of a configuration, with the origin of its value."""

    option: Option
    origin: str


def origins(kbuild: Kbuild, options: Sequence[Option]) -> list[Line]:
    """Read the current .config, and find the origin of each option: the line of the fragment that
    requests it, the options that select it, or the default of its definition."""
    values = config.values((kbuild.tree.objects / ".config").read_text())
    requested = {option.name: option for option in options}
    others = explain(kbuild, [name for name in values if name not in requested])
    lines = [Line(option, option.where) for option in options if option.value == "n"]
    for name, text in values.items():
        where = requested[name].where if name in requested else _origin(others.get(name))
        lines.append(Line(Option(name, text, where), where))
    return sorted(lines, key=lambda line: line.option.name)


def _origin(symbol: Symbol | None) -> str:
    if symbol is None or not symbol.defined:
        return "Kconfig"
    if symbol.selected_by:
        return "selected by " + ", ".join(symbol.selected_by[:3])
    return f"default of {symbol.defined[0]}"
