# SPDX-License-Identifier: GPL-2.0-only
"""Find reproducers without prompts: scripts, blocks of commands, and lists of steps."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.report import (
    kernel_log,
    prompt,
    prose_session,
    remarks,
    reproducer_output,
    shell_syntax,
    step_list,
)
from harness.report.commands import Command
from harness.report.lines import Line
from harness.report.session import Session

# The path of the script in the guest.
PATH = "/tmp/reproducer"  # noqa: S108  in the guest, whose only user is root
_HEREDOC_END = "END_OF_REPRODUCER"

_SHEBANG = re.compile(r"#! ?/\S*?(?:/env )?(?P<interpreter>[\w.]+)(?: .*)?$")
_SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh"}

_INTRODUCES_COMMANDS = re.compile(
    r"\b(?:reproduc\w*|repro|steps?|script|commands?|test ?case|trigger\w*|do|did|run|running|ran|"
    r"doing|following|like this|this way|sequence|example|how to)\b.{0,80}:$",
    re.IGNORECASE,
)


def find(lines: Sequence[Line]) -> list[Session]:
    """Return the reproducers of a message that contains no session with prompts."""
    sources = (
        _scripts_with_shebang,
        step_list.tables,
        step_list.numbered,
        _blocks,
        step_list.bullets,
        prose_session.find,
    )
    return next((found for source in sources if (found := list(source(lines)))), [])


def _scripts_with_shebang(lines: Sequence[Line]) -> Iterator[Session]:
    position = 0
    while position < len(lines):
        match = None if lines[position].diff else _SHEBANG.match(lines[position].stripped)
        if match is None:
            position += 1
            continue
        end = _script_end(lines, position)
        body = [line.text for line in lines[position:end]]
        first = lines[position]
        position = end
        script = _script_command(match["interpreter"], body, first, lines[end - 1])
        yield Session((_with_output(script, lines, lines[end - 1].number),), first.depth > 0)


def _script_command(interpreter: str, body: Sequence[str], first: Line, last: Line) -> Command:
    indent = min((len(text) - len(text.lstrip()) for text in body if text.strip()), default=0)
    program = "sh" if interpreter in _SHELLS else interpreter
    text = "\n".join(
        (
            f"cat >{PATH} <<'{_HEREDOC_END}'",
            *(line[indent:] for line in body),
            _HEREDOC_END,
            f"{program} {PATH}",
        )
    )
    numbers = tuple(range(first.number, last.number + 1))
    return Command(text, (), None, first.number, numbers, output_known=False)


def _with_output(script: Command, lines: Sequence[Line], last: int) -> Command:
    """Return the script with the output that the report shows below line ``last``."""
    output = reproducer_output.find_block(lines, last, [script.text])
    if output is None:
        return script
    texts, numbers = output
    return replace(script, output=texts, numbers=numbers, output_known=True)


def _script_end(lines: Sequence[Line], position: int) -> int:
    """Return the position after the last line that may belong to the script."""
    first = lines[position]
    end = current = position + 1
    open_text = ""
    while current < len(lines) and current - position < shell_syntax.MAX_COMMAND_LINES:
        line = lines[current]
        if not first.same_block(line):
            break
        if (
            not first.fence
            and not line.blank
            and not open_text
            and not _is_script_line(line.stripped)
        ):
            break
        open_text = f"{open_text}\n{line.text}" if open_text or line.stripped else ""
        if not shell_syntax.is_incomplete(open_text.strip()):
            open_text = ""
        current += 1
        if not line.blank:
            end = current
    return end


def _is_script_line(text: str) -> bool:
    """Whether the line may belong to a script."""
    if kernel_log.is_kernel_message(text) or remarks.is_mail_closing(text):
        return False
    return text.startswith("#") or shell_syntax.begins_with_keyword(text) or prompt.is_command(text)


def _blocks(lines: Sequence[Line]) -> Iterator[Session]:
    """Yield a session for each block that contains only commands and is fenced, indented, or below
    a line that introduces commands."""
    position = 0
    while position < len(lines):
        end = _block_end(lines, position)
        block = [line for line in lines[position:end] if not line.blank]
        if block and _is_block(lines, position, block):
            found = _session_of_block(lines, block)
            yield found
            end = max(end, position + found.last_line - block[0].number + 1)
        position = max(end, position + 1)


def _block_end(lines: Sequence[Line], position: int) -> int:
    """Return the position after the block at ``position``, or ``position`` without a block."""
    first = lines[position]
    end = position
    if first.blank or first.diff or first.separator or not _is_script_line(first.stripped):
        return end
    while end < len(lines) and _same_block(first, lines[end]):
        end += 1
    return end


def _session_of_block(lines: Sequence[Line], block: Sequence[Line]) -> Session:
    """Return the commands of a block, or a single script if the report shows its output."""
    script = _script_command("sh", [line.text for line in block], block[0], block[-1])
    whole = _with_output(script, lines, block[-1].number)
    commands = [whole] if whole.output_known else _commands(block)
    return Session(tuple(commands), block[0].depth > 0)


def _same_block(first: Line, line: Line) -> bool:
    if line.diff or not first.same_block(line):
        return False
    return (bool(first.fence) or not line.blank) and line.indent >= first.indent


def _is_block(lines: Sequence[Line], position: int, block: Sequence[Line]) -> bool:
    first = lines[position]
    before = next((line.stripped for line in reversed(lines[:position]) if not line.blank), "")
    set_off = (
        bool(first.fence) or first.indent > 0 or _INTRODUCES_COMMANDS.search(before) is not None
    )
    whole = "\n".join(line.text for line in block)
    if not set_off or shell_syntax.is_incomplete(whole):
        return False
    found = list(_commands(block))
    known = [each for each in found if prompt.is_command(each.text)]
    plausible = [
        each for each in found if each in known or shell_syntax.begins_with_keyword(each.text)
    ]
    # A block that contains only assignments is a configuration.
    return any(shell_syntax.programs(each.text) for each in known) and len(plausible) == len(found)


def _commands(block: Sequence[Line]) -> Iterator[Command]:
    """Yield the commands of a block, each with its continuation lines."""
    text, number = "", 0
    for line in block:
        if not text and line.stripped.startswith("#"):
            continue
        number = number if text else line.number
        text = f"{text}\n{line.text}" if text else line.stripped
        if not shell_syntax.is_incomplete(text):
            yield Command(text, (), None, number, output_known=False)
            text = ""
    if text:
        yield Command(text, (), None, number, output_known=False)
