# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration as fragments: what is asked for, by whom, and what came of it.

Kconfig drops an option whose dependencies are not met without a word; every
option that a fragment asks for is therefore looked up in the result.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import paths
from harness.kernel import subject

_SET = re.compile(r"CONFIG_(\w+)=(\S.*)")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")

# The lines below one of these, up to a blank line, are asked for only where Kconfig
# knows the option, or from a version on where an option is known before it can be
# had: that is how fragments differ between kernels.
_WHERE_IT_EXISTS = "#: where it exists"
# The same for what every kernel had when the line was written, and a guest can do
# without: kernels drop options, and what they were for is on then, or gone for good. A
# kernel that does not know one is built without it, and its notes say so.
_NOTED_WHERE_MISSING = "#: noted where it is missing"
# The same for what Kconfig may drop, as dependencies have it: of somebody else's
# configuration as much as there is.
WHERE_IT_CAN_BE_HAD = "#: where it can be had"
_SINCE = re.compile(r"#: since (\d+)\.(\d+)")
# The same for an option that a kernel has in place of another, which is then not asked for.
_INSTEAD_OF = re.compile(r"#: instead of (\w+)")


@dataclass(frozen=True, slots=True)
class Option:
    """One requested option: ``name`` without CONFIG_, ``value`` as in .config, "n" for
    "is not set"; ``where`` is the fragment and line that asks for it; ``optional``
    that a kernel without the option is fine too, ``noted`` that it is, but its users
    should know; ``since`` the version before which it is not asked for, ``instead_of``
    the option that a kernel must lack for this one to be asked for; one that is not
    ``insisted`` on Kconfig may have otherwise."""

    name: str
    value: str
    where: str
    optional: bool = False
    since: tuple[int, int] = (0, 0)
    insisted: bool = True
    noted: bool = False
    instead_of: str = ""

    @property
    def line(self) -> str:
        if self.value == "n":
            return f"# CONFIG_{self.name} is not set"
        return f"CONFIG_{self.name}={self.value}"

    @property
    def request(self) -> str:
        """The line, and how much it is insisted on: what shapes a configuration. One that
        is ``noted`` shapes none: without the option there is no other way to have it."""
        instead = f" instead of {self.instead_of}" if self.instead_of else ""
        freely = "" if self.insisted else " if it can be had"
        return f"{self.line} {self.optional}{instead}{freely}"


# Of a line below no condition.
_STRICTLY = Option("", "", "")

_CONDITIONS: dict[str, dict[str, Any]] = {
    _WHERE_IT_EXISTS: {"optional": True},
    _NOTED_WHERE_MISSING: {"noted": True},
    WHERE_IT_CAN_BE_HAD: {"optional": True, "insisted": False},
}


def fragments(variants: Iterable[str] = ()) -> list[Path]:
    """The fragments of ours for a kernel of these variants, in the order in which
    they are merged."""
    return [paths.data("kconfigs") / f"{name}.config" for name in (*subject.FRAGMENTS, *variants)]


def variants() -> list[str]:
    """The names that ``--variant`` takes."""
    names = {path.stem for path in paths.data("kconfigs").glob("*.config")}
    return sorted(names - {*subject.FRAGMENTS})


def read(fragment: Path) -> list[Option]:
    """The options of a fragment. Raises UsageError for a line that is none."""
    options = []
    asked = _STRICTLY
    for number, raw in enumerate(fragment.read_text(errors="replace").splitlines(), start=1):
        line, where = raw.strip(), f"{fragment.name}:{number}"
        if not line:
            asked = _STRICTLY
        elif option := _option(line, where):
            options.append(replace(asked, name=option.name, value=option.value, where=where))
        elif condition := _condition(line):
            asked = replace(asked, **condition)
        elif line.startswith("#:"):
            known = ", ".join(map(repr, (*_CONDITIONS, "#: instead of OTHER")))
            known = f"write {known} or '#: since 6.12'"
            raise UsageError(f"{where}: no such condition: {line!r}", known)
        elif not line.startswith("#"):
            raise UsageError(f"{where}: not a configuration line: {line!r}", "write CONFIG_X=y")
    return options


def _condition(line: str) -> dict[str, Any]:
    """The fields that it sets of the options below it."""
    if match := _SINCE.fullmatch(line):
        return {"since": (int(match[1]), int(match[2]))}
    if match := _INSTEAD_OF.fullmatch(line):
        return {"instead_of": match[1]}
    return _CONDITIONS.get(line, {})


def _option(line: str, where: str) -> Option | None:
    if match := _SET.fullmatch(line):
        return Option(match[1], match[2], where)
    if match := _UNSET.fullmatch(line):
        return Option(match[1], "n", where)
    return None


def merged(options: Iterable[Option]) -> list[Option]:
    """One option a name: the last that asks wins."""
    return list({option.name: option for option in options}.values())


def asked_of(options: Sequence[Option], known: Collection[str]) -> list[Option]:
    """Those of the options that a kernel is asked for whose Kconfig files define ``known``."""
    replaced = {option.instead_of for option in options}
    return [
        option
        for option in options
        if option.instead_of not in known
        and (option.name in known or not (_spared(option) or option.name in replaced))
    ]


def _spared(option: Option) -> bool:
    """Whether a kernel may lack it."""
    return option.optional or option.noted


def values(dotconfig: str) -> dict[str, str]:
    """What a .config says, by option; what it does not set is absent."""
    found = (_option(line, "") for line in dotconfig.splitlines())
    return {option.name: option.value for option in found if option and option.value != "n"}


def lost(options: Sequence[Option], dotconfig: str) -> list[Option]:
    """The options that the result has otherwise, and must not."""
    result = values(dotconfig)
    insisted = [option for option in options if option.insisted]
    return [option for option in insisted if result.get(option.name, "n") != option.value]


def notes(options: Sequence[Option], dotconfig: str) -> tuple[str, ...]:
    """What the users of the kernel with this configuration should know of the options:
    those that it does not have, and that it was built without."""
    result = values(dotconfig)
    missing = [
        f"CONFIG_{option.name} ({option.where})"
        for option in options
        if option.noted and option.value != "n" and option.name not in result
    ]
    return (f"this kernel has no option {', '.join(missing)}; built without",) if missing else ()
