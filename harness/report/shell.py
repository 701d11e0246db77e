# SPDX-License-Identifier: GPL-2.0-only
"""Where a shell finds a command complete."""

import re
import shlex
from collections.abc import Sequence

_OPENS = {"for", "while", "until", "if", "case", "{", "("}
_CLOSES = {"done", "fi", "esac", "}", ")"}
_MORE = {"|", "&&", "||"}
_BEFORE_COMMAND = (
    {";", "&", ";;", "(", ")", "{", "do", "then", "else", "elif", "!"}
    | _MORE
    | {"done", "fi", "esac", "}"}
)
_HEREDOC = re.compile(r"<<-?[ \t]*['\"]?(\w+)")

# Lines that one command may have.
MAX_LINES = 200

_COMPOUND = re.compile(r"[;|&\n]")


def incomplete(text: str) -> bool:
    """Whether a shell prints its second prompt and reads on."""
    if text.endswith("\\"):
        return True
    here = _HEREDOC.search(text)
    if here:
        return here[1] not in [line.strip() for line in text.split("\n")[1:]]
    try:
        lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError:
        return True  # a quote is still open
    return bool(words) and (words[-1] in _MORE or _balance(words) > 0)


def _balance(words: Sequence[str]) -> int:
    """Compound commands that are open; a keyword counts only where a command begins."""
    balance = 0
    begins = True
    for word in words:
        if word.startswith("#"):
            break
        if begins:
            balance += (word in _OPENS) - (word in _CLOSES)
        begins = word in _BEFORE_COMMAND
    return balance


_RUNS_SCRIPT = re.compile(r"(?:ba|da|a|k|z)?sh|source|\.|eval|\S+\.sh")


def is_compound(text: str) -> bool:
    """Whether the command has parts whose own exit status is not the command's, as a script
    has."""
    if _COMPOUND.search(text):
        return True
    return any(_RUNS_SCRIPT.fullmatch(name) for name in programs(text))


_SPLIT = re.compile(r"\|\||&&|[|;&\n(){}]")
_NOT_A_PROGRAM = re.compile(r"\w+=\S*|[<>]\S*|\d[<>]\S*|sudo|doas|time|env|nohup|do|then|else|!")


def programs(text: str) -> list[str]:
    """The programs that a command line starts, by their bare names, as far as a look at
    its words finds them."""
    found = []
    for part in _SPLIT.split(text):
        words = (word for word in part.split() if not _NOT_A_PROGRAM.fullmatch(word))
        first = next(words, "")
        if first and not first.startswith(("'", '"', "$", "#", "-")):
            found.append(first.rpartition("/")[2])
    return found


def last_word(text: str) -> str:
    """The last argument of a command line."""
    words = text.split()
    return words[-1] if words else ""
