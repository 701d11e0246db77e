# SPDX-License-Identifier: GPL-2.0-only
"""Split a message into lines, without quotation marks, stamps of chats and logs, and markup."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.report import prompt

# A mail program adds ">" each time that it quotes the line.
_QUOTE = re.compile(r"(?:[ \t]?>)+[ \t]?")
_ANSI = re.compile(
    r"(?:\x1b|\^\[(?=\[))(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>])"
)

# A line that opens or closes a preformatted block.
_FENCE = re.compile(r"(?P<mark>```+|~~~+)[ \t]*[\w{}.=\"' -]*$")
_MARKUP = re.compile(
    r"(?:<(?P<tag>/?(?:pre|code|div|p|details|summary|blockquote|br|tt|span)\b)[^<>]{0,200}>"
    r"|\[(?P<bb>/?(?:code|quote|pre|console|bash|tt)\b)[^\[\]]{0,80}\]"
    r"|\{(?P<jira>(?:code|noformat|quote)\b)[^{}]{0,80}\}"
    r"|(?P<wiki>\{\{\{|\}\}\}))"
)

# The stamp that a chat or a log puts before each line. It is removed only if most lines of a
# message have it, because a command may also print such text.
_STAMPS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:\d{4}-\d\d-\d\d )?\[?\d\d:\d\d(?::\d\d)?\]? ?<[ @+]?(?P<speaker>[^<>\s]{1,40})> ?",
        r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d(?::\d\d)? {1,20}[@+]?"
        r"(?P<speaker>[\w\[\]`^-]{1,40}) [|\u2502] ?",
        r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?:? {1,3}",
        r"\d\d:\d\d:\d\d\.\d+ {1,3}",
    )
)
_STAMPED_SHARE = 0.6

# Longer lines are neither prose nor a prompt; matching them only costs time.
_MAX_LINE = 4096

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_DIFF = re.compile(
    r"(?:diff --git |--- (?:a/|/dev/null)|\+\+\+ (?:b/|/dev/null)|index [0-9a-f]{7,}\.\.)"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a message.

    ``number`` counts from 1. ``depth`` is the number of times that the line is quoted. ``indent``
    is the number of leading blanks. ``text`` is the line without quotation marks and trailing
    blanks. ``fence`` is the number of the fenced block that contains the line, 0 outside fenced
    blocks. ``separator``: the line is markup or the signature mark of a mail, and the text above
    does not continue below it. ``diff``: the line is part of a patch.
    """

    number: int
    depth: int
    indent: int
    text: str
    fence: int
    separator: bool
    diff: bool

    @property
    def blank(self) -> bool:
        return not self.text.strip()

    @property
    def stripped(self) -> str:
        return self.text.strip()

    def same_block(self, other: "Line") -> bool:
        """Whether the other line has the same depth and fence, and is not a separator."""
        return (other.depth, other.fence) == (self.depth, self.fence) and not other.separator


def parse(text: str) -> list[Line]:
    """Split the text of a message into lines."""
    raw = [line.rstrip("\r") for line in text.replace("\r\n", "\n").split("\n")]
    return list(_lines(_without_stamps(raw)))


def _without_stamps(raw: list[str]) -> list[str]:
    written = [line for line in raw if line.strip()]
    for stamp in _STAMPS:
        found = sum(stamp.match(line) is not None for line in written)
        if found > 2 and found >= _STAMPED_SHARE * len(written):
            return _blank_remarks(raw, stamp) if stamp.groups else _remove(stamp, raw)
    return raw


def _remove(stamp: re.Pattern[str], raw: list[str]) -> list[str]:
    return [stamp.sub("", line, count=1) for line in raw]


def _blank_remarks(raw: list[str], stamp: re.Pattern[str]) -> list[str]:
    """Return a chat's lines without stamps. The lines of speakers that type no command become
    blank: they are comments, not output."""
    typing = {
        match["speaker"]
        for line in raw
        if (match := stamp.match(line)) and prompt.parse(line[match.end() :].strip())
    }
    if not typing:
        return _remove(stamp, raw)
    comments = [(match := stamp.match(line)) and match["speaker"] not in typing for line in raw]
    pairs = zip(comments, _remove(stamp, raw), strict=True)
    return ["" if comment else line for comment, line in pairs]


def _lines(raw: list[str]) -> Iterator[Line]:
    hunk, fence, fences, mark = (0, 0), 0, 0, ""
    last_depth = 0
    for number, line in enumerate(raw, start=1):
        quote = _QUOTE.match(line)
        depth = quote.group().count(">") if quote else 0
        body = _plain(line[quote.end() :] if quote else line)
        if depth != last_depth:
            hunk, fence, mark, last_depth = (0, 0), 0, "", depth
        hunk, diff = _diff_state(hunk, body)
        stripped = body.strip()
        opened = _FENCE.fullmatch(stripped)
        separator = (
            bool(opened) or stripped in ("--", "-- ") or _MARKUP.fullmatch(stripped) is not None
        )
        if opened and not fence:
            fences += 1
            fence, mark = fences, opened["mark"][0]
        elif opened and stripped[0] == mark:
            fence = 0
        yield Line(
            number,
            depth,
            len(body) - len(body.lstrip()),
            body.rstrip(),
            0 if separator else fence,
            separator,
            diff,
        )


def _plain(line: str) -> str:
    """The line as a terminal shows it: without colours, and with carriage returns applied."""
    if "\x1b" in line or "^[[" in line:
        line = _ANSI.sub("", line)
    if "\r" in line:
        line = line.rpartition("\r")[2] or line.replace("\r", "")
    if "\x08" in line:
        line = _overtyped(line[:_MAX_LINE])
    return line.replace("\x00", "").expandtabs()[:_MAX_LINE]


def _overtyped(line: str) -> str:
    """The line after its backspaces have moved the cursor. A terminal erases a character with a
    backspace, a blank and a backspace."""
    shown: list[str] = []
    cursor = 0
    for character in line:
        if character == "\x08":
            cursor = max(0, cursor - 1)
            continue
        shown[cursor : cursor + 1] = character
        cursor += 1
    return "".join(shown).rstrip()


def _diff_state(hunk: tuple[int, int], body: str) -> tuple[tuple[int, int], bool]:
    """Return how many old and new lines the hunk still has after ``body``, and whether ``body``
    belongs to a diff."""
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
        return (0, 0), False  # the hunk is cut short
    return (old - (kind in " -"), new - (kind in " +")), True


def place(first: int, last: int) -> str:
    """Describe the location of lines in a report: "line 3" or "lines 3-5"."""
    return f"line {first}" if first >= last else f"lines {first}-{last}"
