# SPDX-License-Identifier: GPL-2.0-only
"""Whether a guest printed what a report shows: by meaning where tools and machines differ."""

import fnmatch
import re
import time
from collections.abc import Callable, Sequence

import regex

from harness.report import fact, modules, shell, traces

_ELIDED = re.compile(r"(?:\.{3,}|…|\[\.\.\.\]|<snip>|\[snip\]|\[cut\])(?: .*)?")
_VIRTIO = re.compile(r"\bvirtio\d+\b")
# Who says it: "bash: line 1:", "sh:", or the file our shell reads from.
_SPEAKER = re.compile(r"(?:/\S+|-?(?:ba|da|a)?sh): (?:eval: )?(?:line \d+: )?(.*)")

# Seconds that all patterns of one comparison may take: a report may be made to.
_PATTERN_SECONDS = 2.0

Rule = Callable[[str], str]


def _of_lsmod(line: str) -> str:
    """Rows are claims of their own."""
    return "" if re.match(r"Module\s+Size\s+Used by", line) or modules.row(line) else line


_LONG_OPTION = re.compile(r"\bls (?:\S+ )*-\w*l")
_LONG = re.compile(
    r"(?P<mode>[-dlbcps][-rwxsStT]{9})[.+@]?\s+\d+\s+\S+\s+\S+\s+(?:\d+,\s+)?\d+\s+.*?"
    r"(?:\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: [+-]\d{4})?|\d{4})\s(?P<name>.*)"
)


def _of_long_listing(line: str) -> str:
    """The name, and where a link points: owners, sizes and dates are the machine's."""
    if re.fullmatch(r"total \d+", line.strip()):
        return ""
    row = _LONG.fullmatch(line.strip())
    return row["name"] if row else line


def _of_long_sysfs_listing(line: str) -> str:
    """The mode as well: the kernel sets it, and no reporter's umask."""
    row = _LONG.fullmatch(line.strip())
    return f"{row['mode']} {row['name']}" if row else _of_long_listing(line)


def _lists_long(command: str) -> bool:
    return "ls" in shell.programs(command) and _LONG_OPTION.search(command) is not None


def _of_time(line: str) -> str:
    return "" if re.match(r"\s*(?:real|user|sys)\b", line) else line


_REAL = re.compile(r"\s*real\s+(?:(?P<minutes>\d+)m ?)?(?P<seconds>\d+(?:[.,]\d+)?)s?\s*")
# Seconds that are no machine's slowness: no emulated one needs a tenth of them without the cause.
_MUCH = 10.0


def _takes_long(lines: Sequence[str], command: str, most: float = _MUCH) -> bool:
    """Whether what "time" prints is that many seconds or more."""
    if not command.startswith("time "):
        return False
    found = (match for line in lines if (match := _REAL.fullmatch(line)))
    return any(_seconds(match) >= most for match in found)


def _seconds(match: re.Match[str]) -> float:
    return 60 * int(match["minutes"] or 0) + float(match["seconds"].replace(",", "."))


# Rules for what one program prints. Each takes a line; "" leaves it out.
_RULES: tuple[tuple[Callable[[str], bool], Rule], ...] = (
    (modules.lists, _of_lsmod),
    (lambda command: _lists_long(command) and "/sys/" in command, _of_long_sysfs_listing),
    (_lists_long, _of_long_listing),
    (lambda command: command.startswith("time "), _of_time),
)


def rules_of(command: str) -> list[Rule]:
    """The rules for what the command prints."""
    return [rule for applies, rule in _RULES if applies(command)]


def same_output(wanted: Sequence[str], out: str, err: str, command: str) -> bool:
    """Whether the lines are what the command printed: standard output and error as a terminal
    may have mixed them, the one before the other."""
    if _takes_long(wanted, command) and not _takes_long(
        [*out.splitlines(), *err.splitlines()], command, _MUCH / 10
    ):
        return False
    rules = rules_of(command)
    reported = _prepared(wanted, rules)
    first, second = _prepared(out.splitlines(), rules), _prepared(err.splitlines(), rules)
    if _lists_names(command) and not any(map(is_elision, reported)):
        # A terminal has them in columns.
        return sorted(" ".join(reported).split()) == sorted(" ".join([*first, *second]).split())
    comparison = _Comparison(time.monotonic() + _PATTERN_SECONDS)
    return comparison.matches(reported, first + second) or comparison.matches(
        reported, second + first
    )


def _lists_names(command: str) -> bool:
    """Whether it is ls and nothing but ls, without long rows."""
    return shell.programs(command) == ["ls"] and _of_long_listing not in rules_of(command)


def _prepared(lines: Sequence[str], rules: Sequence[Rule]) -> list[str]:
    found = []
    for line in lines:
        text = line.rstrip()
        for rule in rules:
            text = rule(text)
        if text.strip():
            found.append(text)
    return found


class _Comparison:
    """One comparison of output, whose patterns have a deadline together."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def matches(self, wanted: Sequence[str], seen: Sequence[str]) -> bool:
        """Whether all lines match, in order. What has been matched so far may end at several
        places of ``seen``, because an elision stands for any number of lines."""
        ends = {0}
        for line in wanted:
            if is_elision(line):
                ends = set(range(min(ends), len(seen) + 1))
            else:
                ends = {end + 1 for end in ends if end < len(seen) and self._same(line, seen[end])}
            if not ends:
                return False
        return len(seen) in ends

    def _same(self, wanted: str, seen: str) -> bool:
        if wanted.endswith(" (re)"):
            return self._regular(wanted.removesuffix(" (re)"), seen)
        if wanted.endswith(" (glob)"):
            return fnmatch.fnmatchcase(seen, wanted.removesuffix(" (glob)"))
        return same_line(wanted, seen)

    def _regular(self, pattern: str, seen: str) -> bool:
        """A pattern from a report may be wrong, or made to take forever: no match."""
        left = self._deadline - time.monotonic()
        try:
            return left > 0 and regex.fullmatch(pattern, seen, timeout=left) is not None
        except (regex.error, TimeoutError):
            return False


def same_line(wanted: str, seen: str) -> bool:
    """Whether two lines of output say the same."""
    said = fact.of(wanted)
    if said is not None:
        other = fact.of(seen)
        return other is not None and fact.same_kind(said, other) and said.subject == other.subject
    return normal(wanted).split() == normal(seen).split()


def normal(line: str) -> str:
    """What counts of a line: of a kernel message all but its time and the number of a
    virtio device, which depend on the machine."""
    line = line.strip()
    message = traces.message(line)
    if message is not None:
        return _VIRTIO.sub("virtioN", message)
    match = _SPEAKER.fullmatch(line)
    return match[1] if match else line


def is_elision(line: str) -> bool:
    """Whether the line stands for lines that the report leaves out."""
    return _ELIDED.fullmatch(line.strip()) is not None


def same_message(wanted: str, seen: str) -> bool:
    """Whether two kernel messages say the same."""
    if wanted.endswith((" (re)", " (glob)")):
        comparison = _Comparison(time.monotonic() + _PATTERN_SECONDS)
        return comparison.matches([wanted], [seen.rstrip()])
    return same_line(_VIRTIO.sub("virtioN", wanted), _VIRTIO.sub("virtioN", seen))
