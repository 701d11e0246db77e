# SPDX-License-Identifier: GPL-2.0-only
"""Parse shell prompts in pasted text, and decide whether a text is a shell command."""

import re
from dataclasses import dataclass

from harness.report import programs


@dataclass(frozen=True, slots=True)
class Prompt:
    """A shell prompt.

    ``text`` is the prompt without the ``command`` after it, which may be "". ``host`` is the host
    name in the prompt, or "". ``directory`` is the directory in the prompt: a path, "~", the last
    component of a path, or "". ``number`` is a number before the prompt or after its directory: an
    exit status or a history number. ``status`` is an exit status in brackets, which fish prints.
    """

    text: str
    host: str
    directory: str
    command: str
    number: int | None = None
    status: int | None = None

    @property
    def prefix(self) -> str:
        """The prompt up to the host name. All prompts of the same shell begin with it."""
        if not self.host:
            return ""
        before, host, _ = self.text.partition(f"@{self.host}")
        return before + host


# Text that may precede a prompt: the lower corner of a two-line prompt, a status, a time.
_CORNER = r"(?:[\u2570\u2514][\u2500-]+ ?)"
_TIME = (
    r"(?:\d{1,3}\|)?(?:\[(?P<number>\d{1,3})\] )?"
    r"(?:\[?\d\d:\d\d(?::\d\d)?\]? ?)?(?:\([\w.-]{1,30}\) ?)?"
)
_USER = r"[\w.-]{1,40}@(?P<host>[\w.-]{1,60}|\(none\)|\[[0-9a-fA-F:.]{2,45}\])"
_DIR = r"(?P<dir>~|[~/][^\s#$%>\]]{0,200})"
_BRANCH = r"(?: \([\w/.-]{1,60}\))?"

# Prompts that no other text resembles.
_STRONG = tuple(
    re.compile(_TIME + pattern + r"(?:[ \t]+(?P<command>\S.*)|[ \t]*)$")
    for pattern in (
        # root@host:~#  root@host ~ #  root@host:/sys (main)$  root@host:~ 0 #
        rf"{_USER}(?:[: ] ?{_DIR})?{_BRANCH}(?: (?P<behind>\d{{1,3}}))? ?[#$%]",
        # root@host ~>  root@host ~ [1]#  as fish prints it
        rf"{_USER}[: ]{_DIR}{_BRANCH}(?: \[(?:\d+\|)*(?P<status>\d{{1,3}})\])? ?[>#]",
        # root@host e1000e#
        rf"{_USER} (?P<dir>[\w.+-]{{1,60}}) ?[#$%]",
        # [root@host dir]#
        rf"\[{_USER}[: ](?P<dir>[^\]\s]{{1,200}})\] ?[#$%>]",
        r"-?(?:ba|da|a|k|z)?sh(?:-[\d.]{1,8})[#$%]",
        # host:~#  / #  ~ $  host ~ #
        rf"(?P<host>[\w.-]{{1,60}}):{_DIR} ?[#$]",
        rf"(?:(?P<host>[\w.-]{{1,60}}) )?{_DIR} [#$]",
        "[\u279c\u276f\u03bb] +(?P<dir>~)",
        # The arrows and the lambda of zsh themes.
        "[\u279c\u276f\u03bb]"
        r"(?: +(?P<dir>~|[~/]?[\w./-]{1,80})(?= +(?:git:\(|\u2717|[#$%])))?"
        r"(?: +git:\([\w/.-]{1,60}\))?(?: +\u2717)?(?: +[#$%])?",
        r"\(initramfs\)",
        # The second line of a two-line prompt.
        rf"{_CORNER}[#$%>\u276f]",
    )
)
# A zsh theme that shows only the directory: a word that is not a program.
_THEME = re.compile(
    "[\u279c\u276f\u03bb] +" r"(?P<all>(?P<dir>[~/]?[\w./-]{1,80}|/) +(?P<command>\S.*))$"
)

