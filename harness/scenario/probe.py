# SPDX-License-Identifier: GPL-2.0-only
"""Whether a kernel has something, by what is in its source: versions say little, because
distributions carry changes back, and between two releases every kernel has one version.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from harness.kernel import build, excerpt, git_source
from harness.kernel.artifact import Kernel
from harness.kernel.excerpt import Excerpt
from harness.kernel.spec import KernelSpec
from harness.scenario import version
from harness.scenario.version import Versions


@dataclass(frozen=True, slots=True)
class Sign:
    """One place that decides: ``code`` is a pattern, looked for in those functions or
    objects of ``file`` that ``within`` names (blanks between; "": the whole file), without
    comments. A kernel that has it shows what the sign is about, and one that has it not
    does not; the other way round where ``shown`` is false. A kernel without the place leaves it
    to the next sign. With ``must``, one that has it leaves it to the next as well. With
    ``option`` it is that configuration option's value."""

    file: str = ""
    code: str = ""
    within: str = ""
    shown: bool = True
    must: bool = False
    option: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whether a kernel shows something, ``by`` what (user, source, configuration, history,
    version), and ``why`` we think so."""

    shown: bool
    by: str
    why: str

    @property
    def guess(self) -> bool:
        """Nothing in the kernel says so: only its version does."""
        return self.by == "version"


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a kernel before it boots. ``ancestor`` says of a commit whether it is
    in its history, None where no repository can."""

    kernel: Kernel
    source: Excerpt
    ancestor: Callable[[str], bool | None] = lambda _: None


def examined(spec: KernelSpec, kernel: Kernel) -> Examined:
    """The kernel that was built from the spec."""
    source = build.source(spec)
    if spec.kind != "git":
        return Examined(kernel, source)
    return Examined(kernel, source, lambda commit: git_source.has(spec.where, commit))


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
