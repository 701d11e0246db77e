# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel: what a user writes after ``--kernel``, with patches and fragments."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

_FORMS = {
    "debian": "debian:VERSION (the source of Debian's kernel, say debian:6.12)",
    "tree": "tree:DIR (a directory with Linux source)",
}


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """``kind`` and ``where`` as in ``kind:where``; ``patches`` are applied in order
    and ``fragments`` merged last."""

    kind: str
    where: str
    patches: tuple[Path, ...] = ()
    fragments: tuple[Path, ...] = ()

    def __str__(self) -> str:
        extra = [path.name for path in (*self.patches, *self.fragments)]
        return " + ".join([f"{self.kind}:{self.where}", *extra])


def parse(text: str, patches: Sequence[Path] = (), fragments: Sequence[Path] = ()) -> KernelSpec:
    """Raises UsageError for anything but the forms above and readable files."""
    kind, colon, where = text.partition(":")
    if not colon or not where or kind not in _FORMS:
        raise UsageError(f"no such kernel: {text!r}", "write " + " or ".join(_FORMS.values()))
    for path in (*patches, *fragments):
        if not path.is_file():
            raise UsageError(f"no such file: {path}", "name a patch or a fragment that exists")
    return KernelSpec(kind, where, tuple(patches), tuple(fragments))
