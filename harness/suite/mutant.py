# SPDX-License-Identifier: GPL-2.0-only
"""Mutants: patches that plant one bug each in a kernel, and the headers that describe them."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError, did_you_mean
from harness.host import paths
from harness.iommu import behaviour, known_issues
from harness.iommu.version import Versions

# The function that contains a hunk, which git prints after "@@", and a function that a patch
# defines.
_HUNK_OF = re.compile(r"^@@ [^@\n]* @@ [^;\n]*?\b(\w+)\(", re.MULTILINE)
_DEFINED = re.compile(r"^[+-](?:static |void |int |bool |struct )[^;=\n]*?\b(\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A patch that plants one bug, and the kernel built with it.

    The text above the patch's "---" is its head. It consists of a summary, a blank line, and
    headers: "Requires: acs-before-groups, no-dma-ownership", "Since: 6.15",
    "Machines: virtio-iommu*", "Names: REGEX" and "Equivalent: REASON". All headers are
    optional."""

    name: str
    patch: Path

    @property
    def summary(self) -> str:
        """The first paragraph of the head: what the patch changes, and which rule this breaks."""
        return " ".join(self._head.partition("\n\n")[0].split())

    @property
    def requires(self) -> dict[str, bool]:
        """The behaviours and known issues that a kernel must have (True) or must not have
        (False) for the patch to be a bug. Raises UsageError for an unknown name."""
        known = {*behaviour.TABLE, *known_issues.issues()}
        required = {}
        for word in re.split(r"[\s,]+", self._header("Requires")):
            name = word.removeprefix("no-")
            if word and name not in known:
                hint = did_you_mean(name, known, "see iommu-harness behaviours")
                what = f"{self.patch}: unknown behaviour or known issue {name!r} in Requires"
                raise UsageError(what, hint)
            if word:
                required[name] = name == word
        return required

    @property
    def since(self) -> Versions:
        """The kernels in which the patch is a bug, by version. A version is only a guess."""
        return Versions((self._header("Since") or "0.0",))

    @property
    def equivalent(self) -> str:
        """Why the kernel behaves the same with and without the patch, or "" if it does not."""
        return self._header("Equivalent")

    def machines(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the machines in ``names`` on which the patch is a bug."""
        pattern = self._header("Machines") or "*"
        return tuple(name for name in names if fnmatch.fnmatchcase(name, pattern))

    def is_named_by(self, message: str) -> bool:
        """Whether the message of a failure points to the bug: it matches the expression in the
        header "Names", or if there is none, it contains the name of a patched function."""
        pattern = self._header("Names")
        if pattern:
            return bool(re.search(pattern, message))
        return any(re.search(rf"\b{name}\b", message) for name in self.functions)

    @property
    def functions(self) -> frozenset[str]:
        """The functions that the patch changes or defines."""
        diff = self.text.partition("\n---\n")[2]
        return frozenset([*_HUNK_OF.findall(diff), *_DEFINED.findall(diff)])

    @property
    def text(self) -> str:
        return self.patch.read_text(errors="replace")

    def _header(self, name: str) -> str:
        match = re.search(rf"^{name}: (.*\S)", self._head, re.MULTILINE)
        return match[1] if match else ""

    @property
    def _head(self) -> str:
        return self.text.partition("\n---\n")[0]


def bundled() -> Path:
    """The directory of the bundled mutants."""
    return paths.data("tests/mutants")


def bundled_harmless() -> Path:
    """The directory of the bundled harmless patches, which plant no bug."""
    return paths.data("tests/harmless")


def read(where: Path) -> list[Mutant]:
    """Read the mutants in a directory. Raises UsageError if the directory has no patches, if two
    patches have the same name, or if a Requires header names an unknown behaviour or known
    issue."""
    patches = sorted([*where.glob("*.patch"), *where.glob("*.diff")])
    if not patches:
        raise UsageError(f"{where} has no mutants", "give a directory with .patch files")
    twice = {each.stem for each in patches if each.with_suffix(".diff") in patches} & {
        each.stem for each in patches if each.suffix == ".patch"
    }
    if twice:
        raise UsageError(f"{where} has two mutants called {min(twice)!r}", "rename one of them")
    found = [Mutant(each.name.removesuffix(each.suffix), each) for each in patches]
    for each in found:
        _ = each.requires  # raises for an unknown name
    return found
