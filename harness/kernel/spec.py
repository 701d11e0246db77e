# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel: what a user writes after ``--kernel``, and what is done to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UsageError
from harness.kernel import config, toolchain
from harness.kernel.toolchain import Toolchain

# The kernel where none is named.
DEFAULT_KERNEL = "debian:6.12"

FORMS = {
    "debian": "debian:VERSION (the source of Debian's kernel: debian:6.12, debian:newest)",
    "tree": "tree:DIR (a directory with Linux source, as it is now)",
    "git": "git:DIR@REV (a revision of a git repository)",
    "prebuilt": "prebuilt:DIR (an Image and its modules, or an unpacked kernel package)",
}


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """``kind`` and ``where`` as in ``kind:where``; ``patches`` are applied in order,
    ``variants`` are fragments of ours by name, sorted, and ``fragments`` the user's,
    merged last."""

    kind: str
    where: str
    patches: tuple[Path, ...] = ()
    fragments: tuple[Path, ...] = ()
    variants: tuple[str, ...] = ()
    toolchain: Toolchain = toolchain.GCC

    def __str__(self) -> str:
        return " + ".join([f"{self.kind}:{self.where}", *self.changes])

    @property
    def key(self) -> str:
        """The whole of it in a line, with the paths of its files."""
        files = (path.absolute() for path in (*self.patches, *self.fragments))
        return " ".join(
            [self.kind, self.where, *map(str, files), *self.variants, self.toolchain.name]
        )

    def with_variants(self, names: Sequence[str]) -> "KernelSpec":
        """The kernel with these variants too; a prebuilt one is what it is."""
        if self.kind == "prebuilt":
            return self
        return replace(self, variants=tuple(sorted({*self.variants, *names})))

    @property
    def changes(self) -> list[str]:
        """What is done to the source, in words."""
        files = [path.name for path in (*self.patches, *self.fragments)]
        compiler = [] if self.toolchain == toolchain.GCC else [self.toolchain.name]
        return [*files, *self.variants, *compiler]


def parse(
    text: str,
    patches: Sequence[Path] = (),
    fragments: Sequence[Path] = (),
    variants: Sequence[str] = (),
    compiler: Toolchain = toolchain.GCC,
) -> KernelSpec:
    """Raises UsageError for anything but the forms above, files that are there and
    variants that exist."""
    kind, colon, where = text.partition(":")
    if not colon or not where or kind not in FORMS:
        raise UsageError(f"no such kernel: {text!r}", "write " + ", or ".join(FORMS.values()))
    for path in patches:
        if not path.exists():
            raise UsageError(f"no such patch: {path}", "name a file, or a directory of patches")
    for path in fragments:
        if not path.is_file():
            raise UsageError(f"no such fragment: {path}", "name a file of CONFIG_X=y lines")
    known = config.variants()
    for name in variants:
        if name not in known:
            raise UsageError(f"no such variant: {name!r}", f"there are {', '.join(sorted(known))}")
    if kind == "prebuilt" and (patches or fragments or variants):
        raise UsageError(
            "a prebuilt kernel cannot be patched or configured",
            "leave out --patch, --fragment and --variant",
        )
    chosen = tuple(sorted(set(variants)))
    return KernelSpec(kind, where, tuple(patches), tuple(fragments), chosen, compiler)
