# SPDX-License-Identifier: GPL-2.0-only
"""Kernel specs: the argument of ``--kernel``, with patches and configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import UsageError
from harness.host import paths
from harness.kernel import config, toolchain
from harness.kernel.toolchain import Toolchain

# The kernel that is used without --kernel.
DEFAULT_KERNEL = "debian:6.12"

FORMS = {
    "debian": "debian:VERSION (the source of Debian's kernel: debian:6.12, debian:newest)",
    "tree": "tree:DIR (a directory with Linux source, as it is now)",
    "git": "git:DIR@REV (a revision of a git repository)",
    "prebuilt": "prebuilt:DIR (an Image and its modules, or an unpacked kernel package)",
}


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """A kernel that a user requests.

    ``kind`` and ``where`` are the parts of ``kind:where``. ``patches`` are applied in order.
    ``variants`` are names of the harness's fragments, sorted. ``fragments`` are files of the user,
    merged last.
    """

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
        """The complete spec on one line, with the absolute paths of its files."""
        files = (path.absolute() for path in (*self.patches, *self.fragments))
        return " ".join(
            [self.kind, self.where, *map(str, files), *self.variants, self.toolchain.name]
        )

    def with_variants(self, names: Sequence[str]) -> "KernelSpec":
        """The spec with further variants. A prebuilt kernel cannot have variants, so its spec is
        unchanged."""
        if self.kind == "prebuilt":
            return self
        return replace(self, variants=tuple(sorted({*self.variants, *names})))

    @property
    def changes(self) -> list[str]:
        """The names of the patches, fragments and variants, and of the compiler unless it
        is gcc."""
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
    """Parse a spec. Raises UsageError for an unknown form, a missing file, an unknown variant, or
    changes to a prebuilt kernel."""
    kind, colon, where = text.partition(":")
    if not colon or not where or kind not in FORMS:
        raise UsageError(f"unknown kernel {text!r}", "write " + ", or ".join(FORMS.values()))
    for path in patches:
        if not path.exists():
            raise UsageError(
                f"cannot read {path}: no such file", "give a patch or a directory of patches"
            )
    for path in fragments:
        if not path.is_file():
            reason = paths.not_a_file(path)
            raise UsageError(f"cannot read {path}: {reason}", "give a file of CONFIG_X=y lines")
    known = config.variants()
    for name in variants:
        if name not in known:
            raise UsageError(
                f"unknown variant {name!r}", f"known variants: {', '.join(sorted(known))}"
            )
    if kind == "prebuilt" and (patches or fragments or variants):
        raise UsageError(
            "a prebuilt kernel cannot be patched or configured",
            "drop --patch, --fragment and --variant",
        )
    chosen = tuple(sorted(set(variants)))
    return KernelSpec(kind, where, tuple(patches), tuple(fragments), chosen, compiler)
