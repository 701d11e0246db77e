# SPDX-License-Identifier: GPL-2.0-only
"""Reproducers without prompts: scripts, blocks of commands, numbered steps."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.report import output, prompt, results, shell
from harness.report.lines import Line
from harness.report.part import Command
from harness.report.session import Session

# Where a script stands in the guest.
PATH = "/tmp/reproducer"  # noqa: S108  in the guest, whose only user is root
_END = "END_OF_REPRODUCER"

_SHEBANG = re.compile(r"#! ?/\S*?(?:/env )?(?P<interpreter>[\w.]+)(?: .*)?$")
_SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh"}

_INTRODUCES = re.compile(
    r"\b(?:reproduc\w*|repro|steps?|script|commands?|test ?case|trigger\w*|do|did|run|running|ran|"
    r"doing|following|like this|this way|sequence|example|how to)\b.{0,80}:$",
    re.IGNORECASE,
)
_KEYWORDS = re.compile(
    r"(?:do|done|then|else|elif|fi|esac|\}|\)|;;|\{|if|for|while|until|case|function|set|trap|exit|"
    r"return|local|shift|break|continue|read|\[|:|\w+\(\))(?:\s|;|$)"
)
_ITEM = re.compile(r"(?:\(?\d{1,2}[.):]|step \d+ ?[:.)-]|[-*•])\s+(?P<text>\S.*)$", re.IGNORECASE)
_HEADING = re.compile(
    r"(?:#+ |\*+|={1,3} ?|h\d\. )?(?P<name>[A-Za-z][\w /'-]{2,40}?)\s*(?:\*+|"
    r"={1,3})?\s*[:\uff1a]?(?:\*+)?$"
)
_STEPS = re.compile(
    r"\b(?:steps?|how|way) to (?:re-?produce|trigger)|reproduc|test steps", re.IGNORECASE
)
_FIRST = re.compile(r"\(?1[.):] ")
_MAX_HEADING = 120
_SPAN = re.compile(r"`+([^`]{2,300})`+")
_LEADS_IN = re.compile(
    r"(?:(?:then|now|next|first|finally|as root|and|again|i|we|just|please|try(?: to)?|use|"
    r"using)[,:]? +)*"
    r"(?:(?:run|execute|type|enter|issue|do|call|invoke|start|load|unload|remove|bind|unbind|insert|"
    r"check|write|observe|see|look at|rescan)\b[^:`\"']{0,60}?(?:: *|\bwith +|\bby +|\busing +|"
    r"\bvia +| ))?",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"'“](?P<text>[^\"”]{2,300})[\"'”]\.?$")


def sessions(lines: Sequence[Line]) -> list[Session]:
    """Reproducers of a message that has no session behind prompts."""
    return list(_shebang_scripts(lines)) or list(_numbered(lines)) or list(_blocks(lines))


def _session(commands: Sequence[Command], first: Line, heading: str = "") -> Session:
    return Session(tuple(commands), first.depth > 0, heading)


def _shebang_scripts(lines: Sequence[Line]) -> Iterator[Session]:
    position = 0
    while position < len(lines):
        match = None if lines[position].diff else _SHEBANG.match(lines[position].bare)
        if match is None:
            position += 1
            continue
        end = _script_end(lines, position)
        body = [line.text for line in lines[position:end]]
        first = lines[position]
        position = end
        script = _script(match["interpreter"], body, first, lines[end - 1])
        yield _session([_with_output(script, lines, lines[end - 1].number)], first)


def _script(interpreter: str, body: Sequence[str], first: Line, last: Line) -> Command:
    indent = min((len(text) - len(text.lstrip()) for text in body if text.strip()), default=0)
    program = "sh" if interpreter in _SHELLS else interpreter
    text = "\n".join(
        (f"cat >{PATH} <<'{_END}'", *(line[indent:] for line in body), _END, f"{program} {PATH}")
    )
    numbers = tuple(range(first.number, last.number + 1))
    return Command(text, (), None, first.number, numbers, shown=False)


def _with_output(script: Command, lines: Sequence[Line], last: int) -> Command:
    """The script with the output that the report shows below its last line."""
    shown = results.block(lines, last)
    return replace(script, output=shown[0], numbers=shown[1], shown=True) if shown else script


def _script_end(lines: Sequence[Line], position: int) -> int:
    """Past the last line that can be the script's."""
    first = lines[position]
    end = here = position + 1
    open_text = ""
    while here < len(lines) and here - position < shell.MAX_LINES:
        line = lines[here]
        if line.border or (line.depth, line.fence) != (first.depth, first.fence):
            break
        if not first.fence and not line.blank and not open_text and not _is_shell(line.bare):
            break
        open_text = f"{open_text}\n{line.text}" if open_text or line.bare else ""
        if not shell.incomplete(open_text.strip()):
            open_text = ""
        here += 1
        if not line.blank:
            end = here
    return end


def _is_shell(text: str) -> bool:
    """Whether the line can be one of a script."""
    if output.is_kernel_message(text) or output.is_farewell(text):
        return False
    return text.startswith("#") or bool(_KEYWORDS.match(text)) or prompt.is_command(text)


