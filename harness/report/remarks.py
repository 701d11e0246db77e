# SPDX-License-Identifier: GPL-2.0-only
"""Separate a reporter's remarks from commands and their output."""

import re
from collections.abc import Sequence

from harness.report import kernel_log

# A remark after a line of output: an arrow, a comment, or a remark in parentheses.
_NOTE = re.compile(
    r"\s+(?:(?:#|//|;)\s*)?(?:<[-=~<]+|←|⇐|↞).*$"
    r"|\s+(?:#|//)\s+(?:\S.*)$(?<=\S)"
    r"|\s{1,}\((?:expect|should|wrong|why|still|must|was|bug|here|note|instead|was supposed|not)"
    r"[^()]*\)$",
    re.IGNORECASE,
)
# Words that make a comment after output a remark. Output may also contain "#".
_REMARK_WORDS = re.compile(
    r"\b(?:should|expect|wrong|why|still|must|bug|here|note|instead|supposed|bad|good|ok|busy|"
    r"leak|never|stays|!+|\?+)",
    re.IGNORECASE,
)

_MAIL_CLOSING = re.compile(
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


def is_mail_closing(line: str) -> bool:
    """Whether the line closes a mail or is markup: no program in the guest prints it."""
    return bool(line) and len(line) < 250 and _MAIL_CLOSING.fullmatch(line) is not None


def _is_sentence(line: str) -> bool:
    if len(line.split()) < _MIN_WORDS or _LOOKS_PRINTED.search(line):
        return False
    if kernel_log.is_kernel_message(line):
        return False
    return _SENTENCE.match(line) is not None and _SENTENCE_END.search(line) is not None


def drop_prose(texts: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the lines, each with its number, up to the first sentence after the output."""
    for position, (_, text) in enumerate(texts):
        if _is_sentence(text.strip()):
            return list(texts[:position])
    return list(texts)


# A remark between two commands: words that begin with a typical word of a chat.
_FURTHER_WORDS = r"[\w'-]+(?:[,;]? [\w'-]+){0,11}"
_CHAT_REMARK = re.compile(
    r"(?:(?:ok|okay|so|now|and|then|but|well|oh|wait|again|also|let|let's|i|we|weird|strange|"
    rf"funny|interesting),? (?!\d){_FURTHER_WORDS}|h+m+|huh|wtf|weird|strange|"
    rf"h+m+,? {_FURTHER_WORDS})[.:!?…]*",
    re.IGNORECASE,
)


def drop_remarks(texts: Sequence[tuple[int, str]], command: str) -> list[tuple[int, str]]:
    """Return the lines, each with its number, without remarks before and after the output. Text
    that the command contains is kept, because it may be output."""

    def is_remark(text: str) -> bool:
        return _CHAT_REMARK.fullmatch(text.strip()) is not None and text.strip() not in command

    kept = list(texts)
    while kept and is_remark(kept[-1][1]):
        kept.pop()
    while kept and is_remark(kept[0][1]):
        del kept[0]
    return kept


# A remark after a command: an arrow, or a comment.
_COMMAND_NOTE = re.compile(r"(?P<arrow>\s+(?:#+ ?)?(?:<[-=~]+|←|⇐)\s)|\s#+\s")


def split_note(text: str) -> tuple[str, str]:
    """Split a command from the remark after it. Returns the command and the remark, which may be
    "". A comment is returned as the remark, but is also kept in the command."""
    match = _COMMAND_NOTE.search(text)
    if match is None or "\n" in text:
        return text, ""
    return text[: match.start()] if match["arrow"] else text, text[match.end() :].strip()


def strip_note(line: str) -> str:
    """Return the line without the remark at its end."""
    match = _NOTE.search(line)
    if match is None:
        return line
    remark = match[0].strip()
    if kernel_log.is_kernel_message(line) and not remark.startswith(("<", "←")):
        return line
    is_comment = remark.startswith(("#", "//", ";")) and "<-" not in remark
    if is_comment and not _REMARK_WORDS.search(remark):
        return line
    return line[: match.start()].rstrip()
