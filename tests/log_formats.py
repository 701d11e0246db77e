# SPDX-License-Identifier: GPL-2.0-only
"""Formats of kernel logs: a console log as it appears in syslog, journals, mail, bug trackers and
terminals. ``python -m tests.log_formats FORMAT < LOG`` prints a log in one format."""

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable

_STAMP = re.compile(r"\[ *(\d+)\.(\d{6})\] ?")
_DATE = "Nov 30 05:%02d:%02d"


def _time(line: str) -> tuple[int, str]:
    """The seconds since boot, and the text after the timestamp."""
    match = _STAMP.match(line)
    return (int(match[1]), line[match.end() :]) if match else (0, line)


def _syslog(line: str) -> str:
    seconds, _ = _time(line)
    return f"{_DATE % (seconds // 60 % 60, seconds % 60)} guest kernel: {line}"


def _journal(line: str) -> str:
    """journalctl -k -o short-iso"""
    seconds, text = _time(line)
    return f"2026-11-30T05:{seconds // 60 % 60:02}:{seconds % 60:02}+0000 guest kernel: {text}"


def _dmesg_t(line: str) -> str:
    """dmesg -T"""
    seconds, text = _time(line)
    return f"[Mon Nov 30 05:{seconds // 60 % 60:02}:{seconds % 60:02} 2026] {text}"


def _dmesg_x(line: str) -> str:
    """dmesg -x"""
    return f"kern  :warn  : {line}"


def _colour(line: str) -> str:
    """dmesg --color=always"""
    match = _STAMP.match(line)
    if match is None:
        return line
    return f"\x1b[32m{match[0].rstrip()} \x1b[0m\x1b[33m{line[match.end() :]}\x1b[0m"


def _lava(line: str) -> str:
    """a console log of LAVA"""
    seconds, _ = _time(line)
    return f"2026-11-30T05:{seconds // 60 % 60:02}:{seconds % 60:02}.{seconds % 1000:06}  {line}"


def _bare(line: str) -> str:
    """CONFIG_PRINTK_TIME=n"""
    return _time(line)[1]


def _each(convert_line: Callable[[str], str]) -> Callable[[list[str]], Iterable[str]]:
    return lambda lines: map(convert_line, lines)


def _wrapped(lines: Iterable[str], width: int = 72) -> list[str]:
    """Wrap the lines as a mail client does that sends without format=flowed."""
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return [part for line in lines for part in wrap.wrap(line) or [""]]


def _mail(lines: list[str]) -> list[str]:
    """A bug report quoted in a reply."""
    body = ["Hi,", "", "I see this on boot:", "", *lines, "", "Thanks,", "A."]
    return ["On Mon, Nov 30, 2026 at 05:49 AM, A. wrote:", *(f"> {each}".rstrip() for each in body)]


def _quoted_twice(lines: list[str]) -> list[str]:
    return [f">> {each}".rstrip() for each in lines]


def _fenced(lines: list[str]) -> list[str]:
    return ["### What happened", "", "```console", *lines, "```", "", "Any idea?"]


def _json(lines: list[str]) -> list[str]:
    """dmesg --json"""
    found = [_STAMP.match(line) for line in lines]
    records = [
        {"pri": 4, "time": float(f"{match[1]}.{match[2]}"), "msg": line[match.end() :]}
        for match, line in zip(found, lines, strict=True)
        if match
    ]
    return json.dumps({"dmesg": records}, indent=3).splitlines()


FORMATS: dict[str, Callable[[list[str]], Iterable[str]]] = {
    "syslog": _each(_syslog),
    "journal": _each(_journal),
    "dmesg -T": _each(_dmesg_t),
    "dmesg -x": _each(_dmesg_x),
    "dmesg --json": _json,
    "colour": _each(_colour),
    "LAVA": _each(_lava),
    "no times": _each(_bare),
    "indented": _each(lambda line: f"    {line}"),
    "wrapped": _wrapped,
    "mail": _mail,
    "mail, wrapped": lambda lines: [f"> {each}" for each in _wrapped(lines, 70)],
    "quoted twice": _quoted_twice,
    "fenced": _fenced,
}


def convert(text: str, log_format: str) -> str:
    """Convert a console log to a format. Raises KeyError if the format is not in FORMATS."""
    lines = text.replace("\r", "").splitlines()
    return "\n".join(FORMATS[log_format](lines)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(convert(sys.stdin.read(), sys.argv[1]))
