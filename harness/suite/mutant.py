# SPDX-License-Identifier: GPL-2.0-only
"""Patches that are planted in a kernel, and what their heads say of them."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host import paths
from harness.iommu.version import Versions

# The function that a hunk is in, as git has it behind "@@", and one that a patch defines.
_HUNK_OF = re.compile(r"^@@ [^@\n]* @@ [^;\n]*?\b(\w+)\(", re.MULTILINE)
_DEFINED = re.compile(r"^[+-](?:static |void |int |bool |struct )[^;=\n]*?\b(\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A patch that plants a bug; ``summary`` is what it says of itself. Lines of its head
    say more: "Since: 6.15", "Machines: virtio-iommu*", "Names: regex", "Equivalent: why"."""

    name: str
    patch: Path

    @property
    def summary(self) -> str:
        return " ".join(self._head.partition("\n\n")[0].split())

    @property
    def since(self) -> Versions:
        """The kernels in which it is a bug, where the patch applies to others too."""
        return Versions((self._line("Since") or "0.0",))

    @property
    def equivalent(self) -> str:
        """Why it behaves as the kernel without it does; "" for one that does not."""
        return self._line("Equivalent")

    def machines(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the machines on which it is a bug, where the code is common to others."""
        pattern = self._line("Machines") or "*"
        return tuple(name for name in names if fnmatch.fnmatchcase(name, pattern))

    def is_named_by(self, message: str) -> bool:
        """Whether a failure's message points at the bug: by the pattern after "Names:", else
        by a function that is patched."""
        pattern = self._line("Names")
        if pattern:
            return bool(re.search(pattern, message))
        return any(re.search(rf"\b{name}\b", message) for name in self.functions)

    @property
    def functions(self) -> frozenset[str]:
        """Those that the patch changes or defines."""
        diff = self.text.partition("\n---\n")[2]
        return frozenset([*_HUNK_OF.findall(diff), *_DEFINED.findall(diff)])

    @property
    def text(self) -> str:
        return self.patch.read_text(errors="replace")

    def _line(self, name: str) -> str:
        match = re.search(rf"^{name}: (.*\S)", self._head, re.MULTILINE)
        return match[1] if match else ""

    @property
    def _head(self) -> str:
        return self.text.partition("\n---\n")[0]


def ours() -> Path:
    """The directory of those that plant a bug."""
    return paths.data("tests/mutants")


def harmless() -> Path:
    """The directory of those that plant none."""
    return paths.data("tests/harmless")


def read(where: Path) -> list[Mutant]:
    """The mutants of a directory. Raises UsageError for one without any."""
    patches = sorted([*where.glob("*.patch"), *where.glob("*.diff")])
    if not patches:
        raise UsageError(f"{where} has no mutants", "name a directory with .patch files")
    twice = {each.stem for each in patches if each.with_suffix(".diff") in patches} & {
        each.stem for each in patches if each.suffix == ".patch"
    }
    if twice:
        raise UsageError(f"{where} has two mutants called {min(twice)!r}", "rename one")
    return [Mutant(each.name.removesuffix(each.suffix), each) for each in patches]
