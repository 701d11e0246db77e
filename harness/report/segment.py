# SPDX-License-Identifier: GPL-2.0-only
"""Split a message into segments of shell sessions: commands and output without prose between them.

A line is a command only if it is not part of a diff and begins with a prompt, and the text after
the prompt can be a command. Every other line is output or prose.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from harness.report import kernel_log, prompt, prompt_lines, remarks, shell_syntax
from harness.report.commands import Command
from harness.report.lines import Line
from harness.report.prompt import Prompt

_STATUS = re.compile(r"\[(\d{1,3})\]")
_CONTINUED = re.compile(r"^>[ \t]?")
_INTERRUPT = re.compile(r"(?:.*[^^])?(?:\^C)+")

# The prompt of sudo for a password, in any language.
_PASSWORD = re.compile(r"\[sudo[^\]]*\] [^:]{1,80}: ?")

# How many lines after a blank line are read to find the rest of a splat, and how many blank lines
# may precede it.
_MAX_FRAMES = 100
_MAX_BLANK_IN_SPLAT = 20

# How many blank lines may precede the next prompt.
_MAX_BLANK = 2

# How many characters of the prose above a segment are kept.
_HEADING_LENGTH = 400


@dataclass(slots=True)
class Segment:
    """Commands without prose between them.

    ``depth`` is the depth of the quotation that contains them. ``host`` is the host name in their
    prompts. ``heading`` is the prose above them.
    """

    depth: int
    host: str
    heading: str
    commands: list[Command] = field(default_factory=list)


def find(lines: Sequence[Line]) -> Iterator[Segment]:
    """Yield the segments of all sessions in a message, in order."""
    lines, prompts = prompt_lines.parse(lines)
    position, prose_from = 0, 0
    while position < len(lines):
        if not _opens_segment(prompts[position]):
            position += 1
            continue
        prose = [line.stripped for line in lines[prose_from:position] if not line.diff]
        heading = " ".join(" ".join(prose).split())[-_HEADING_LENGTH:]
        segment, position = _Parser(lines, prompts, position).segment(heading)
        prose_from = position
        if segment.commands:
            yield segment


def _opens_segment(found: Prompt | None) -> bool:
    """Whether a segment may begin with the prompt: a command must follow the prompt."""
    return found is not None and bool(found.command)


# bash prints a blank line before the times of "time".
_TIMES = re.compile(r"real\s+\d")
# A heading in the output of a test runner, such as pytest, that ran the session.
_RULE = re.compile(r"={4,} \S.{0,100} ={4,}|-{4,} \S.{0,100} -{4,}")
# A command in the background, and what an interactive shell prints about its job.
_BACKGROUND = re.compile(r"(?<![&>|])&(?![&>\d])")
_JOB = re.compile(r"\[\d{1,3}\](?:[+-]?\s+\d+|[+-]?\s+[^\W\d]\w*\b.*)")


class _Parser:
    """A parser for the segment that begins at ``start``. Positions are indexes of ``lines``."""

    def __init__(self, lines: Sequence[Line], prompts: Sequence[Prompt | None], start: int) -> None:
        self._lines = lines
        self._prompts = prompts
        self._start = start
        self._first = lines[start]
        opening = prompts[start]
        assert opening is not None
        self._opening = opening

    def segment(self, heading: str) -> tuple[Segment, int]:
        """Parse the segment. Returns it and the position after it."""
        segment = Segment(self._first.depth, self._opening.host, heading)
        numbers: list[int | None] = [self._opening.number]
        position = self._start
        while position < len(self._lines) and self._first.same_block(self._lines[position]):
            found = self._prompts[position]
            if found is None:
                break
            if not found.command or found.command.startswith("#"):
                position = self._next_prompt(position + 1)
                continue
            command, below, position = self._command(position, found)
            segment.commands.append(command)
            numbers.append(below.number if below else None)
        if _are_statuses(numbers):
            pairs = zip(segment.commands, numbers[1:], strict=True)
            segment.commands = [replace(each, next_status=number) for each, number in pairs]
        return segment, position

    def _command(self, position: int, found: Prompt) -> tuple[Command, Prompt | None, int]:
        """Parse the command at the position. Returns the command, the prompt directly below its
        output or None, and the position after the command."""
        text, output_start = self._whole_command(position, found)
        output, end = self._output(output_start)
        position = end
        while self._is_unrecognised_command(position):
            _, position = self._output(position + 1)
        unrecognised = tuple(line.number for line in self._lines[end:position])
        after = self._next_prompt(position)
        ended = self._is_prompt(after)
        below = self._prompts[after] if ended and not unrecognised else None
        command = self._build(text, output, output_start - 1, found.directory, ended=ended)
        status = below.status if below else None
        return replace(command, unrecognised=unrecognised, next_status=status), below, after

    def _is_prompt(self, position: int) -> bool:
        """Whether the line has a prompt of this session. The prompts "$" and "#" count only in the
        column of the session's first prompt, and without a command only if they are equal to it."""
        if position >= len(self._lines):
            return False
        found, line = self._prompts[position], self._lines[position]
        if found is None or line.depth != self._first.depth:
            return False
        if found.text in ("#", "$"):
            alike = bool(found.command) or found.text == self._opening.text
            return line.indent == self._first.indent and alike
        return True

    def _whole_command(self, position: int, found: Prompt) -> tuple[str, int]:
        """Return the command with its continuation lines, which may have the shell's secondary
        prompt, and the position after it. If no line completes the command, it is one line."""
        text = found.command
        end = position + 1
        last = min(len(self._lines), position + shell_syntax.MAX_COMMAND_LINES)
        while shell_syntax.is_incomplete(text) and end < last:
            line, further = self._lines[end], self._prompts[end]
            if further is not None and further.command and line.depth == self._first.depth:
                break
            text += "\n" + self._continuation(line)
            end += 1
        if shell_syntax.is_incomplete(text):
            return found.command, position + 1
        return text, end

    def _continuation(self, line: Line) -> str:
        # In a session that is not quoted, ">" is the shell's secondary prompt.
        if line.depth == self._first.depth + 1:
            return line.text
        return _CONTINUED.sub("", line.text[min(self._first.indent, line.indent) :], count=1)

    def _output(self, position: int) -> tuple[list[int], int]:
        """Return the positions of a command's output, and the position after it."""
        output: list[int] = []
        while position < len(self._lines) and self._is_output(position, output):
            output.append(position)
            position += 1
        while output and self._lines[output[-1]].blank:
            output.pop()
        return output, position

    def _is_output(self, position: int, above: Sequence[int]) -> bool:
        """Whether the line continues the output ``above``."""
        line = self._lines[position]
        if not self._first.same_block(line) or line.diff or self._is_prompt(position):
            return False
        if line.blank:
            return self._continues_after_blank(position, above)
        if self._is_outdented(line) or remarks.is_mail_closing(line.stripped):
            return False
        if _RULE.fullmatch(line.stripped):
            return False
        return not self._is_unrecognised_command(position)

    def _is_unrecognised_command(self, position: int) -> bool:
        """Whether the line has the session's first prompt and a command of an unknown program."""
        if position >= len(self._lines) or self._prompts[position] is not None:
            return False
        line = self._lines[position].stripped
        return self._opening.text == line[:1] and prompt.looks_like_command(line)

    def _is_outdented(self, line: Line) -> bool:
        outdented = line.indent < self._first.indent
        return outdented and not kernel_log.is_kernel_message(line.stripped)

    def _continues_after_blank(self, position: int, above: Sequence[int]) -> bool:
        """Whether the text after the blank line is output: the session is indented or fenced, or
        the text is a stamped kernel message or the rest of the splat ``above``."""
        most = min(len(self._lines), position + _MAX_BLANK_IN_SPLAT)
        after = next((n for n in range(position, most) if not self._lines[n].blank), None)
        if after is None or self._prompts[after] is not None:
            return False
        following = self._lines[after]
        if not self._first.same_block(following):
            return False
        if self._first.fence or kernel_log.is_kernel_message(following.stripped):
            return True
        if _TIMES.match(following.stripped):
            return True
        if 0 < self._first.indent <= following.indent:
            return True
        below = itertools.takewhile(
            lambda line: not line.blank, self._lines[after : after + _MAX_FRAMES]
        )
        return kernel_log.splat_continues(
            [self._lines[n].text for n in above], [line.text for line in below]
        )

    def _next_prompt(self, position: int) -> int:
        """Skip blank lines, if a prompt of the same session follows. Returns the new position."""
        after = position
        most = len(self._lines) if self._first.fence else position + _MAX_BLANK
        while after < len(self._lines) and self._lines[after].blank and after < most:
            after += 1
        again = after < len(self._lines) and self._first.same_block(self._lines[after])
        return after if again and self._is_prompt(after) else position

    def _build(
        self, text: str, output: Sequence[int], last_own: int, directory: str, *, ended: bool
    ) -> Command:
        """Build the command from its text and the positions of its output, leaving out remarks and
        prose in the output. ``last_own`` is the position of the command's last line."""
        lines = self._lines
        indent = min((lines[n].indent for n in output if not lines[n].blank), default=0)
        removed = min(indent, lines[last_own].indent)
        texts = [(lines[n].number, lines[n].text[removed:]) for n in output]
        if ended:
            texts = remarks.drop_remarks(texts, text)
        else:
            # The headings of a splat resemble sentences.
            end = kernel_log.end_of_last_splat([each for _, each in texts])
            texts = [*texts[:end], *remarks.drop_prose(texts[end:])]
        texts = [each for each in texts if not _PASSWORD.fullmatch(each[1].strip())]
        if _BACKGROUND.search(text):
            texts = [each for each in texts if not _JOB.fullmatch(each[1].strip())]
        interrupted = any(_INTERRUPT.fullmatch(each.strip()) for _, each in texts)
        texts = [(number, remarks.strip_note(each.replace("^C", ""))) for number, each in texts]
        while texts and not texts[-1][1].strip():
            texts.pop()
        status = _STATUS.fullmatch(texts[-1][1].strip()) if texts else None
        if status:
            texts.pop()
        command, note = remarks.split_note(text)
        return Command(
            command,
            tuple(each for _, each in texts),
            int(status[1]) if status else None,
            lines[last_own - text.count("\n")].number,
            tuple(number for number, _ in texts),
            directory,
            interrupted,
            ended=ended,
            note=note,
        )


def _are_statuses(numbers: Sequence[int | None]) -> bool:
    """Whether the numbers in prompts are exit statuses: more than one is 0, and they differ. A
    history number only increases, and the number of a window does not change."""
    known = [number for number in numbers if number is not None]
    return known.count(0) > 1 and len(set(known)) > 1
