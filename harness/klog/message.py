# SPDX-License-Identifier: GPL-2.0-only
"""Parse the messages of the kernel from the lines of a log in any format."""

import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from harness.klog import record


class Message(NamedTuple):
    """A kernel message.

    ``number`` is the number of its line in the input, from 1. ``time`` is in seconds since boot.
    ``caller`` is a task (``T12``), a CPU (``C0``) or "" if unknown. ``level`` is from 0 to 7, or
    None. ``lines`` is the number of lines into which a mail program wrapped the message.
    ``stamped``: the line has a stamp, and so begins a message. ``width`` is the length of the
    line. ``marked``: the line contains a needle, and can open a splat.
    """

    text: str
    number: int
    time: float | None = None
    caller: str = ""
    level: int | None = None
    lines: int = 1
    stamped: bool = False
    width: int = 0
    marked: bool = True


_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*\x07?|[@-Z\\^_])")
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127))
# dmesg's --json, journalctl's -o json, the logs of LAVA.
_JSON = re.compile(r'.{0,400}?"(?:msg|MESSAGE)" ?: ?(?P<text>"(?:[^"\\]|\\.)*")')
_JSON_OTHER = re.compile(r'\s*(?:"(?:pri|time|caller|dmesg|fac)":.*|[{}\[\],]+)\s*$')
_QUOTE = re.compile(r"(?:[ \t]?(?:>|&gt;))+ ?")
_HTML = re.compile(r"&(?:[lg]t|amp|quot|nbsp|#\d{2,5}|#x[0-9a-f]{2,4});")
# The time stamp of printk, with the caller if CONFIG_PRINTK_CALLER is set.
_STAMP = re.compile(
    r"\[ *(?P<time>\d{1,9}\.\d{1,9})(?: <[ \d.+-]{1,20}>)?\](?:\[ *(?P<caller>[TC]\d+)\])? ?"
)
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ISO = rf"\d{{4}}-\d\d-\d\d[T ]{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?"
_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        r"<(?P<priority>\d{1,3})>(?:\d+ (?=\d{4}-))?",  # dmesg -r, RFC 5424
        r"[a-z]+ *:(?P<level>emerg|alert|crit|err|warn|notice|info|debug) *: ",  # dmesg -x
        r"\*\* \d+ printk messages dropped \*\* ?",
        # syslog, journalctl: the host and the kernel as the program, or no program at all
        rf"(?:[A-Z][a-z]{{2}} [ \d]\d {_CLOCK}|{_ISO})(?: \S{{1,64}})? kernel(?:\[\d+\])?: ?",
        r"[\w.-]{1,64} kernel(?:\[\d+\])?: ",  # after short-monotonic's stamp
        r"kernel: ",
        rf"\[?{_ISO}\]?:? {{1,4}}",  # dmesg --time-format iso, kernelCI, LAVA
        rf"\[{_DAY} [A-Z][a-z]{{2}} [ \d]\d {_CLOCK} \d{{4}}\] ",  # dmesg -T
        r"\[(?:[A-Z][a-z]{2}[ \d]\d \d\d:\d\d| *\+\d+\.\d+)\] ",  # dmesg -H
        rf"\d\d-\d\d {_CLOCK} +(?:\d+ +\d+ +)?[VDIWEF][ /]\w{{1,16}} *(?:\( *\d+\))?: ",  # logcat
        r"[VDIWEF]/\w{1,16} *\( *\d+\): ",
        rf"\[?{_CLOCK}\]? +",
        r"\[\d+: *[^\]\[]{1,20}: *\d+\] ?",  # the CPU and task, in kernels of some phones
        r"\[ *(?P<caller>[TC]\d+)\] ?",
        r"\d+,\d+,\d+,[^;\s]{1,40};",  # /dev/kmsg
    )
)
_LEVELS = {
    name: number
    for number, name in enumerate(
        ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
    )
}
_ROUNDS = 6
# The first words of lines of dmesg -x and of syslogs without a host.
_FACILITIES = ("kern", "user", "daemon", "auth", "syslog", "local")
_JSON_HEADS = frozenset('"{}[],')
# A stamp may follow a prompt or other text on a console, within this many characters.
_STAMP_WITHIN = 160


def parse(line: str, number: int, *, marked: bool = True) -> Message | None:
    """Parse a line. Returns None for a line of the format that contains no message."""
    if line[-1:] == "\r":
        line = line.rstrip("\r")
    width = len(line)
    if line[:1] == "[" and (found := _STAMP.match(line)) and line.isprintable():
        text = line[found.end() :]
        if text[:1] not in {"[", "<"} and " kernel: " not in line and "&" not in line:
            time, caller = found.groups(default="")
            return Message(text, number, float(time), caller, None, 1, True, width, marked)
    text = _plain(line)
    if '"' in text and (found := _JSON.match(text)):
        return _of_json(found["text"], number)
    if text.lstrip()[:1] in _JSON_HEADS and _JSON_OTHER.match(text):
        return None
    kmsg = record.parse(text.encode(errors="replace")) if text[:1].isdigit() else None
    if kmsg:
        return Message(kmsg.text, number, kmsg.time, _kmsg_caller(text), kmsg.level, stamped=True)
    return _stripped(Message(text, number, width=width, marked=marked))


