# SPDX-License-Identifier: GPL-2.0-only
"""What below a command is its output, and what its reporter wrote beside it."""

import re
from collections.abc import Sequence

_KERNEL = re.compile(
    r"(?:<\d+>)?\[ *\d+\.\d+\]|\w{3} +\d+ \d\d:\d\d:\d\d \S+ kernel:|-{6,}\[ cut here \]"
)

# A remark behind a line of output: an arrow, or a bracket or comment with a remark's words.
_NOTE = re.compile(
    r"\s+(?:(?:#|//|;)\s*)?(?:<[-=~<]+|←|⇐|↞).*$"
    r"|\s+(?:#|//)\s+(?:\S.*)$(?<=\S)"
    r"|\s{1,}\((?:expect|should|wrong|why|still|must|was|bug|here|note|instead|was supposed|not)"
    r"[^()]*\)$",
    re.IGNORECASE,
)
# A comment behind output is a remark only where it says so; output has "#" as well.
_REMARK = re.compile(
    r"\b(?:should|expect|wrong|why|still|must|bug|here|note|instead|supposed|bad|good|ok|busy|"
    r"leak|never|stays|!+|\?+)",
    re.IGNORECASE,
)

_FAREWELL = re.compile(
    r"(?:many )?(?:thanks|thank you|thx|cheers|regards|(?:best|kind|warm|with best) regards|best|"
    r"br|"
    r"greetings|sincerely|yours|tia|rgds|mfg|cordialement|any (?:idea|help|hint|clue)s?\b.*)"
    r"(?:[,.!]? ?\w*){0,4}[,.!?]*"
    r"|-- ?|_{5,}|(?:signed-off|reported|tested|reviewed|acked)-by: .*|(?:link|closes|fixes): \S.*"
    r"|##\[\w+\].*|<LAVA_\w+ .*>|Received signal: .*"
    r"|</?[a-z][a-z0-9]{0,12}(?: [^<>]{0,200})?>|\[/?[a-z]{1,10}\]",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?:[A-Z][a-z']*|I|\(?(?:this|that|so|and|but|here|where|then|now))[,]? .*")
_SENTENCE_END = re.compile(r"[a-z)'\"`\d][.?!:]+$|[a-z],$")
_LOOKS_PRINTED = re.compile(r"^\S+: |^\s|[|<>{}=]|/\w+/|0x|\s{3,}|\berror\b", re.IGNORECASE)

_MIN_WORDS = 4


def is_kernel_message(line: str) -> bool:
    """Whether the line has a kernel message's own stamp."""
    return _KERNEL.match(line) is not None


def is_farewell(line: str) -> bool:
    """Whether the line ends a mail, or is its markup: no program prints it."""
    return bool(line) and len(line) < 250 and _FAREWELL.fullmatch(line) is not None


def _is_sentence(line: str) -> bool:
    if len(line.split()) < _MIN_WORDS or is_kernel_message(line) or _LOOKS_PRINTED.search(line):
        return False
    return _SENTENCE.match(line) is not None and _SENTENCE_END.search(line) is not None


def without_prose(texts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The lines, each with its number, up to the sentences that follow output directly."""
    for position, (_, text) in enumerate(texts):
        if _is_sentence(text.strip()):
            return list(texts[:position])
    return list(texts)


# What its reporter says between two commands: words, of which the first is no program's.
_WORDS = r"[\w'-]+(?:[,;]? [\w'-]+){0,11}"
_REMARKS = re.compile(
    r"(?:(?:ok|okay|so|now|and|then|but|well|oh|wait|again|also|let|let's|i|we|weird|strange|"
    rf"funny|interesting),? (?!\d){_WORDS}|h+m+|huh|wtf|weird|strange|h+m+,? {_WORDS})[.:!?…]*",
    re.IGNORECASE,
)


def without_remarks(texts: Sequence[tuple[int, str]], command: str) -> list[tuple[int, str]]:
    """The lines, each with its number, without the remarks before and behind the output of a
    command, which does not print such words."""

    def is_remark(text: str) -> bool:
        return _REMARKS.fullmatch(text.strip()) is not None and text.strip() not in command

    kept = list(texts)
    while kept and is_remark(kept[-1][1]):
        kept.pop()
    while kept and is_remark(kept[0][1]):
        del kept[0]
    return kept


# A remark behind a command: an arrow, or a comment.
_COMMAND_NOTE = re.compile(r"(?P<arrow>\s+(?:#+ ?)?(?:<[-=~]+|←|⇐)\s)|\s#+\s")


def command_and_note(text: str) -> tuple[str, str]:
    """A command without the remark behind an arrow, and this or its comment."""
    match = _COMMAND_NOTE.search(text)
    if match is None or "\n" in text:
        return text, ""
    return text[: match.start()] if match["arrow"] else text, text[match.end() :].strip()


def without_note(line: str) -> str:
    """The line without the remark behind it."""
    match = _NOTE.search(line)
    if match is None or (is_kernel_message(line) and not match[0].lstrip().startswith(("<", "←"))):
        return line
    remark = match[0].strip()
    if remark.startswith(("#", "//", ";")) and "<-" not in remark and not _REMARK.search(remark):
        return line
    return line[: match.start()].rstrip()