def _blocks(lines: Sequence[Line]) -> Iterator[Session]:
    """Blocks of nothing but commands, fenced or indented, or below a line that says what
    they are."""
    position = 0
    while position < len(lines):
        end = _block_end(lines, position)
        block = [line for line in lines[position:end] if not line.blank]
        if block and _is_block(lines, position, block):
            found = _of_block(lines, block)
            yield found
            end = max(end, position + found.last - block[0].number + 1)
        position = max(end, position + 1)


def _block_end(lines: Sequence[Line], position: int) -> int:
    """Past the block that begins at ``position``, or this where none does."""
    first = lines[position]
    end = position
    if first.blank or first.diff or first.border or not _is_shell(first.bare):
        return end
    while end < len(lines) and _same_block(first, lines[end]):
        end += 1
    return end


def _of_block(lines: Sequence[Line], block: Sequence[Line]) -> Session:
    """Commands, or where the report shows what all of them print a script."""
    script = _script("sh", [line.text for line in block], block[0], block[-1])
    whole = _with_output(script, lines, block[-1].number)
    return _session([whole] if whole.shown else list(_commands(block)), block[0])


def _same_block(first: Line, line: Line) -> bool:
    if line.border or line.diff or (line.depth, line.fence) != (first.depth, first.fence):
        return False
    return (bool(first.fence) or not line.blank) and line.indent >= first.indent


def _is_block(lines: Sequence[Line], position: int, block: Sequence[Line]) -> bool:
    first = lines[position]
    before = next((line.bare for line in reversed(lines[:position]) if not line.blank), "")
    set_off = bool(first.fence) or first.indent > 0 or _INTRODUCES.search(before) is not None
    whole = "\n".join(line.text for line in block)
    if not set_off or shell.incomplete(whole):
        return False
    begun = list(_commands(block))
    known = [each for each in begun if prompt.is_command(each.text)]
    plain = [each for each in begun if each in known or _KEYWORDS.match(each.text)]
    # Of a configuration all lines are assignments.
    return any(shell.programs(each.text) for each in known) and len(plain) == len(begun)


def _commands(block: Sequence[Line]) -> Iterator[Command]:
    """The commands of a block, each with the lines that continue it."""
    text, number = "", 0
    for line in block:
        if not text and line.bare.startswith("#"):
            continue
        number = number if text else line.number
        text = f"{text}\n{line.text}" if text else line.bare
        if not shell.incomplete(text):
            yield Command(text, (), None, number, shown=False)
            text = ""
    if text:
        yield Command(text, (), None, number, shown=False)


def _numbered(lines: Sequence[Line]) -> Iterator[Session]:
    """Below a heading such as "Steps to Reproduce", or in a numbered list, the items that
    are commands."""
    starts = [n for n, line in enumerate(lines) if _begins_steps(line)]
    for start in starts:
        commands = []
        for line in lines[start:]:
            if line is not lines[start] and _ends_steps(line):
                break
            commands += [
                Command(text, (), None, line.number, (line.number,), shown=False)
                for text in _of_item(line)
            ]
        if commands:
            yield _session(results.of_last(lines, commands), lines[start])
            return


def _begins_steps(line: Line) -> bool:
    if line.diff or line.depth:
        return False
    heading = _STEPS.search(line.bare) is not None and len(line.bare) < _MAX_HEADING
    return heading or _FIRST.match(line.bare) is not None


def _ends_steps(line: Line) -> bool:
    heading = _HEADING.fullmatch(line.bare)
    return (
        heading is not None
        and re.match(
            r"(?:actual|expected|observed|result|additional|what|version|environment|kernel|trace|log|"
            r"dmesg|output|how reproducible|frequency|impact|regression|workaround|notes?)",
            heading["name"],
            re.IGNORECASE,
        )
        is not None
    )


def _of_item(line: Line) -> list[str]:
    """The commands in one step: its code, or itself, or what stands behind "run"."""
    if line.blank or line.diff or line.border:
        return []
    item = _ITEM.match(line.bare)
    text = item["text"] if item else line.bare
    spans = [_unprompted(span) for span in _SPAN.findall(text)]
    if spans:
        return [span for span in spans if prompt.is_command(span)]
    found = prompt.of(text)
    if found and found.command:
        return [found.command]
    if prompt.is_command(text) and not _KEYWORDS.match(text):
        return [text]
    return _behind_words(text) if item else []


def _behind_words(text: str) -> list[str]:
    """The command that a sentence ends with."""
    rest = _LEADS_IN.sub("", text, count=1).strip()
    quoted = _QUOTED.search(text)
    for candidate in (quoted["text"] if quoted else "", rest, text.rpartition(": ")[2]):
        plain = _unprompted(candidate.strip())
        if plain and prompt.is_command(plain):
            return [plain]
    return []


def _unprompted(text: str) -> str:
    found = prompt.of(text)
    return found.command if found and found.command else text.strip()
