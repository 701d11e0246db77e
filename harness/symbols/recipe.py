# SPDX-License-Identifier: GPL-2.0-only
"""Read the command with which kbuild compiled an object, from its ``.NAME.o.cmd``."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

# cmd_PATH before 6.2, savedcmd_PATH since (scripts/Kbuild.include).
_SAVED = re.compile(r"(?:saved)?cmd_(?P<target>\S+) := (?P<command>.*)")
_DEPENDENCIES = re.compile(r"-Wp,-M")
# Separators before the programs that kbuild runs after the compiler: genksyms, recordmcount and
# objtool.
_NEXT = frozenset((";", "&&", "||", "|"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """The command that compiles an object: its ``words``, the ``directory`` in which it runs, and
    the index of the ``output`` file in the words."""

    words: tuple[str, ...]
    output: int
    directory: Path

    @property
    def of_module(self) -> bool:
        return "-DMODULE" in self.words

    def with_debug_information(self, into: Path) -> list[str]:
        """Return the command that compiles the same code with debug information to ``into``."""
        words = list(self.words)
        words[self.output] = str(into)
        return [*words, "-g"]


def read(objects: Path, path: Path) -> Recipe | None:
    """Read the recipe of the object ``path`` in the build directory ``objects``. Returns None if
    the object was not compiled from a single file."""
    try:
        first, _, _ = (path.parent / f".{path.name}.cmd").read_text().partition("\n")
    except (OSError, UnicodeError):
        return None
    match = _SAVED.match(first)
    if match is None:
        return None
    words = _words(match["command"].replace("\\#", "#").replace("$$", "$"))
    if "-c" not in words or "-o" not in words[:-1]:
        return None
    # Since 6.13 kbuild builds modules outside the source tree in their own directory.
    candidates = (objects, objects / "guest-modules")
    directory = next((each for each in candidates if each / match["target"] == path), None)
    if directory is None:
        return None
    kept = tuple(word for word in words if not _DEPENDENCIES.match(word))
    return Recipe(kept, kept.index("-o") + 1, directory)


def _words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        return []
    end = next((index for index, word in enumerate(words) if word in _NEXT), len(words))
    return words[:end]
