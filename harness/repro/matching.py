# SPDX-License-Identifier: GPL-2.0-only
"""Compare output, kernel messages and splats of a report with those in a guest, by meaning."""

import fnmatch
import re
import time
from collections.abc import Callable, Sequence

import regex

from harness.klog.splat import Splat
from harness.report import error_message, kernel_log, lsmod, shell_syntax

_ELIDED = re.compile(r"(?:\.{3,}|…|\[\.\.\.\]|<snip>|\[snip\]|\[cut\])(?: .*)?")
_VIRTIO = re.compile(r"\bvirtio\d+\b")
# The prefix of a shell's message: "bash: line 1:", "sh:", or the path of the file from which the
# guest's shell reads commands.
_SHELL_PREFIX = re.compile(r"(?:/\S+|-?(?:ba|da|a)?sh): (?:eval: )?(?:line \d+: )?(.*)")

# The time limit in seconds for all patterns of one comparison. A hostile report may contain slow
# patterns.
_PATTERN_SECONDS = 2.0

Rule = Callable[[str], str]


def _of_lsmod(line: str) -> str:
    """Leave out rows of modules, which are separate claims."""
    return "" if re.match(r"Module\s+Size\s+Used by", line) or lsmod.parse_row(line) else line


_LONG_OPTION = re.compile(r"\bls (?:\S+ )*-\w*l")
_LONG = re.compile(
    r"(?P<mode>[-dlbcps][-rwxsStT]{9})[.+@]?\s+\d+\s+\S+\s+\S+\s+(?:\d+,\s+)?\d+\s+.*?"
    r"(?:\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: [+-]\d{4})?|\d{4})\s(?P<name>.*)"
)


def _of_long_listing(line: str) -> str:
    """Keep the name, and the target of a link. Owners, sizes and dates depend on the machine."""
    if re.fullmatch(r"total \d+", line.strip()):
        return ""
    row = _LONG.fullmatch(line.strip())
    return row["name"] if row else line


def _of_long_sysfs_listing(line: str) -> str:
    """Keep the mode too, because the kernel sets it, not the reporter's umask."""
    row = _LONG.fullmatch(line.strip())
    return f"{row['mode']} {row['name']}" if row else _of_long_listing(line)


def _lists_long(command: str) -> bool:
    return "ls" in shell_syntax.programs(command) and _LONG_OPTION.search(command) is not None


def _of_time(line: str) -> str:
    return "" if re.match(r"\s*(?:real|user|sys)\b", line) else line


_REAL = re.compile(r"\s*real\s+(?:(?P<minutes>\d+)m ?)?(?P<seconds>\d+(?:[.,]\d+)?)s?\s*")
# A duration in seconds that a slow machine does not explain: without the bug, an emulated machine
# needs less than a tenth of it.
MANY_SECONDS = 10.0


def _takes_long(lines: Sequence[str], command: str, least: float = MANY_SECONDS) -> bool:
    """Whether "time" prints a real time of at least ``least`` seconds."""
    if not command.startswith("time "):
        return False
    found = (match for line in lines if (match := _REAL.fullmatch(line)))
    return any(_seconds(match) >= least for match in found)


def _seconds(match: re.Match[str]) -> float:
    return 60 * int(match["minutes"] or 0) + float(match["seconds"].replace(",", "."))


# Rules for the output of some programs. Each returns the part of a line to compare, "" for none.
_RULES: tuple[tuple[Callable[[str], bool], Rule], ...] = (
    (lsmod.lists_modules, _of_lsmod),
    (lambda command: _lists_long(command) and "/sys/" in command, _of_long_sysfs_listing),
    (_lists_long, _of_long_listing),
    (lambda command: command.startswith("time "), _of_time),
)


def rules_of(command: str) -> list[Rule]:
    """The rules for the output of the command."""
    return [rule for applies, rule in _RULES if applies(command)]


def same_output(reported: Sequence[str], out: str, err: str, command: str) -> bool:
    """Whether the command printed the reported lines. On a terminal, either standard output or
    standard error may come first."""
    if _takes_long(reported, command) and not _takes_long(
        [*out.splitlines(), *err.splitlines()], command, MANY_SECONDS / 10
    ):
        return False
    rules = rules_of(command)
    expected = _prepared(reported, rules)
    first, second = _prepared(out.splitlines(), rules), _prepared(err.splitlines(), rules)
    if _lists_names(command) and not any(map(is_elision, expected)):
        # On a terminal ls prints columns.
        return sorted(" ".join(expected).split()) == sorted(" ".join([*first, *second]).split())
    comparison = _Comparison(time.monotonic() + _PATTERN_SECONDS)
    return comparison.matches(expected, first + second) or comparison.matches(
        expected, second + first
    )


