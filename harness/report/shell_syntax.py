# SPDX-License-Identifier: GPL-2.0-only
"""Shell syntax: whether a command is complete, and which programs it starts."""

import re
import shlex
from collections.abc import Sequence

_OPENING_WORDS = {"for", "while", "until", "if", "case", "{", "("}
_CLOSING_WORDS = {"done", "fi", "esac", "}", ")"}
_CONTINUING_OPERATORS = {"|", "&&", "||"}
_BEFORE_COMMAND = (
    {";", "&", ";;", "(", ")", "{", "do", "then", "else", "elif", "!"}
    | _CONTINUING_OPERATORS
    | {"done", "fi", "esac", "}"}
)
_HEREDOC = re.compile(r"<<-?[ \t]*['\"]?(\w+)")

# The maximum length of a command, in lines.
MAX_COMMAND_LINES = 200

_COMPOUND = re.compile(r"[;|&\n]")
_RUNS_SCRIPT = re.compile(r"(?:ba|da|a|k|z)?sh|source|\.|eval|\S+\.sh")

_KEYWORD = re.compile(
    r"(?:do|done|then|else|elif|fi|esac|\}|\)|;;|\{|if|for|while|until|case|function|set|trap|exit|"
    r"return|local|shift|break|continue|read|\[|:|\w+\(\))(?:\s|;|$)"
)

_SEPARATORS = re.compile(r"\|\||&&|[|;&\n(){}]")
_NOT_A_PROGRAM = re.compile(r"\w+=\S*|[<>]\S*|\d[<>]\S*|sudo|doas|time|env|nohup|do|then|else|!")


def is_incomplete(text: str) -> bool:
    """Whether a shell prints its secondary prompt after the text and reads more lines."""
    if text.endswith("\\"):
        return True
    heredoc = _HEREDOC.search(text)
    if heredoc:
        return heredoc[1] not in [line.strip() for line in text.split("\n")[1:]]
    try:
        lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        lexer.commenters = ""
        words = list(lexer)
    except ValueError:
        return True  # a quote is still open
    return bool(words) and (words[-1] in _CONTINUING_OPERATORS or _open_compounds(words) > 0)


def _open_compounds(words: Sequence[str]) -> int:
    """The number of open compound commands. A keyword counts only where a command begins."""
    balance = 0
    begins = True
    for word in words:
        if word.startswith("#"):
            break
        if begins:
            balance += (word in _OPENING_WORDS) - (word in _CLOSING_WORDS)
        begins = word in _BEFORE_COMMAND
    return balance


def begins_with_keyword(text: str) -> bool:
    """Whether the line begins with a keyword, or with a builtin that is not a step to reproduce."""
    return _KEYWORD.match(text) is not None


def is_compound(text: str) -> bool:
    """Whether a part of the command may fail although the exit status is 0: the command is a list,
    a pipeline or a script."""
    if _COMPOUND.search(text):
        return True
    return any(_RUNS_SCRIPT.fullmatch(name) for name in programs(text))


def programs(text: str) -> list[str]:
    """The names of the programs that a command line runs. Quoting is not parsed."""
    found = []
    for simple_command in _SEPARATORS.split(text):
        words = (word for word in simple_command.split() if not _NOT_A_PROGRAM.fullmatch(word))
        first = next(words, "")
        if first and not first.startswith(("'", '"', "$", "#", "-")):
            found.append(first.rpartition("/")[2])
    return found


_HERE_STRING = re.compile(r"<<<\s*(?:\"([^\"$`\\]*)\"|'([^']*)'|([^\s;|&<>()\"'$`\\]+))")


def expand_here_string(text: str) -> str:
    """Replace a here-string of one line, ``cat <<< word``, which busybox's shell does not have, by
    a here-document."""
    match = _HERE_STRING.search(text)
    if match is None or "\n" in text or _HERE_STRING.search(text, match.end()):
        return text
    word = next(each for each in match.groups() if each is not None)
    line = f"{text[: match.start()]}<<'END_OF_STRING'{text[match.end() :]}"
    return f"{line}\n{word}\nEND_OF_STRING"


# A word with a list in braces, but without quotes, variables and escapes.
_PART = r"[^\s{}'\"$\\`;|&<>()]*"
_BRACES = re.compile(
    rf"(?<![^\s;|&(])({_PART})\{{({_PART},{_PART})\}}({_PART}(?:\{{{_PART}\}}{_PART})*)"
)
_MAX_EXPANSIONS = 8


def expand_braces(text: str) -> str:
    """Expand lists in braces, such as ``a{b,c}``, which busybox's shell does not. Lists inside
    other lists and here-documents stay as they are."""
    if "<<" in text:
        return text
    for _ in range(_MAX_EXPANSIONS):
        expanded = _BRACES.sub(_expansion, text)
        if expanded == text:
            break
        text = expanded
    return text


def _expansion(match: re.Match[str]) -> str:
    before, inner, after = match.groups()
    return " ".join(f"{before}{each}{after}" for each in inner.split(","))


def last_word(text: str) -> str:
    """The last argument of a command line."""
    words = text.split()
    return words[-1] if words else ""
