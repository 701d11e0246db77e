# SPDX-License-Identifier: GPL-2.0-only
"""The reference page and the manual page of the command line, generated from the commands' help::

python -m tests.reference      # rewrites both
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from harness.cli.main import app

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference/command-line.md"
MANUAL = ROOT / "docs/iommu-harness.1"

_PROGRAM = "iommu-harness"


@dataclass(frozen=True, slots=True)
class Option:
    """An option or argument: its ``names`` with the metavar, and its help ``text``."""

    names: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command or subcommand.

    ``name``: its full name, with the program.
    ``usage``: the options and arguments after the name.
    ``text``: its help.
    """

    name: str
    usage: str
    text: str
    options: tuple[Option, ...]


def commands() -> list[Command]:
    """All commands that are not hidden, in the order of the help."""
    return list(_walk(typer.main.get_command(app), _PROGRAM))


def _walk(command: Any, name: str) -> Iterator[Command]:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = re.sub(r"[{}]", "", " ".join(command.collect_usage_pieces(context)))
    named = [_option(each, context) for each in command.get_params(context)]
    yield Command(name, usage, _plain(command.help or ""), tuple(filter(None, named)))
    for each in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _walk(command.get_command(context, each), f"{name} {each}")


def _plain(text: str) -> str:
    """Remove click's marks for paragraphs that are not wrapped."""
    return re.sub("\b\n|[\b\f]", "", text).strip()


def _option(parameter: Any, context: Any) -> Option | None:
    """The option or argument of a parameter, None if it has no help. The type that typer appends
    to arguments (REPORT <list[Path]>) is removed."""
    names, text = parameter.get_help_record(context) or ("", "")
    return Option(re.sub(r" <\S+>$", "", names), text) if names else None


def page() -> str:
    """The reference page, in Markdown."""
    lines = [
        "# Command line",
        "",
        "Generated from the commands' help by `python -m tests.reference`.",
        "",
    ]
    for each in commands():
        lines += [
            f"## {each.name}",
            "",
            "```",
            f"{each.name} {each.usage}",
            "```",
            "",
            *_marked(each.text),
            "",
        ]
        lines += [f"- `{option.names}`: {_line(option.text)}" for option in each.options]
        lines += [""] if each.options else []
    return "\n".join(lines).rstrip() + "\n"


def _marked(text: str) -> Iterator[str]:
    """Yield the lines of a text in Markdown. Indented paragraphs are examples."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("  "):
            yield from (
                "```",
                *(line.removeprefix("  ") for line in paragraph.splitlines()),
                "```",
                "",
            )
        else:
            yield from (_line(paragraph), "")


def _line(text: str) -> str:
    return " ".join(text.split())


def manual() -> str:
    """The manual page, in roff."""
    lines = [
        '.TH IOMMU-HARNESS 1 "" "" "User Commands"',
        ".SH NAME",
        f"{_PROGRAM} \\- test kernels with modular IOMMU drivers in QEMU",
    ]
    for each in commands():
        lines += [".SH " + each.name.upper(), f".B {_roff(each.name)}", _roff(each.usage)]
        for paragraph in each.text.split("\n\n"):
            example = paragraph.startswith("  ")
            lines += [".PP", *([".EX"] if example else [])]
            lines += [_roff(line) for line in paragraph.splitlines()]
            lines += [".EE"] if example else []
        for option in each.options:
            lines += [".TP", f".B {_roff(option.names)}", _roff(_line(option.text))]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    PAGE.write_text(page())
    MANUAL.write_text(manual())
