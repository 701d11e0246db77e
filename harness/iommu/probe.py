# SPDX-License-Identifier: GPL-2.0-only
"""Whether a kernel has something, by what is in its source: versions say little, because
distributions carry changes back, and between two releases every kernel has one version.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from harness.errors import GuestError
from harness.guest import launch
from harness.host import cache
from harness.iommu import machine_file, version
from harness.iommu.version import Versions
from harness.kernel import build, excerpt, git_source
from harness.kernel.artifact import Kernel
from harness.kernel.excerpt import Excerpt
from harness.kernel.spec import KernelSpec


@dataclass(frozen=True, slots=True)
class Sign:
    """One place that decides: ``code`` is a pattern, looked for in those functions or
    objects of ``file`` that ``within`` names (blanks between; "": the whole file), without
    comments. A kernel that has it shows what the sign is about, and one that has it not
    does not; the other way round where ``shown`` is false. A kernel without the place leaves it
    to the next sign. With ``must``, one that has it leaves it to the next as well. With
    ``option`` it is that configuration option's value. ``symbol`` is a function that comes
    with it, and is never inlined: it decides where there is no source."""

    file: str = ""
    code: str = ""
    within: str = ""
    shown: bool = True
    must: bool = False
    option: str = ""
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether a kernel shows something, ``by`` what (user, source, configuration, symbols,
    history, version), and ``why`` we think so."""

    shown: bool
    by: str
    why: str

    @property
    def guess(self) -> bool:
        """Nothing in the kernel says so: only its version does."""
        return self.by == "version"


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a kernel. ``ancestor`` says of a commit whether it is in its history,
    None where no repository can; ``symbols`` are those of the signs' functions that a kernel
    without source has, None where they are not known."""

    kernel: Kernel
    source: Excerpt
    ancestor: Callable[[str], bool | None] = lambda _: None
    symbols: frozenset[str] | None = None


def examined(spec: KernelSpec, kernel: Kernel, symbols: Iterable[str]) -> Examined:
    """The kernel that was built from the spec; of a prebuilt one, which of the symbols it
    has."""
    source = build.source(spec)
    if spec.kind == "prebuilt":
        return Examined(kernel, source, symbols=_present(kernel, sorted(symbols)))
    if spec.kind == "git":
        return Examined(kernel, source, lambda commit: git_source.has(spec.where, commit))
    return Examined(kernel, source)


# One that any kernel of the harness has: a list without it is no list.
_ANY = "really_probe"


def _present(kernel: Kernel, names: Sequence[str]) -> frozenset[str] | None:
    """By /proc/kallsyms of a guest; the Image itself has the list compressed."""
    words = " ".join(f"-e '[ \t]{name}$'" for name in (*names, _ANY))
    machine = replace(machine_file.machine("smmuv3+nic"), memory=512)
    try:
        with cache.scratch() as scratch, launch.booted(kernel, machine, scratch) as guest:
            lines = guest.run(f"grep {words} /proc/kallsyms").out.splitlines()
    except GuestError:
        return None
    found = {line.split()[2] for line in lines}
    return frozenset(found) if _ANY in found else None


def evidence(
    examined: Examined,
    signs: Sequence[Sign],
    commit: str,
    since: Versions,
    until: Versions = version.NONE,
) -> Evidence:
    """What decides first: the signs in their order, the history, the version."""
    found = _of_signs(examined, signs)
    if found:
        return found
    in_history = examined.ancestor(commit) if commit else None
    if in_history is not None:
        word = "is" if in_history else "is not"
        return Evidence(in_history, "history", f"{commit} {word} an ancestor")
    return by_version(examined.kernel.release, since, until)


def by_version(release: str, since: Versions, until: Versions = version.NONE) -> Evidence:
    """The last resort: of kernels from some versions on, and before some others."""
    shown = since.include(release) and not until.include(release)
    span = f"since {since}" + (f", until {until}" if until.marks else "")
    return Evidence(shown, "version", f"a guess: {release} against {span}")


def _of_signs(examined: Examined, signs: Sequence[Sign]) -> Evidence | None:
    found = None
    for sign in signs:
        this = _of_sign(examined, sign)
        if this and not (sign.must and this.shown):
            return this
        found = this or found
    return found


def _of_sign(examined: Examined, sign: Sign) -> Evidence | None:
    if sign.option:
        return _of_option(examined.kernel, sign)
    if sign.symbol and examined.symbols is not None:
        shown = (sign.symbol in examined.symbols) == sign.shown
        has = "is" if sign.symbol in examined.symbols else "is not"
        return Evidence(shown, "symbols", f"{sign.symbol} {has} in /proc/kallsyms")
    code = examined.source.code(sign.file)
    if code is None:
        return None
    place = PurePosixPath(sign.file).name
    if sign.within:
        names = sign.within.split()
        bodies = {name: excerpt.definition(code, name) for name in names}
        found = {name: body for name, body in bodies.items() if body is not None}
        if not found:
            return None
        code = "\n".join(found.values())
        place = f"{', '.join(found)} in {place}"
    match = re.search(sign.code, code)
    shown = (match is not None) == sign.shown
    text = " ".join(match[0].split()) if match else f"/{sign.code}/"
    return Evidence(shown, "source", f"{place} has {'' if match else 'no '}{text}")


def _of_option(kernel: Kernel, sign: Sign) -> Evidence | None:
    value = kernel.option(sign.option)
    if value in ("", "?"):
        return None
    shown = (re.fullmatch(sign.code, value) is not None) == sign.shown
    return Evidence(shown, "configuration", f"CONFIG_{sign.option}={value}")
