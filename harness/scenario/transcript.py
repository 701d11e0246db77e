# SPDX-License-Identifier: GPL-2.0-only
"""Shell sessions in the text of a bug report, as people paste them.

A line is a command only behind a prompt, outside a diff, and when what follows
the prompt can be one; everything else is output or prose.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# "> " as often as a mail program has quoted the line.
_QUOTE = re.compile(r"(?:[ \t]?>)+[ \t]?")

# Prompts that nothing else looks like: user@host, brackets, a busybox directory.
_STRONG = re.compile(
    r"(?:[\w.-]+@(?:[\w.-]+|\(none\)):[^\s#$]*[#$]"
    r"|\[[\w.-]+@(?:[\w.-]+|\(none\)) [^\]]+\][#$]"
    r"|(?:ba)?sh-[\d.]+[#$]|(?:[\w.-]+:)?[/~][\w/.-]*[ ][#$])[ \t]+(?=\S)"
)
# Prompts that could also open prose, a comment or a heading.
_DOLLAR = re.compile(r"\$[ \t]+(?=\S)")
_HASH = re.compile(r"#[ \t]+(?=\S)")

_WORD = re.compile(r"[\w./~({!\[:-]\S*")
_PATH_OR_ASSIGNMENT = re.compile(r"\.{0,2}/\S+|\w+=\S*")

# What may follow a lone "# ": reports are about these, and prose is not.
_COMMANDS = set(
    re.findall(
        r"\w+",
        "awk cat cd chmod cp cut date dd devlink dmesg do done echo else env ethtool exec "
        "export false fi find for grep head hexdump id if ifconfig insmod ip kill ln ls "
        "lsmod lspci mkdir modinfo modprobe mount mv nc ping printf ps pwd readlink rm "
        "rmmod sed set seq sh sleep sort stat sudo sync sysctl tail tee test then time "
        "timeout touch tree true udevadm umount uname until wait wc wget while xxd ",
    )
)

# Of these, the ones that prose begins with as well.
_VERBS = frozenset(
    {
        "cut",
        "date",
        "do",
        "done",
        "else",
        "find",
        "for",
        "if",
        "kill",
        "mount",
        "set",
        "sort",
        "sleep",
        "test",
        "then",
        "time",
        "touch",
        "until",
        "wait",
        "while",
    }
)
_SHELL_SIGN = re.compile(r"[-/=$;|&<>\[\"'*\d]")
_SENTENCE_END = re.compile(r"(?:^|\s)[A-Za-z]+[.:?]$")

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_DIFF = re.compile(
    r"(?:diff --git |--- (?:a/|/dev/null)|\+\+\+ (?:b/|/dev/null)|index [0-9a-f]{7,}\.\.)"
)

_STATUS = re.compile(r"\[(\d{1,3})\]")
_CONTINUED = re.compile(r">[ \t]?")
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
_MAX_COMMAND = 200

# Blank lines that may stand between one command's output and the next prompt.
_MAX_BLANK = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a session: the ``output`` that the report shows under it, and
    the exit ``status`` if it gives one. ``line`` counts from 1."""

    text: str
    output: tuple[str, ...]
    status: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Session:
    """Commands somebody typed one after the other; ``quoted`` in a reply."""

    commands: tuple[Command, ...]
    quoted: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(command.text for command in self.commands)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a report without its quoting: ``indent`` in columns, ``command``
    what follows a prompt (None without one)."""

    number: int
    depth: int
    indent: int
    text: str
    command: str | None

    @property
    def blank(self) -> bool:
        return not self.text.strip()


def sessions(text: str) -> list[Session]:
    """All sessions of the text, in order."""
    return list(_all_sessions(_lines(text)))


def without_repeats(found: Sequence[Session]) -> list[Session]:
    """The sessions without quotations of others, and without copies. Two that type
    the same and see something else ("with the patch") are two."""
    unquoted = {session.texts for session in found if not session.quoted}
    kept: list[Session] = []
    for session in found:
        repeats = [each for each in kept if each.texts == session.texts]
        quotes = session.quoted and (session.texts in unquoted or repeats)
        if not quotes and not any(_same_output(session, each) for each in repeats):
            kept.append(session)
    return kept


def _same_output(one: Session, other: Session) -> bool:
    return all(
        (a.output, a.status) == (b.output, b.status)
        for a, b in zip(one.commands, other.commands, strict=True)
    )


def _lines(text: str) -> list[_Line]:
    lines: list[_Line] = []
    hunk = (0, 0)
    for number, raw in enumerate(text.splitlines(), start=1):
        quote = _QUOTE.match(raw)
        depth = quote.group().count(">") if quote else 0
        body = raw[quote.end() :] if quote else raw
        if lines and lines[-1].depth != depth:
            hunk = (0, 0)
        hunk, in_diff = _diff_state(hunk, body)
        body = body.expandtabs()
        stripped = body.lstrip()
        command = None if in_diff else _command(stripped)
        lines.append(_Line(number, depth, len(body) - len(stripped), body.rstrip(), command))
    return lines


def _diff_state(hunk: tuple[int, int], body: str) -> tuple[tuple[int, int], bool]:
    """Old and new lines still to come in the hunk after ``body``, and whether
    ``body`` itself belongs to a diff."""
    header = _HUNK.match(body)
    if header:
        return (int(header[1] or 1), int(header[2] or 1)), True
    if _DIFF.match(body):
        return (0, 0), True
    old, new = hunk
    if old <= 0 and new <= 0:
        return (0, 0), False
    kind = body[:1] or " "
    if kind not in " +-\\":
        return (0, 0), False  # the hunk was cut short
    return (old - (kind in " -"), new - (kind in " +")), True


def _command(text: str) -> str | None:
    if strong := _STRONG.match(text):
        return text[strong.end() :].rstrip()
    if dollar := _DOLLAR.match(text):
        rest = text[dollar.end() :].rstrip()
        return rest if _WORD.match(rest) and not rest[0].isdigit() else None
    if root := _HASH.match(text):
        rest = text[root.end() :].rstrip()
        return rest if _is_known(rest) else None
    return None


def _is_known(text: str) -> bool:
    """Whether what follows a lone "# " is a command. Prose may begin with a verb that
    is also a program; it has neither options nor paths, or ends like a sentence."""
    first = text.split(maxsplit=1)[0].rstrip(";")
    if _PATH_OR_ASSIGNMENT.fullmatch(first):
        return True
    if first not in _COMMANDS or _SENTENCE_END.search(text):
        return False
    return first not in _VERBS or text == first or bool(_SHELL_SIGN.search(text))


def _all_sessions(lines: Sequence[_Line]) -> Iterator[Session]:
    position = 0
    while position < len(lines):
        if lines[position].command is None:
            position += 1
            continue
        session, position = _session(lines, position)
        yield session


def _session(lines: Sequence[_Line], position: int) -> tuple[Session, int]:
    """The session whose first prompt is at ``position``, and where it ends."""
    first = lines[position]
    commands = []
    while position < len(lines) and _same_place(first, lines[position]):
        line = lines[position]
        if line.command is None:
            break
        text, position = _whole_command(lines, position)
        output, position = _output(lines, position, first)
        commands.append(_finished(text, output, line.number))
        position = _next_prompt(lines, position, first)
    return Session(tuple(commands), quoted=first.depth > 0), position


def _same_place(first: _Line, line: _Line) -> bool:
    return (line.depth, line.indent) == (first.depth, first.indent)


def _whole_command(lines: Sequence[_Line], position: int) -> tuple[str, int]:
    """The command at ``position`` with the lines that continue it, with or without
    the shell's second prompt. One that is never finished is only its first line."""
    first = lines[position]
    text = first.command or ""
    end = position + 1
    while _incomplete(text) and end < len(lines) and end - position < _MAX_COMMAND:
        line = lines[end]
        if line.command is not None and line.depth == first.depth:
            break
        text += "\n" + _continuation(first, line)
        end += 1
    if _incomplete(text):
        return first.command or "", position + 1
    return text, end


