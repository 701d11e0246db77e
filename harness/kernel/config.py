# SPDX-License-Identifier: GPL-2.0-only
"""Configuration fragments: the options that they request, where each is requested, and whether the
resulting configuration has it.

Kconfig silently drops an option if its dependencies are not met, so every requested option is
checked in the result.
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

# A condition applies to the lines below it, up to the next blank line. Options under this
# condition are requested only if the kernel's Kconfig files define them.
_WHERE_IT_EXISTS = "#: where it exists"
# The same, for options that every kernel had when the line was written, and that a guest can do
# without. Kernels drop an option when its function becomes unconditional or is removed. A kernel
# without such an option is built without it, and its notes list the option.
_NOTED_WHERE_MISSING = "#: noted where it is missing"
# The same, but Kconfig may also drop or change the option because of its dependencies. This is
# for the configuration of a different kernel, which is used as far as possible.
WHERE_IT_CAN_BE_HAD = "#: where it can be had"
# Requested from this version on, because an option may be defined before it works.
_SINCE = re.compile(r"#: since (\d+)\.(\d+)")
# Requested only if the kernel does not define the other option, which this one replaces.
_INSTEAD_OF = re.compile(r"#: instead of (\w+)")


@dataclass(frozen=True, slots=True)
class Option:
    """A requested option.

    ``name`` is without CONFIG_. ``value`` is as in .config, with "n" for "is not set". ``where``
    is the fragment and line that requests it. A kernel may lack an option that is ``optional`` or
    ``noted``, and its notes list the ``noted`` options that it lacks. The option is not requested
    before version ``since``, nor if the kernel has the option ``instead_of``. Unless it is
    ``enforced``, Kconfig may change its value.
    """

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
        """The fields that determine a configuration, as text. ``noted`` is not one of them: a
        kernel that lacks the option has the same configuration with and without it."""
        instead = f" instead of {self.instead_of}" if self.instead_of else ""
        # Part of the keys of kernels. A different text would rebuild all of them.
        freely = "" if self.enforced else " if it can be had"
        return f"{self.line} {self.optional}{instead}{freely}"


# The fields of a line without a condition.
_UNCONDITIONAL = Option("", "", "")

_CONDITIONS: dict[str, dict[str, Any]] = {
    _WHERE_IT_EXISTS: {"optional": True, "noted": False},
    _NOTED_WHERE_MISSING: {"optional": False, "noted": True},
    WHERE_IT_CAN_BE_HAD: {"optional": True, "noted": False, "enforced": False},
}


def fragments(variants: Iterable[str] = ()) -> list[Path]:
    """The harness's fragments for a kernel with these variants, in the order of merging."""
    return [paths.data("kconfigs") / f"{name}.config" for name in (*subject.FRAGMENTS, *variants)]


def variants() -> list[str]:
    """The names that ``--variant`` accepts."""
    names = {path.stem for path in paths.data("kconfigs").glob("*.config")}
    return sorted(names - {*subject.FRAGMENTS})


def read(fragment: Path) -> list[Option]:
    """Read the options of a fragment. Raises UsageError for an invalid line."""
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
            raise UsageError(
                f"{where}: invalid line {line!r}", "write CONFIG_X=y or # CONFIG_X is not set"
            )
    return options


def _condition(line: str) -> dict[str, Any]:
    """The fields of Option that a condition sets for the lines below it, empty for any
    other line."""
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
    """Keep only the last request for each option name."""
    return list({option.name: option for option in options}.values())


def applicable(options: Sequence[Option], known: Collection[str]) -> list[Option]:
    """The options to request from a kernel with Kconfig files that define ``known``."""
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
    """The enforced options that have a different value in the resulting .config."""
    result = values(dotconfig)
    enforced = [option for option in options if option.enforced]
    return [option for option in enforced if result.get(option.name, "n") != option.value]


def notes(options: Sequence[Option], dotconfig: str) -> tuple[str, ...]:
    """The notes for the users of a kernel with this configuration: a list of the ``noted`` options
    that it lacks."""
    result = values(dotconfig)
    missing = [
        f"CONFIG_{option.name} ({option.where})"
        for option in options
        if option.noted and option.value != "n" and option.name not in result
    ]
    if not missing:
        return ()
    return (f"built without {', '.join(missing)}, which this kernel does not define",)
