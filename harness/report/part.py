# SPDX-License-Identifier: GPL-2.0-only
"""Parts of shell sessions: commands without prose between them, each with its output.

A line is a command only behind a prompt, outside a diff, and when what follows the prompt
can be one; everything else is output or prose.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from harness.report import output, prompt, prompted, shell, traces
from harness.report.lines import Line
from harness.report.prompt import Prompt

_STATUS = re.compile(r"\[(\d{1,3})\]")
_CONTINUED = re.compile(r"^>[ \t]?")
_INTERRUPT = re.compile(r"(?:.*[^^])?(?:\^C)+")

# sudo's prompt for a password, in whatever language.
_PASSWORD = re.compile(r"\[sudo[^\]]*\] [^:]{1,80}: ?")

# Lines of a splat behind a blank line that are looked at.
_MOST_FRAMES = 100

# Blank lines that may stand between one command's output and the next prompt.
_MAX_BLANK = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a session: the ``output`` that the report shows under it, each with
    its ``numbers`` (of lines, from 1), and the exit ``status`` if it gives one. ``line``
    and ``last`` are its own first line and the last of its output. ``directory`` is what
    its prompt names. ``interrupted`` by ^C. Where the output is not ``shown``, as of a
    script, an empty one says nothing. ``ended``: the next prompt stands below it.
    ``background``: the report goes on in another terminal while it runs. ``next_status``
    is what the next prompt shows of its status. ``passed``: numbers of lines below it that
    are another command's, which is not known for one. ``note`` is what its reporter wrote
    behind it."""

    text: str
    output: tuple[str, ...]
    status: int | None
    line: int
    numbers: tuple[int, ...] = ()
    directory: str = ""
    interrupted: bool = False
    shown: bool = True
    ended: bool = False
    background: bool = False
    next_status: int | None = None
    passed: tuple[int, ...] = ()
    note: str = ""

    @property
    def last(self) -> int:
        return max(self.numbers, default=self.line)


@dataclass(slots=True)
class Part:
    """Commands without prose between them; ``depth`` of their quotation, ``host`` of their
    prompts, ``heading`` the prose above."""

    depth: int
    host: str
    heading: str
    commands: list[Command] = field(default_factory=list)


def parts(lines: Sequence[Line]) -> Iterator[Part]:
    """The parts of all sessions in a message, in order; the prose above is their heading."""
    lines, prompts = prompted.read(lines)
    position, prose_from = 0, 0
    while position < len(lines):
        if not _opens(prompts[position]):
            position += 1
            continue
        prose = [line.bare for line in lines[prose_from:position] if not line.diff]
        part, position = _part(lines, prompts, position, " ".join(" ".join(prose).split())[-400:])
        prose_from = position
        if part.commands:
            yield part


def _opens(found: Prompt | None) -> bool:
    """Whether a session may begin with it: a lone "$" or "#" opens none."""
    return found is not None and bool(found.command)


def _part(
    lines: Sequence[Line], prompts: Sequence[Prompt | None], position: int, heading: str
) -> tuple[Part, int]:
    """The part whose first prompt is at ``position``, and where it ends."""
    first = lines[position]
    opening = prompts[position]
    assert opening is not None
    part = Part(first.depth, opening.host, heading)
    numbers: list[int | None] = []
    while position < len(lines) and _same_place(first, lines[position]):
        found = prompts[position]
        if found is None:
            break
        if not found.command or found.command.startswith("#"):
            position = _next_prompt(lines, prompts, position + 1, first, opening)
            continue
        text, begins = _whole_command(lines, prompts, position, first)
        shown, position = _output(lines, prompts, begins, first, opening)
        ends = position
        while position < len(lines) and _is_unknown(lines[position], prompts[position], opening):
            _, position = _output(lines, prompts, position + 1, first, opening)
        after = _next_prompt(lines, prompts, position, first, opening)
        below = prompts[after] if after < len(lines) else None
        ended = below is not None and _is_prompt(lines, prompts, after, first, opening)
        numbers.append(below.number if below and ended and ends == position else None)
        done = _finished(text, shown, lines, found, begins, ended=ended)
        passed = tuple(line.number for line in lines[ends:position])
        known = below.status if below and ended and ends == position else None
        part.commands.append(replace(done, passed=passed, next_status=known))
        position = after
    if _are_statuses([opening.number, *numbers]):
        pairs = zip(part.commands, numbers, strict=True)
        part.commands = [replace(each, next_status=number) for each, number in pairs]
    return part, position


def _are_statuses(numbers: Sequence[int | None]) -> bool:
    """Whether what prompts show are statuses, which are 0 now and again. A shell's count of
    commands goes up, and a window's number stays."""
    known = [number for number in numbers if number is not None]
    return known.count(0) > 1 and len(set(known)) > 1


def _same_place(first: Line, line: Line) -> bool:
    return (line.depth, line.fence) == (first.depth, first.fence) and not line.border


def _is_prompt(
    lines: Sequence[Line],
    prompts: Sequence[Prompt | None],
    position: int,
    first: Line,
    opening: Prompt,
) -> bool:
    """Whether the line has a prompt of this session: of "$" and "#" alone only where the
    session's own are, in the same column."""
    found, line = prompts[position], lines[position]
    if found is None or line.depth != first.depth:
        return False
    if found.text in ("#", "$"):
        return line.indent == first.indent and (bool(found.command) or found.text == opening.text)
    return True