# Prompts that may also begin prose, a comment or a heading: a known command must follow.
_WEAK = tuple(
    re.compile(pattern)
    for pattern in (
        # root@host#command
        rf"{_USER}(?:[: ]{_DIR})?[#$](?P<command>[a-z./]\S*(?: .*)?)$",
        # One word, as csh and zsh print the host's name.
        r"(?:[A-Za-z][\w.-]{0,40}[%#$]|%) +(?P<command>\S.*)$",
        # A shell's trace of its commands (set -x).
        r"\++ (?P<command>\S.*)$",
        r"#[ \t]+(?P<command>\S.*)$",
    )
)
_DOLLAR = re.compile(r"\$[ \t]+(?P<command>[A-Za-z_./~({!\[:-]\S*.*)$")
_LONE = re.compile(r"[$#]")

_PATH_OR_ASSIGNMENT = re.compile(r"\.{0,2}/\S+|\w+=\S*")

# The programs with which a command may begin.
_COMMANDS = programs.words("commands")

# The programs with names that may also begin a sentence.
_VERBS = programs.words("verbs")
_SHELL_SIGN = re.compile(r"[-/=$;|&<>\[\"'*\d]")
_SENTENCE_END = re.compile(r"(?:^|\s)[A-Za-z]+[.:?]$")


def parse(line: str) -> Prompt | None:
    """Parse the prompt at the beginning of a line. Returns None if there is no prompt."""
    match = _THEME.match(line)
    if match and is_command(match["command"]) and not is_command(match["all"]):
        return _from_match(line, match)
    for pattern in _STRONG:
        if match := pattern.match(line):
            return _from_match(line, match)
    for pattern in _WEAK:
        match = pattern.match(line)
        if match and is_command(match["command"] or ""):
            return _from_match(line, match)
    match = _DOLLAR.match(line) or _LONE.fullmatch(line)
    return _from_match(line, match) if match else None


# The time that zsh shows at the right margin (RPROMPT).
_RIGHT = re.compile(r"(?:^|[ \t]{3,})\[\d\d:\d\d(?::\d\d)?\]$")

# The first line of a two-line prompt: its upper corner, user, host and directory.
_UPPER = re.compile(
    r"[\u256d\u250c][\u2500-]+ ?\(?[\w.-]{1,40}[^\w\s.-](?P<host>[\w.-]{1,60})\)?"
    r"(?:[-: ]*\[?(?P<dir>~|[~/][^\s\]]{0,200})\]?)?(?: .{0,80})?"
)


def parse_upper_line(line: str) -> Prompt | None:
    """Parse the first line of a two-line prompt. Returns None for any other line."""
    match = _UPPER.fullmatch(line)
    return Prompt(line, match["host"], match["dir"] or "", "") if match else None


def _from_match(line: str, match: re.Match[str]) -> Prompt:
    groups = match.groupdict()
    command = _RIGHT.sub("", groups.get("command") or "").rstrip()
    text = line[: len(line) - len(groups.get("command") or "")].rstrip()
    number = groups.get("number") or groups.get("behind")
    status = groups.get("status")
    return Prompt(
        text,
        groups.get("host") or "",
        groups.get("dir") or "",
        command,
        int(number) if number else None,
        int(status) if status else None,
    )


# A subshell. A remark in brackets consists only of words.
_SUBSHELL = re.compile(r"\( ?([a-z][^()]*[/|>&;$][^()]*)\)(?: *[;&|>].*)?")


def is_command(text: str) -> bool:
    """Whether the text is a shell command. A sentence may begin with a verb that is also the name
    of a program, but it contains no options or paths, or it ends with punctuation."""
    if inner := _SUBSHELL.fullmatch(text):
        return is_command(inner[1])
    first = (text.split(maxsplit=1) or [""])[0].rstrip(";")
    if _PATH_OR_ASSIGNMENT.fullmatch(first):
        return True
    if first not in _COMMANDS or _SENTENCE_END.search(text):
        return False
    return first not in _VERBS or text == first or bool(_SHELL_SIGN.search(text))


_COMMAND_SHAPE = re.compile(r"[#%] +[a-z][\w.+-]*(?= ).*(?:[|>]| -{1,2}\w|/\w)")


def looks_like_command(line: str) -> bool:
    """Whether a line may be a command of an unknown program."""
    return _COMMAND_SHAPE.match(line) is not None and not _SENTENCE_END.search(line)
