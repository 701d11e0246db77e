# SPDX-License-Identifier: GPL-2.0-only
"""Decide by its source whether a kernel has a behaviour or a bug. Versions are not reliable:
distributions backport changes, and all kernels between two releases have the same version.
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
    """A place in the source that decides.

    ``code`` is a pattern to search in ``file``, in the functions or objects that ``within``
    names (separated by blanks; "": in the whole file), without comments. A match means that the
    kernel has the behaviour, no match that it has not; if ``shown`` is false, the reverse. If
    the kernel lacks the file or functions, the next sign decides; with ``must`` also if this
    sign is in favour. With ``option``, the pattern is matched against that configuration
    option's value instead. ``symbol`` is a function that was added with the behaviour and is
    never inlined: it decides if there is no source."""

    file: str = ""
    code: str = ""
    within: str = ""
    shown: bool = True
    must: bool = False
    option: str = ""
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether a kernel has a behaviour or a bug (``shown``), the kind of evidence (``by``:
    user, source, configuration, symbols, history or version), and the reason."""

    shown: bool
    by: str
    why: str

    @property
    def guess(self) -> bool:
        """Whether it follows from the version alone."""
        return self.by == "version"


@dataclass(frozen=True, slots=True)
class ExaminedKernel:
    """What the signs are applied to. ``ancestor`` returns whether a commit is in the kernel's
    history, None without a repository; ``symbols`` are the signs' functions that a kernel
    without source has, None if unknown."""

    kernel: Kernel
    source: Excerpt
    ancestor: Callable[[str], bool | None] = lambda _: None
    symbols: frozenset[str] | None = None


def examine(spec: KernelSpec, kernel: Kernel, symbols: Iterable[str]) -> ExaminedKernel:
    """Collect what signs need of the kernel that was built from the spec; of a prebuilt one,
    which of the symbols it has."""
    source = build.source(spec)
    if spec.kind == "prebuilt":
        return ExaminedKernel(kernel, source, symbols=_present(kernel, sorted(symbols)))
    if spec.kind == "git":
        return ExaminedKernel(
            kernel, source, lambda commit: git_source.is_ancestor(spec.where, commit)
        )
    return ExaminedKernel(kernel, source)


# A symbol that every kernel has: a list without it is not a list of symbols.
_EVERY_KERNEL = "really_probe"


def _present(kernel: Kernel, names: Sequence[str]) -> frozenset[str] | None:
    """The symbols that are in /proc/kallsyms of a guest; in the Image the list is compressed."""
    words = " ".join(f"-e '[ \t]{name}$'" for name in (*names, _EVERY_KERNEL))
    machine = replace(machine_file.machine("smmuv3+nic"), memory=512)
    try:
        with cache.scratch() as scratch, launch.booted(kernel, machine, scratch) as guest:
            lines = guest.run(f"grep {words} /proc/kallsyms").out.splitlines()
    except GuestError:
        return None
    found = {line.split()[2] for line in lines}
    return frozenset(found) if _EVERY_KERNEL in found else None


def decide(
    examined: ExaminedKernel,
    signs: Sequence[Sign],
    commit: str,
    since: Versions,
    until: Versions = version.NONE,
) -> Evidence:
    """The first evidence, of the signs in their order, the history and the version."""
    found = _by_signs(examined, signs)
    if found:
        return found
    in_history = examined.ancestor(commit) if commit else None
    if in_history is not None:
        word = "is" if in_history else "is not"
        return Evidence(in_history, "history", f"{commit} {word} an ancestor")
    return by_version(examined.kernel.release, since, until)


def by_version(release: str, since: Versions, until: Versions = version.NONE) -> Evidence:
    """By the version, if nothing else decides: it is in ``since``, and not in ``until``."""
    shown = since.include(release) and not until.include(release)
    span = f"since {since}" + (f", until {until}" if until.marks else "")
    return Evidence(shown, "version", f"a guess: {release}, {span}")


def _by_signs(examined: ExaminedKernel, signs: Sequence[Sign]) -> Evidence | None:
    found = None
    for sign in signs:
        this = _by_sign(examined, sign)
        if this and not (sign.must and this.shown):
            return this
        found = this or found
    return found


def _by_sign(examined: ExaminedKernel, sign: Sign) -> Evidence | None:
    if sign.option:
        return _by_option(examined.kernel, sign)
    if sign.symbol and examined.symbols is not None:
        shown = (sign.symbol in examined.symbols) == sign.shown
        word = "is" if sign.symbol in examined.symbols else "is not"
        return Evidence(shown, "symbols", f"{sign.symbol} {word} in /proc/kallsyms")
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


def _by_option(kernel: Kernel, sign: Sign) -> Evidence | None:
    value = kernel.option(sign.option)
    if value in ("", "?"):
        return None
    shown = (re.fullmatch(sign.code, value) is not None) == sign.shown
    return Evidence(shown, "configuration", f"CONFIG_{sign.option}={value}")
