# SPDX-License-Identifier: GPL-2.0-only
"""Kernel configuration as fragments: the requested options, where each is requested, and
whether the result has them.

Kconfig silently drops an option whose dependencies are not met, so every option that a
fragment requests is looked up in the result.
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

# The lines below one of these conditions, up to a blank line, depend on the kernel. These
# are requested only where its Kconfig files define the option.
_WHERE_IT_EXISTS = "#: where it exists"
# The same, for options that every kernel had when the line was written, and that a guest can
# do without. Kernels drop options, whose function is then always on, or removed. A kernel
# without such an option is built without it, and its notes list the option.
_NOTED_WHERE_MISSING = "#: noted where it is missing"
# The same, and Kconfig may drop or change the option because of dependencies. This is for the
# configuration of another kernel, of which as much as possible is used.
WHERE_IT_CAN_BE_HAD = "#: where it can be had"
# Requested from this version on, where an option is defined before it works.
_SINCE = re.compile(r"#: since (\d+)\.(\d+)")
# Requested only where the kernel does not define the other option, which it replaces.
_INSTEAD_OF = re.compile(r"#: instead of (\w+)")


@dataclass(frozen=True, slots=True)
class Option:
    """One requested option: ``name`` without CONFIG_, ``value`` as in .config, "n" for "is
    not set", and ``where``, the fragment and line that requests it. A kernel may lack an
    ``optional`` option, and a ``noted`` one, which is then listed in the kernel's notes. It is
    not requested before version ``since``, nor where the kernel has the option
    ``instead_of``. Unless it is ``enforced``, Kconfig may give it another value."""

    name: str
    value: str
    where: str
    optional: bool = False
    since: tuple[int, int] = (0, 0)
    enforced: bool = True
    noted: bool = False
    instead_of: str = ""

    @property
    def line(self) -> str:
        if self.value == "n":
            return f"# CONFIG_{self.name} is not set"
        return f"CONFIG_{self.name}={self.value}"

    @property
    def request(self) -> str:
        """All of the option that determines a configuration. ``noted`` does not: a kernel
        without the option has the same configuration either way."""
        instead = f" instead of {self.instead_of}" if self.instead_of else ""
        # Part of the keys of kernels: another text would rebuild all of them.
        freely = "" if self.enforced else " if it can be had"
        return f"{self.line} {self.optional}{instead}{freely}"


# A line without a condition above it.
_UNCONDITIONAL = Option("", "", "")

_CONDITIONS: dict[str, dict[str, Any]] = {
    _WHERE_IT_EXISTS: {"optional": True, "noted": False},
    _NOTED_WHERE_MISSING: {"optional": False, "noted": True},
    WHERE_IT_CAN_BE_HAD: {"optional": True, "noted": False, "enforced": False},
}


def fragments(variants: Iterable[str] = ()) -> list[Path]:
    """The harness's fragments for a kernel with these variants, in the order in which they
    are merged."""
    return [paths.data("kconfigs") / f"{name}.config" for name in (*subject.FRAGMENTS, *variants)]


def variants() -> list[str]:
    """The names that ``--variant`` accepts."""
    names = {path.stem for path in paths.data("kconfigs").glob("*.config")}
    return sorted(names - {*subject.FRAGMENTS})


def read(fragment: Path) -> list[Option]:
    """The options of a fragment. Raises UsageError for any other line."""
    options = []
    requested = _UNCONDITIONAL
    for number, raw in enumerate(fragment.read_text(errors="replace").splitlines(), start=1):
        line, where = raw.strip(), f"{fragment.name}:{number}"
        if not line:
            requested = _UNCONDITIONAL
        elif option := _option(line, where):
            options.append(replace(requested, name=option.name, value=option.value, where=where))
        elif condition := _condition(line):
            requested = replace(requested, **condition)
        elif line.startswith("#:"):
            known = ", ".join(map(repr, (*_CONDITIONS, "#: instead of OTHER")))
            known = f"write {known} or '#: since 6.12'"
            raise UsageError(f"{where}: unknown condition {line!r}", known)
        elif not line.startswith("#"):
            raise UsageError(f"{where}: invalid line {line!r}", "write CONFIG_X=y")
    return options


def _condition(line: str) -> dict[str, Any]:
    """The fields of Option that a condition sets for the lines below it."""
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
    """One option per name: the last request wins."""
    return list({option.name: option for option in options}.values())


def applicable(options: Sequence[Option], known: Collection[str]) -> list[Option]:
    """The options that are requested of a kernel whose Kconfig files define ``known``."""
    replaced = {option.instead_of for option in options}
    return [
        option
        for option in options
        if option.instead_of not in known
        and (option.name in known or not (_may_be_missing(option) or option.name in replaced))
    ]


def _may_be_missing(option: Option) -> bool:
    """Whether a kernel may lack the option."""
    return option.optional or option.noted


def values(dotconfig: str) -> dict[str, str]:
    """The values in a .config, by option. Options that are not set are absent."""
    found = (_option(line, "") for line in dotconfig.splitlines())
    return {option.name: option.value for option in found if option and option.value != "n"}


def violated(options: Sequence[Option], dotconfig: str) -> list[Option]:
    """The enforced options that have another value in the result."""
    result = values(dotconfig)
    enforced = [option for option in options if option.enforced]
    return [option for option in enforced if result.get(option.name, "n") != option.value]


def notes(options: Sequence[Option], dotconfig: str) -> tuple[str, ...]:
    """Notes for the users of a kernel with this configuration: the ``noted`` options without
    which it was built."""
    result = values(dotconfig)
    missing = [
        f"CONFIG_{option.name} ({option.where})"
        for option in options
        if option.noted and option.value != "n" and option.name not in result
    ]
    return (f"this kernel has no option {', '.join(missing)}; built without",) if missing else ()
