# SPDX-License-Identifier: GPL-2.0-only
"""The commands in README.md and docs/, which are run and compared with the output that the pages
show.

In a ```console block, "$ " precedes a command, a "\\" at its end continues it in the next line,
and its output is below it. In the output, "..." stands for any lines, and "..." at the end of a
line for the rest of the line. An HTML comment above a block has a meaning: <!-- file: NAME -->
writes the block to a file where the commands below it run, and the commands below
<!-- not run: why --> are not run.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

_BLOCK = re.compile(
    r"(?:^<!-- (?P<key>file|not run): (?P<value>.*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """A command in a page.

    ``line``: the number of its first line.
    ``output``: the lines of output that the page shows.
    ``files``: the names and contents of the files that the page has defined above the command.
    ``skipped``: why the command is not run, "" if it is run.
    """

    page: str
    line: int
    command: str
    output: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    skipped: str = ""


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[re.Match[str]]:
    """The fenced blocks of a page, as matches with the groups key, value, kind and text."""
    return _BLOCK.finditer(page.read_text())


def examples(page: Path) -> Iterator[Example]:
    """Yield the commands of a page, in the order of the page."""
    text, files = page.read_text(), dict[str, str]()
    for block in _BLOCK.finditer(text):
        if block["key"] == "file":
            files[block["value"]] = block["text"]
        if block["kind"] != "console":
            continue
        first = text.count("\n", 0, block.start("text")) + 1
        skipped = block["value"] if block["key"] == "not run" else ""
        for line, command, output in _commands(block["text"].splitlines(), first):
            name = str(page.relative_to(ROOT))
            yield Example(name, line, command, output, tuple(files.items()), skipped)


def _commands(lines: Sequence[str], first: int) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = start
        while lines[last].endswith("\\"):
            last += 1
        command = " ".join(line.strip().removesuffix("\\") for line in lines[start : last + 1])
        yield first + start, command.removeprefix("$ "), tuple(lines[last + 1 : end])


# Text that differs between runs and hosts, and its replacement.
_VARYING = (
    (re.compile(r"\[ *\d+\.\d+\]"), "[TIME]"),
    (re.compile(r"\b\d+(\.\d+)? (s|min|ms|MB|GB|KB)\b"), r"N \2"),
    (re.compile(r"\b\d+\.\d+s\b"), "Ns"),
    (re.compile(r"\(\d+\.\d+\.\d+-\d+[^)]*\)"), "(VERSION)"),
    (re.compile(r"\b\d+ translated"), "N translated"),
    (re.compile(r"(/[\w.+-]+){3,}"), "PATH"),
    (re.compile(r" +"), " "),
)


def _normal(line: str) -> str:
    for pattern, word in _VARYING:
        line = pattern.sub(word, line)
    return line.rstrip()


def difference(expected: Sequence[str], printed: Sequence[str]) -> str:
    """Describe the first difference between the expected and the printed lines; "" if there is
    none."""
    lines = [_normal(line) for line in printed]
    at, anywhere = 0, False
    for text in expected:
        if text.strip() == "...":
            anywhere = True
            continue
        within = lines[at:] if anywhere else lines[at : at + 1]
        found = next((n for n, line in enumerate(within) if _matches(text, line)), None)
        if found is None:
            near = within[0] if within else "the end"
            return f"expected {text!r}, found {near!r}"
        at, anywhere = at + found + 1, False
    return "" if anywhere or at == len(lines) else f"not expected: {lines[at]!r}"


def _matches(expected: str, line: str) -> bool:
    """Whether the line matches. A page may omit the rest of a long line."""
    if expected.endswith("..."):
        return line.startswith(_normal(expected.removesuffix("...")))
    return line == _normal(expected)
