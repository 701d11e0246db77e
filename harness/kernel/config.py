# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration: fragments merged onto tinyconfig, and checked.

Kconfig drops an option whose dependencies are not met without a word; every
option that a fragment asks for is therefore looked up in the result.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host import paths

_SET = re.compile(r"(CONFIG_\w+)=(\S.*)")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")
_SYMBOL = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


@dataclass(frozen=True, slots=True)
class Option:
    """One requested option: ``value`` as in .config, "n" for "is not set";
    ``where`` is the fragment and line that asks for it."""

    name: str
    value: str
    where: str

    @property
    def line(self) -> str:
        return f"# {self.name} is not set" if self.value == "n" else f"{self.name}={self.value}"


def fragments() -> list[Path]:
    """The fragments every kernel gets, in the order they are merged."""
    return [paths.data("kconfigs") / f"{name}.config" for name in ("base", "iommu")]


def read(fragment: Path) -> list[Option]:
    """The options of a fragment. Raises UsageError for a line that is none."""
    options = []
    for number, line in enumerate(fragment.read_text(errors="replace").splitlines(), start=1):
        where = f"{fragment.name}:{number}"
        option = _option(line.strip(), where)
        if option:
            options.append(option)
        elif line.strip() and not line.startswith("#"):
            raise UsageError(
                f"{where}: not a configuration line: {line.strip()!r}", "write CONFIG_X=y"
            )
    return options


def _option(line: str, where: str) -> Option | None:
    if match := _SET.fullmatch(line):
        return Option(match[1], match[2], where)
    if match := _UNSET.fullmatch(line):
        return Option(match[1], "n", where)
    return None


def merged(options: Iterable[Option]) -> list[Option]:
    """One option a name: the last that asks wins."""
    return list({option.name: option for option in options}.values())


def values(dotconfig: str) -> dict[str, str]:
    """What a .config says, by option; what it does not set is absent."""
    found = (_option(line, "") for line in dotconfig.splitlines())
    return {option.name: option.value for option in found if option and option.value != "n"}


def check(options: Sequence[Option], dotconfig: str, source: Path) -> None:
    """Raises UsageError naming the first option that did not survive, who asked
    for it, and why Kconfig dropped it."""
    result = values(dotconfig)
    lost = [option for option in options if result.get(option.name, "n") != option.value]
    if not lost:
        return
    option = lost[0]
    got = result.get(option.name, "n")
    others = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    raise UsageError(
        f"{option.where}: {option.line} became {got!r}{others}: {_why(option, result, source)}",
        "change the fragment or the kernel",
    )


def _why(option: Option, result: dict[str, str], source: Path) -> str:
    conditions = _dependencies(option.name.removeprefix("CONFIG_"), source)
    if conditions is None:
        return "this kernel has no such option"
    unmet = [condition for condition in conditions if _unmet(condition, result)]
    if unmet:
        return "it depends on " + " and on ".join(unmet)
    return "Kconfig chose otherwise: another option selects it or excludes it"


def _unmet(condition: str, result: dict[str, str]) -> bool:
    """Whether a plain conjunction lacks a symbol; other forms count as unmet, so
    that they are shown."""
    symbols = _SYMBOL.findall(condition)
    if "||" in condition or "!" in condition:
        return True
    return any(f"CONFIG_{symbol}" not in result for symbol in symbols)


def _dependencies(symbol: str, source: Path) -> list[str] | None:
    """The "depends on" lines of the symbol's definitions; None when it has none."""
    heading = re.compile(rf"\s*(menu)?config\s+{symbol}\s*")
    conditions: list[str] = []
    defined = False
    for path in sorted(source.rglob("Kconfig*")):
        inside = False
        for line in path.read_text(errors="replace").splitlines():
            if re.match(r"\s*(menu)?config\s", line):
                inside = bool(heading.fullmatch(line))
                defined = defined or inside
            elif inside and line.strip().startswith("depends on "):
                conditions.append(line.strip().removeprefix("depends on "))
    return conditions if defined else None