def _lists_names(command: str) -> bool:
    """Whether the command is only ls, without the long format."""
    return shell_syntax.programs(command) == ["ls"] and _of_long_listing not in rules_of(command)


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
    """A comparison of output, with one deadline for all its patterns."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def matches(self, expected: Sequence[str], seen: Sequence[str]) -> bool:
        """Whether all lines match, in order. An elision matches any number of lines, so the lines
        that match so far may end at several positions in ``seen``."""
        ends = {0}
        for line in expected:
            if is_elision(line):
                ends = set(range(min(ends), len(seen) + 1))
            else:
                ends = {end + 1 for end in ends if end < len(seen) and self._same(line, seen[end])}
            if not ends:
                return False
        return len(seen) in ends

    def _same(self, expected: str, seen: str) -> bool:
        if expected.endswith(" (re)"):
            return self._matches_pattern(expected.removesuffix(" (re)"), seen)
        if expected.endswith(" (glob)"):
            return fnmatch.fnmatchcase(seen, expected.removesuffix(" (glob)"))
        return same_line(expected, seen)

    def _matches_pattern(self, pattern: str, seen: str) -> bool:
        """Whether the pattern matches. An invalid or too slow pattern does not match."""
        remaining = self._deadline - time.monotonic()
        try:
            return remaining > 0 and regex.fullmatch(pattern, seen, timeout=remaining) is not None
        except (regex.error, TimeoutError):
            return False


def same_line(reported: str, seen: str) -> bool:
    """Whether two lines of output are equivalent: error messages with the same error and subject,
    or other lines with the same text after ``normal``, apart from spaces."""
    error = error_message.parse(reported)
    if error is None:
        return normal(reported).split() == normal(seen).split()
    other = error_message.parse(seen)
    same_kind = other is not None and error_message.same_kind(error, other)
    return other is not None and same_kind and error.subject == other.subject


def normal(line: str) -> str:
    """Return the part of a line to compare: a kernel message without its stamp and the numbers of
    virtio devices, which depend on the machine, or a shell's message without its prefix."""
    line = line.strip()
    message = kernel_log.message_text(line)
    if message is not None:
        return _VIRTIO.sub("virtioN", message)
    match = _SHELL_PREFIX.fullmatch(line)
    return match[1] if match else line


def is_elision(line: str) -> bool:
    """Whether the line stands for lines that the report leaves out."""
    return _ELIDED.fullmatch(line.strip()) is not None


def same_message(reported: str, seen: str) -> bool:
    """Whether two kernel messages are equivalent: the reported message is a pattern that matches,
    or the texts are the same apart from spaces and the numbers of virtio devices."""
    if reported.endswith((" (re)", " (glob)")):
        comparison = _Comparison(time.monotonic() + _PATTERN_SECONDS)
        return comparison.matches([reported], [seen.rstrip()])
    return same_line(_VIRTIO.sub("virtioN", reported), _VIRTIO.sub("virtioN", seen))


def same_splat(reported: Splat, seen: Splat) -> bool:
    """Whether two splats are equivalent.

    They must have the same kind, function and caller, and within one release the same source line.
    If one of them has no function, they must have the same source line. CPUs, PIDs, addresses,
    offsets, registers, names of processes and taints are not compared.
    """
    if _splat_kind(reported) != _splat_kind(seen):
        return False
    if reported.function and seen.function:
        return (
            reported.function == seen.function
            and _same_caller(reported, seen)
            and _same_source_line(reported, seen)
        )
    return bool(reported.file) and (reported.file, reported.line) == (seen.file, seen.line)


_LOCKDEP = re.compile(
    r"possible [a-z ]+? (?:dep|lock|det)|inconsistent|suspicious RCU|bad unlock|held"
)
# How many frames are searched for the caller in the other splat. Inlining differs between builds.
_CALLER_FRAMES = 8


def _splat_kind(splat: Splat) -> tuple[str, str]:
    """Return the kind of the splat, and for lockdep and KASAN what exactly they report."""
    detail = ""
    if splat.kind == "KASAN":
        # For objects, newer kernels print "slab-use-after-free" (mm/kasan/report_generic.c; 6.1
        # does not, 6.12 does).
        match = re.search(r"KASAN: ([\w-]+)", splat.opening or splat.text[0])
        detail = (match[1] if match else "").removeprefix("slab-").removeprefix("vmalloc-")
    if splat.kind == "lockdep":
        match = _LOCKDEP.search(splat.opening or splat.text[0])
        detail = match[0] if match else ""
    return splat.kind, detail


def _same_caller(reported: Splat, seen: Splat) -> bool:
    if not reported.caller or not seen.caller or reported.caller == seen.caller:
        return True
    return (
        reported.caller in seen.frames[:_CALLER_FRAMES]
        or seen.caller in reported.frames[:_CALLER_FRAMES]
    )


def _same_source_line(reported: Splat, seen: Splat) -> bool:
    """Whether the source lines may be the same. Line numbers differ between releases."""
    if not reported.line or not seen.line or reported.file != seen.file:
        return True
    same_release = bool(reported.kernel) and reported.kernel == seen.kernel
    return reported.line == seen.line or not same_release