def _plain(line: str) -> str:
    """Return the line without terminal escapes, quotation marks of mails and HTML entities."""
    if not line.isprintable():
        line = line.rstrip("\r\n")
        if "\x1b" in line:
            line = _ESCAPES.sub("", line)
        if "\r" in line:
            line = next((part for part in reversed(line.split("\r")) if part.strip()), "")
        line = line.translate(_CONTROLS).replace("\xa0", " ")
    if line[:1] in "> &\t" and (quote := _QUOTE.match(line)):
        line = line[quote.end() :]
    if "&" in line and _HTML.search(line):
        line = html.unescape(line)
    return line


def _of_json(quoted: str, number: int) -> Message:
    try:
        text = str(json.loads(quoted))
    except ValueError:
        text = quoted[1:-1]
    return _stripped(Message(_plain(text), number))._replace(stamped=True)


def _kmsg_caller(text: str) -> str:
    found = re.match(r"[^;]{0,120}caller=([TC]\d+)", text)
    return found[1] if found else ""


def _stripped(message: Message) -> Message:
    """Return the message without the prefixes of its format, but with the time, caller and level
    in the prefixes."""
    text, time, caller, level, stamped = message.text, None, "", None, False
    for _ in range(_ROUNDS):
        found = _STAMP.match(text) or _prefix(text.lstrip() if not stamped else text)
        if found is None and not stamped and "[" in text:
            found = _STAMP.search(text, 0, _STAMP_WITHIN)
        if found is None:
            break
        groups = found.groupdict()
        if groups.get("time"):
            time = float(groups["time"])
        caller = groups.get("caller") or caller
        if groups.get("priority"):
            level = int(groups["priority"]) & 7
        if groups.get("level"):
            level = _LEVELS[groups["level"]]
        text = found.string[found.end() :]
        stamped = True
    if not stamped:
        return message
    return message._replace(text=text, time=time, caller=caller, level=level, stamped=True)


def _prefix(text: str) -> re.Match[str] | None:
    head = text[:1]
    if head.isalpha():
        if text[1:2] != "/" and " kernel" not in text[:120] and not text.startswith(_FACILITIES):
            return None
    elif not (head in {"<", "[", "*"} or head.isdigit()):
        return None
    return next((found for each in _PREFIXES if (found := each.match(text))), None)


# A line of a log has this ending only if a mail program wrapped it.
_UNFINISHED = re.compile(
    r".* from\s*$|.*\bWARNING: (?:CPU: \d+ PID: \d+ )?at \S+:\d+\s*$|"
    r".*\bBUG: K\w+: [\w -]+ in \S*(?: \S+:\d+)?\s*$"
)
_WRAPPED_FRAME = re.compile(
    r"\s*(?:[A-Za-z_$.][\w$.]*\+0x[0-9a-f]+/0x[0-9a-f]+|\S+\.(?:[chS]|rs):\d+|\[inline\])"
)
# The start of a splat line that does not continue the line before.
_OWN_LINE = re.compile(
    r"\s*(?:[\w #]+[:=]|\w*(?:WARNING|BUG|INFO|Call|Unable|Kernel|Internal|---|===)|<|\[|\?|\#\d)"
)
_WIDTH = 66
_LONGEST = 100
_MAX_LINES = 8
_LONGEST_TEXT = 400


def joined(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield the messages. Messages that a mail program wrapped are joined."""
    held: Message | None = None
    for message in messages:
        if held is not None and _is_broken(held, message):
            text = _ESCAPED.sub(_unescaped, held.text[:-1] + message.text)
            lines = message.number - held.number + 1
            held = held._replace(text=text, lines=lines, width=message.width, marked=True)
            continue
        if held is not None and _continues(held, message):
            held = held._replace(
                text=f"{held.text.rstrip()} {message.text.strip()}",
                lines=message.number - held.number + 1,
                width=message.width,
                marked=True,
            )
            continue
        if held is not None:
            yield held
        held = message
    if held is not None:
        yield held


# Quoted-printable text breaks lines of more than 76 characters after a "=" (RFC 2045, 6.7). Such
# text is in a log if the body of a mail was saved as it was sent.
_BREAK_AFTER = range(72, 77)
_ESCAPED = re.compile("=([0-9A-F]{2})")


def _is_broken(held: Message, message: Message) -> bool:
    """Whether a soft line break of quoted-printable text is between the messages."""
    return (
        held.width in _BREAK_AFTER
        and held.text.endswith("=")
        and not held.text.endswith("==")
        and message.number == held.number + held.lines
        and len(held.text) <= _LONGEST_TEXT
    )


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _continues(held: Message, message: Message) -> bool:
    if message.stamped or message.number != held.number + held.lines or held.lines > _MAX_LINES:
        return False
    if len(held.text) > _LONGEST_TEXT or message.width > _LONGEST or not message.text.strip():
        return False
    if _WRAPPED_FRAME.match(message.text) and _UNFINISHED.match(held.text):
        return True
    word = len(message.text.split(None, 1)[0])
    wrapped = held.stamped and held.width + word + 1 > _WIDTH and held.width <= _LONGEST
    return wrapped and not _OWN_LINE.match(message.text)