def _whole_command(
    lines: Sequence[Line], prompts: Sequence[Prompt | None], position: int, first: Line
) -> tuple[str, int]:
    """The command at ``position`` with the lines that continue it, with or without
    the shell's second prompt. One that is never finished is only its first line."""
    found = prompts[position]
    assert found is not None
    text = found.command
    end = position + 1
    while shell.incomplete(text) and end < len(lines) and end - position < shell.MAX_LINES:
        line, further = lines[end], prompts[end]
        if further is not None and further.command and line.depth == first.depth:
            break
        text += "\n" + _continuation(first, line)
        end += 1
    if shell.incomplete(text):
        return found.command, position + 1
    return text, end


def _continuation(first: Line, line: Line) -> str:
    # In a session that is not quoted, ">" is the shell's prompt and no quoting.
    if line.depth == first.depth + 1:
        return line.text
    return _CONTINUED.sub("", line.text[min(first.indent, line.indent) :], count=1)


def _output(
    lines: Sequence[Line],
    prompts: Sequence[Prompt | None],
    position: int,
    first: Line,
    opening: Prompt,
) -> tuple[list[int], int]:
    """The positions of a command's output, and where it ends."""
    shown: list[int] = []
    while position < len(lines):
        line = lines[position]
        if not _same_place(first, line) or line.diff:
            break
        if _is_prompt(lines, prompts, position, first, opening):
            break
        if line.blank and not _continues(lines, prompts, position, first, shown):
            break
        if not line.blank and _is_outdented(line, first):
            break
        if output.is_farewell(line.bare) or _is_unknown(line, prompts[position], opening):
            break
        shown.append(position)
        position += 1
    while shown and lines[shown[-1]].blank:
        shown.pop()
    return shown, position


def _is_unknown(line: Line, found: Prompt | None, opening: Prompt) -> bool:
    """Whether it has the session's own prompt before what is no known command: it is no
    output."""
    own = found is None and opening.text == line.bare[:1]
    return own and prompt.looks_like_command(line.bare)


def _is_outdented(line: Line, first: Line) -> bool:
    return line.indent < first.indent and not output.is_kernel_message(line.bare)


def _continues(
    lines: Sequence[Line],
    prompts: Sequence[Prompt | None],
    position: int,
    first: Line,
    shown: Sequence[int],
) -> bool:
    """Whether output goes on after the blank line: only an indented or fenced session can
    tell it from the prose that follows, and only the kernel stamps what it prints, or goes on
    with a splat that is ``shown``."""
    after = next(
        (n for n in range(position, min(len(lines), position + 20)) if not lines[n].blank), None
    )
    if after is None or not _same_place(first, lines[after]) or prompts[after] is not None:
        return False
    following = lines[after]
    if first.fence or output.is_kernel_message(following.bare):
        return True
    if 0 < first.indent <= following.indent:
        return True
    stretch = itertools.takewhile(lambda line: not line.blank, lines[after : after + _MOST_FRAMES])
    return traces.goes_on([lines[n].text for n in shown], [line.text for line in stretch])


def _next_prompt(
    lines: Sequence[Line],
    prompts: Sequence[Prompt | None],
    position: int,
    first: Line,
    opening: Prompt,
) -> int:
    """Past blank lines, when the same session goes on behind them."""
    ahead = position
    most = len(lines) if first.fence else position + _MAX_BLANK
    while ahead < len(lines) and lines[ahead].blank and ahead < most:
        ahead += 1
    again = ahead < len(lines) and _same_place(first, lines[ahead])
    return ahead if again and _is_prompt(lines, prompts, ahead, first, opening) else position


def _finished(
    text: str,
    shown: Sequence[int],
    lines: Sequence[Line],
    found: Prompt,
    begins: int,
    *,
    ended: bool,
) -> Command:
    """The command with what of the lines below it is its output."""
    indent = min((lines[n].indent for n in shown if not lines[n].blank), default=0)
    own = min(indent, lines[begins - 1].indent)
    texts = [(lines[n].number, lines[n].text[own:]) for n in shown]
    if ended:
        texts = output.without_remarks(texts, text)
    else:
        # A splat has headings that look like sentences.
        end = traces.end([each for _, each in texts])
        texts = [*texts[:end], *output.without_prose(texts[end:])]
    texts = [each for each in texts if not _PASSWORD.fullmatch(each[1].strip())]
    interrupted = any(_INTERRUPT.fullmatch(each.strip()) for _, each in texts)
    texts = [(number, output.without_note(each.replace("^C", ""))) for number, each in texts]
    while texts and not texts[-1][1].strip():
        texts.pop()
    status = _STATUS.fullmatch(texts[-1][1].strip()) if texts else None
    if status:
        texts.pop()
    command, note = output.command_and_note(text)
    return Command(
        command,
        tuple(each for _, each in texts),
        int(status[1]) if status else None,
        lines[begins - 1].number
        if "\n" not in text
        else lines[begins - 1 - text.count("\n")].number,
        tuple(number for number, _ in texts),
        found.directory,
        interrupted,
        ended=ended,
        note=note,
    )
