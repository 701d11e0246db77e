# SPDX-License-Identifier: GPL-2.0-only
"""Shell prompts, as people paste them, and whether what follows one is a command."""

import re
from dataclasses import dataclass

from harness.report import programs


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the ``command`` behind it, "" for a lone prompt.

    ``text`` is the prompt itself. ``host`` and ``directory`` are what it names ("" where it does
    not; a directory may be "~" or a last component). ``number`` is a number before or behind
    these, an exit status or a count of commands. ``status`` is an exit status in brackets, as fish
    prints it.
    """

    text: str
    host: str
    directory: str
    command: str
    number: int | None = None
    status: int | None = None

    @property
    def prefix(self) -> str:
        """The prompt up to the host, which all prompts of its shell begin with."""
        if not self.host:
            return ""
        before, host, _ = self.text.partition(f"@{self.host}")
        return before + host


# What may precede a prompt: the lower corner of a prompt of two lines, a status, a time.
_CORNER = r"(?:[\u2570\u2514][\u2500-]+ ?)"
_TIME = (
    r"(?:\d{1,3}\|)?(?:\[(?P<number>\d{1,3})\] )?"
    r"(?:\[?\d\d:\d\d(?::\d\d)?\]? ?)?(?:\([\w.-]{1,30}\) ?)?"
)
_USER = r"[\w.-]{1,40}@(?P<host>[\w.-]{1,60}|\(none\))"
_DIR = r"(?P<dir>~|[~/][^\s#$%>\]]{0,200})"
_BRANCH = r"(?: \([\w/.-]{1,60}\))?"

# Prompts that nothing else resembles.
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
        # Arrows and a lambda, as themes of zsh have them.
        "[\u279c\u276f\u03bb] +"
        r"(?:(?P<dir>~|[~/]?[\w./-]{1,80}) +)?(?:git:\([\w/.-]{1,60}\) )?(?:\u2717 +)?(?:[#$%] ?)?",
        r"\(initramfs\)",
        # The second line of a prompt of two.
        rf"{_CORNER}[#$%>\u276f]",
    )
)
# Prompts that may also open prose, a comment or a heading: a known command must follow.
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

# Programs that make a command of a line behind a lone "# ".
_COMMANDS = programs.words("commands")

# Those of them that a sentence may also begin with.
_VERBS = programs.words("verbs")
_SHELL_SIGN = re.compile(r"[-/=$;|&<>\[\"'*\d]")
_SENTENCE_END = re.compile(r"(?:^|\s)[A-Za-z]+[.:?]$")


def parse(line: str) -> Prompt | None:
    """Return the prompt that the line begins with, None without one."""
    for pattern in _STRONG:
        if match := pattern.match(line):
            return _from_match(line, match)
    for pattern in _WEAK:
        match = pattern.match(line)
        if match and is_command(match["command"] or ""):
            return _from_match(line, match)
    match = _DOLLAR.match(line) or _LONE.fullmatch(line)
    return _from_match(line, match) if match else None


# The first line of a prompt of two lines: its upper corner, user, host and directory.
_UPPER = re.compile(
    r"[\u256d\u250c][\u2500-]+ ?\(?[\w.-]{1,40}[^\w\s.-](?P<host>[\w.-]{1,60})\)?"
    r"(?:[-: ]*\[?(?P<dir>~|[~/][^\s\]]{0,200})\]?)?(?: .{0,80})?"
)


def parse_upper_line(line: str) -> Prompt | None:
    """Return the first line of a prompt of two lines; the command follows in the next line."""
    match = _UPPER.fullmatch(line)
    return Prompt(line, match["host"], match["dir"] or "", "") if match else None


def _from_match(line: str, match: re.Match[str]) -> Prompt:
    groups = match.groupdict()
    command = (groups.get("command") or "").rstrip()
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


# A subshell; a remark in brackets consists of words only.
_SUBSHELL = re.compile(r"\( ?([a-z][^()]*[/|>&;$][^()]*)\)(?: *[;&|>].*)?")


def is_command(text: str) -> bool:
    """Whether the text is a shell command. A sentence may begin with a verb that is also a
    program, but it has no options or paths, or it ends like a sentence."""
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
    """Whether a line may be a command although its program is not a known one."""
    return _COMMAND_SHAPE.match(line) is not None and not _SENTENCE_END.search(line)
