# SPDX-License-Identifier: GPL-2.0-only
"""Find reproducers that are lists of steps: numbered lists, tables, or bullet lists."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.report import error_message, prompt, reproducer_output, shell_syntax
from harness.report.commands import Command
from harness.report.lines import Line
from harness.report.session import Session

_LIST_ITEM = re.compile(
    r"(?:\(?\d{1,2}[.):]|step \d+ ?[:.)-]|[-*•])\s+(?P<text>\S.*)$", re.IGNORECASE
)
_HEADING = re.compile(
    r"(?:#+ |\*+|={1,3} ?|h\d\. )?(?P<name>[A-Za-z][\w /'-]{2,40}?)\s*(?:\*+|"
    r"={1,3})?\s*[:\uff1a]?(?:\*+)?$"
)
_STEPS_HEADING = re.compile(
    r"\b(?:steps?|how|way) to (?:re-?produce|trigger)|reproduc|test steps", re.IGNORECASE
)
_HEADING_AFTER_STEPS = re.compile(
    r"(?:actual|expected|observed|result|additional|what|version|environment|kernel|trace|log|"
    r"dmesg|output|how reproducible|frequency|impact|regression|workaround|notes?)",
    re.IGNORECASE,
)
_FIRST_ITEM = re.compile(r"\(?1[.):] ")
_MAX_HEADING = 120
_CODE_SPAN = re.compile(r"`+([^`]{2,300})`+")
_LEADS_IN = re.compile(
    r"(?:(?:then|now|next|first|finally|as root|and|again|i|we|just|please|try(?: to)?|use|"
    r"using)[,:]? +)*"
    r"(?:(?:run|execute|type|enter|issue|do|call|invoke|start|load|unload|remove|bind|unbind|insert|"
    r"check|write|observe|see|look at|rescan)\b[^:`\"']{0,60}?(?:: *|\bwith +|\bby +|\busing +|"
    r"\bvia +| ))?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"'“](?P<text>[^\"”]{2,300})[\"'”]\.?$")

# A Markdown table: its rows, and the row below the header.
_ROW = re.compile(r"\|.+\|")
_DELIMITER = re.compile(r"\|(?: *:?-+:? *\|)+")
_OUTPUT_HEADER = re.compile(
    r"\b(?:output|prints?|results?|shows?|actual\w*|observed)\b", re.IGNORECASE
)
_EXPECTED_HEADER = re.compile(r"\b(?:expected|should|wanted)\b", re.IGNORECASE)
_CODE_CELL = re.compile(r"`+([^`]+)`+")
_NUMBER = re.compile(r"-?\d+")


def numbered(lines: Sequence[Line]) -> Iterator[Session]:
    """Yield a session of the commands below a heading such as "Steps to Reproduce" or in a
    numbered list."""
    starts = [n for n, line in enumerate(lines) if _begins_steps(line)]
    for start in starts:
        steps = []
        for line in lines[start:]:
            if line is not lines[start] and _ends_steps(line):
                break
            steps += _commands_in_item(line)
        if steps:
            commands = reproducer_output.attach_to_last_step(lines, steps)
            yield Session(tuple(commands), lines[start].depth > 0)
            return


def _begins_steps(line: Line) -> bool:
    if line.diff or line.depth:
        return False
    heading = _STEPS_HEADING.search(line.stripped) is not None and len(line.stripped) < _MAX_HEADING
    return heading or _FIRST_ITEM.match(line.stripped) is not None


def _ends_steps(line: Line) -> bool:
    heading = _HEADING.fullmatch(line.stripped)
    return heading is not None and _HEADING_AFTER_STEPS.match(heading["name"]) is not None


def _commands_in_item(line: Line) -> list[Command]:
    return [
        Command(text, (), None, line.number, (line.number,), output_known=False)
        for text in _texts_in_item(line)
    ]


def _texts_in_item(line: Line) -> list[str]:
    """The commands of an item: its code spans; if there are none, its whole text, or the text after
    a verb such as "run"."""
    if line.blank or line.diff or line.separator:
        return []
    item = _LIST_ITEM.match(line.stripped)
    text = item["text"] if item else line.stripped
    spans = [_without_prompt(span) for span in _CODE_SPAN.findall(text)]
    if spans:
        return [span for span in spans if prompt.is_command(span)]
    found = prompt.parse(text)
    if found and found.command:
        return [found.command]
    if prompt.is_command(text) and not shell_syntax.begins_with_keyword(text):
        return [text]
    return _command_after_words(text) if item else []


def _command_after_words(text: str) -> list[str]:
    """The command at the end of a sentence."""
    rest = _LEADS_IN.sub("", text, count=1).strip()
    quoted = _QUOTED.search(text)
    for candidate in (quoted["text"] if quoted else "", rest, text.rpartition(": ")[2]):
        plain = _without_prompt(candidate.strip())
        if plain and prompt.is_command(plain):
            return [plain]
    return []


def _without_prompt(text: str) -> str:
    found = prompt.parse(text)
    return found.command if found and found.command else text.strip()


def bullets(lines: Sequence[Line]) -> Iterator[Session]:
    """Yield a session for each list in which the first item is only a command in backquotes."""
    position = 0
    while position < len(lines):
        end = position
        if _is_code_item(lines[position]):
            while end < len(lines) and _continues_list(lines[position], lines[end]):
                end += 1
            steps = [each for line in lines[position:end] for each in _commands_in_item(line)]
            commands = reproducer_output.attach_to_last_step(lines, steps)
            yield Session(tuple(commands), lines[position].depth > 0)
        position = max(end, position + 1)


def _is_code_item(line: Line) -> bool:
    item = None if line.diff else _LIST_ITEM.match(line.stripped)
    code = _CODE_SPAN.fullmatch(item["text"]) if item else None
    return code is not None and _runs_program(_without_prompt(code[1]))


def _runs_program(text: str) -> bool:
    """Whether the text is a command that runs a program, not an assignment."""
    return prompt.is_command(text) and bool(shell_syntax.programs(text))


def _continues_list(first: Line, line: Line) -> bool:
    if line.diff or not first.same_block(line):
        return False
    return line.blank or _LIST_ITEM.match(line.stripped) is not None


@dataclass(frozen=True, slots=True)
class _Table:
    """A Markdown table: the cells of the ``header``, and the cells of ``rows`` with their lines."""

    header: list[str]
    rows: list[tuple[Line, list[str]]]

    def column(self, number: int) -> list[str]:
        """The cells of a column that are not empty."""
        return [cells[number] for _, cells in self.rows if number < len(cells) and cells[number]]


def tables(lines: Sequence[Line]) -> Iterator[Session]:
    """Yield a session for each table with a column of commands, and their output if shown."""
    for table in _tables(lines):
        columns = range(len(table.header))
        column = next((n for n in columns if _is_column_of_commands(table.column(n))), None)
        if column is not None:
            output = next((n for n in columns if n > column and _has_output(table.header[n])), None)
            rows = [row for row in table.rows if column < len(row[1]) and row[1][column]]
            steps = [_command_in_row(line, cells, column, output) for line, cells in rows]
            yield Session(tuple(steps), rows[0][0].depth > 0)


def _tables(lines: Sequence[Line]) -> Iterator[_Table]:
    for position in range(1, len(lines)):
        if not _DELIMITER.fullmatch(lines[position].stripped):
            continue
        header = lines[position - 1]
        rows = []
        for line in lines[position + 1 :]:
            if line.diff or not header.same_block(line) or not _ROW.fullmatch(line.stripped):
                break
            rows.append((line, _cells(line.stripped)))
        if rows and _ROW.fullmatch(header.stripped):
            yield _Table(_cells(header.stripped), rows)


def _cells(row: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", row)[1:-1]
    return [cell.replace("\\|", "|").strip() for cell in cells]


def _is_column_of_commands(cells: Sequence[str]) -> bool:
    return bool(cells) and all(_runs_program(_command_in_cell(cell)) for cell in cells)


def _command_in_cell(cell: str) -> str:
    code = _CODE_CELL.fullmatch(cell)
    return _without_prompt(code[1] if code else cell)


def _has_output(header: str) -> bool:
    return bool(_OUTPUT_HEADER.search(header)) and not _EXPECTED_HEADER.search(header)


def _command_in_row(line: Line, cells: Sequence[str], column: int, output: int | None) -> Command:
    text = _command_in_cell(cells[column])
    command = Command(text, (), None, line.number, (line.number,), output_known=False)
    cell = cells[output] if output is not None and output < len(cells) else ""
    code = _CODE_CELL.fullmatch(cell)
    if not (code or _NUMBER.fullmatch(cell) or error_message.parse(cell)):
        return command
    return replace(command, output=(code[1] if code else cell,), output_known=True, ended=True)