def _continuation(first: _Line, line: _Line) -> str:
    # In a session that is not quoted, ">" is the shell's prompt and no quoting.
    if line.depth == first.depth + 1:
        return line.text
    return _CONTINUED.sub("", line.text[min(first.indent, line.indent) :], count=1)


def _incomplete(text: str) -> bool:
    """Whether a shell would ask for more."""
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


def _output(lines: Sequence[_Line], position: int, first: _Line) -> tuple[list[str], int]:
    output: list[str] = []
    while position < len(lines):
        line = lines[position]
        if line.depth != first.depth or line.command is not None:
            break
        if line.blank:
            if not _continues(lines, position, first):
                break
            output.append("")
        elif line.indent < first.indent or _DIFF.match(line.text):
            break
        else:
            output.append(line.text[first.indent :])
        position += 1
    while output and not output[-1]:
        output.pop()
    return output, position


def _continues(lines: Sequence[_Line], position: int, first: _Line) -> bool:
    """Whether output goes on after the blank line: only an indented session can
    tell it from the prose that follows."""
    following = next((line for line in lines[position:] if not line.blank), None)
    return (
        following is not None
        and first.indent > 0
        and following.depth == first.depth
        and following.indent >= first.indent
        and following.command is None
    )


def _next_prompt(lines: Sequence[_Line], position: int, first: _Line) -> int:
    """Past blank lines, when the same session goes on behind them."""
    ahead = position
    while ahead < len(lines) and lines[ahead].blank and ahead - position < _MAX_BLANK:
        ahead += 1
    if ahead < len(lines) and lines[ahead].command and _same_place(first, lines[ahead]):
        return ahead
    return position


def _finished(text: str, output: list[str], line: int) -> Command:
    status = _STATUS.fullmatch(output[-1].strip()) if output else None
    if status:
        output = output[:-1]
    return Command(text, tuple(output), int(status[1]) if status else None, line)
