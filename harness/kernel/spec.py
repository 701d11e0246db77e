# SPDX-License-Identifier: GPL-2.0-only
"""The spec of a kernel: what a user writes after ``--kernel``, with patches and configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UsageError
from harness.kernel import config, toolchain
from harness.kernel.toolchain import Toolchain

# The kernel if none is named.
DEFAULT_KERNEL = "debian:6.12"

FORMS = {
    "debian": "debian:VERSION (the source of Debian's kernel: debian:6.12, debian:newest)",
    "tree": "tree:DIR (a directory with Linux source, as it is now)",
    "git": "git:DIR@REV (a revision of a git repository)",
    "prebuilt": "prebuilt:DIR (an Image and its modules, or an unpacked kernel package)",
}


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """``kind`` and ``where`` are those of ``kind:where``; ``patches`` are applied in order;
    ``variants`` are names of the harness's fragments, sorted, and ``fragments`` files of the
    user, merged last."""

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
        """The complete spec in a line, with the paths of its files."""
        files = (path.absolute() for path in (*self.patches, *self.fragments))
        return " ".join(
            [self.kind, self.where, *map(str, files), *self.variants, self.toolchain.name]
        )

    def with_variants(self, names: Sequence[str]) -> "KernelSpec":
        """The spec with further variants; a prebuilt kernel cannot have any, and is unchanged."""
        if self.kind == "prebuilt":
            return self
        return replace(self, variants=tuple(sorted({*self.variants, *names})))

    @property
    def changes(self) -> list[str]:
        """The names of the patches, fragments, variants and the compiler that change the source."""
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
    """Parse a spec. Raises UsageError for an unknown form, a missing file or an unknown
    variant."""
    kind, colon, where = text.partition(":")
    if not colon or not where or kind not in FORMS:
        raise UsageError(f"unknown kernel {text!r}", "write " + ", or ".join(FORMS.values()))
    for path in patches:
        if not path.exists():
            raise UsageError(
                f"cannot read {path}: no such file", "name a patch or a directory of patches"
            )
    for path in fragments:
        if not path.is_file():
            raise UsageError(f"cannot read {path}: no such file", "name a file of CONFIG_X=y lines")
    known = config.variants()
    for name in variants:
        if name not in known:
            raise UsageError(
                f"unknown variant {name!r}", f"known variants: {', '.join(sorted(known))}"
            )
    if kind == "prebuilt" and (patches or fragments or variants):
        raise UsageError(
            "a prebuilt kernel cannot be patched or configured",
            "leave out --patch, --fragment and --variant",
        )
    chosen = tuple(sorted(set(variants)))
    return KernelSpec(kind, where, tuple(patches), tuple(fragments), chosen, compiler)
