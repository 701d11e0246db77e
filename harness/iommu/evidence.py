# SPDX-License-Identifier: GPL-2.0-only
"""Determine from a kernel's source whether it has a behaviour or a bug. Versions are not
reliable: distributions backport changes, and all kernels between two releases have the same
version.
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
    """A check of a kernel's source that decides whether it has a behaviour or a bug.

    ``code`` is a regular expression to search in ``file``, ignoring comments. ``within`` limits
    the search to the functions or objects with these names, separated by blanks. A match means
    that the kernel has the behaviour, and no match that it does not. If ``shown`` is false, it is
    the reverse. The next sign decides if the kernel lacks the file or all of the functions, and
    with ``must`` also if this sign is in favour.

    With ``option``, the expression is matched against the value of that configuration option
    instead, if it is on; without an expression, the option must be on. ``symbol`` is a function
    that was added with the behaviour and is never inlined. For a kernel without source, its
    presence in /proc/kallsyms decides."""

    file: str = ""
    code: str = ""
    within: str = ""
    shown: bool = True
    must: bool = False
    option: str = ""
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether a kernel has a behaviour or a bug, and why.

    ``shown`` is whether the kernel has it. ``by`` is the kind of evidence: user, source,
    configuration, symbols, history or version. ``why`` is the reason, in a line."""

    shown: bool
    by: str
    why: str

    @property
    def guess(self) -> bool:
        """Whether the evidence is only the kernel's version."""
        return self.by == "version"


@dataclass(frozen=True, slots=True)
class ExaminedKernel:
    """A kernel, with the data that signs check.

    ``ancestor`` returns whether a commit is in the kernel's history, or None for a kernel that is
    not from a repository. ``symbols`` are the signs' symbols that the kernel has, or None if that
    is unknown; they matter only for a kernel without source."""

    kernel: Kernel
    source: Excerpt
    ancestor: Callable[[str], bool | None] = lambda _: None
    symbols: frozenset[str] | None = None


def examine(spec: KernelSpec, kernel: Kernel, symbols: Iterable[str]) -> ExaminedKernel:
    """Collect the data that signs check, for ``kernel``, which was built from ``spec``. A prebuilt
    kernel is booted to find out which of the ``symbols`` it has."""
    source = build.source(spec)
    if spec.kind == "prebuilt":
        return ExaminedKernel(kernel, source, symbols=_present(kernel, sorted(symbols)))
    if spec.kind == "git":
        return ExaminedKernel(
            kernel, source, lambda commit: git_source.is_ancestor(spec.where, commit)
        )
    return ExaminedKernel(kernel, source)


# A symbol that every kernel has. If it is absent, /proc/kallsyms could not be read.
_EVERY_KERNEL = "really_probe"


def _present(kernel: Kernel, names: Sequence[str]) -> frozenset[str] | None:
    """Boot the kernel, and return the symbols that are in /proc/kallsyms; None if the guest fails.
    The Image cannot be searched, because it stores symbols compressed."""
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
    """Return the first evidence found: from the signs, in order; then from the kernel's history, if
    the kernel is built from a repository and ``commit`` is given; then from its version."""
    found = _by_signs(examined, signs)
    if found:
        return found
    in_history = examined.ancestor(commit) if commit else None
    if in_history is not None:
        word = "is" if in_history else "is not"
        return Evidence(in_history, "history", f"{commit} {word} in the kernel's history")
    return by_version(examined.kernel.release, since, until)


def by_version(release: str, since: Versions, until: Versions = version.NONE) -> Evidence:
    """Decide by the version alone: a kernel has the behaviour if its release is in ``since`` but
    not in ``until``."""
    shown = since.include(release) and not until.include(release)
    span = f"since {since}" if since.marks else "in no release"
    span += f", until {until}" if until.marks else ""
    return Evidence(shown, "version", f"a guess from the version {release} ({span})")


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
    location = PurePosixPath(sign.file).name
    if sign.within:
        names = sign.within.split()
        bodies = {name: excerpt.definition(code, name) for name in names}
        found = {name: body for name, body in bodies.items() if body is not None}
        if not found:
            return None
        code = "\n".join(found.values())
        location = f"{', '.join(found)} in {location}"
    match = re.search(sign.code, code)
    shown = (match is not None) == sign.shown
    found_text = (
        f"contains {' '.join(match[0].split())}" if match else f"does not match /{sign.code}/"
    )
    return Evidence(shown, "source", f"{location} {found_text}")


def _by_option(kernel: Kernel, sign: Sign) -> Evidence | None:
    value = kernel.option(sign.option)
    if value == "?":
        return None
    if not sign.code:
        shown = (value != "") == sign.shown
        return Evidence(shown, "configuration", f"CONFIG_{sign.option} is {value or 'off'}")
    if not value:
        return None
    shown = (re.fullmatch(sign.code, value) is not None) == sign.shown
    return Evidence(shown, "configuration", f"CONFIG_{sign.option}={value}")
