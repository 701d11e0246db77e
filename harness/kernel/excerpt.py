# SPDX-License-Identifier: GPL-2.0-only
"""Excerpts of kernel sources: the files from which a kernel's behaviours are read, as they were
compiled, with patches. An excerpt stays in the cache when the work tree changes.
"""

import functools
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host import manifest
from harness.kernel import patching, subject
from harness.kernel.series import Patch
from harness.kernel.source import Source

_FILE = "source.zip"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def check_out(source: Source, patches: Sequence[Patch], into: Path) -> None:
    """Write the files of the excerpt, and all files that the patches touch, to a directory, and
    apply the patches there. Raises UsageError for a patch that does not apply."""
    files = source.manifest()
    touched = {name for patch in patches for name in patching.touched_files(patch)}
    names = [name for name in files if name in touched or subject.SOURCES.fullmatch(name)]
    source.export(names, into)
    for patch in patches:
        patching.apply(into, patch)


def write(tree: Path, into: Path) -> None:
    """Store the files of the excerpt that are in ``tree``."""
    names = sorted(name for name in manifest.walk(tree) if subject.SOURCES.fullmatch(name))
    with zipfile.ZipFile(into / _FILE, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            archive.write(tree / name, name)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """An excerpt of a kernel's source. ``directory`` is where ``write`` stored it, or None for a
    kernel without source (a prebuilt kernel)."""

    directory: Path | None = None

    def code(self, name: str) -> str | None:
        """The content of a file without its comments, or None if the source does not have the
        file."""
        return _code(self.directory / _FILE, name) if self.directory else None


@functools.cache
def _code(archive: Path, name: str) -> str | None:
    with zipfile.ZipFile(archive) as files:
        if name not in files.namelist():
            return None
        return _COMMENT.sub("", files.read(name).decode(errors="replace"))


def definition(code: str, name: str) -> str | None:
    """The definition of a function or an initialised object, or None if the code does not have it.
    In kernel style, both begin in the first column and end with a brace there."""
    return next(_definitions(code, name), None)


def _definitions(code: str, name: str) -> Iterator[str]:
    named = rf"\b{re.escape(name)}(?:\[\w*\])?\s*[(=]"
    opening = re.compile(rf"^(?![ \t#}}]).*{named}[^;{{]*\{{", re.MULTILINE)
    for match in opening.finditer(code):
        end = code.find("\n}", match.end() - 1)
        if end >= 0:
            yield code[match.start() : end + 2]
