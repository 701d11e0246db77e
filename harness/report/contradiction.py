# SPDX-License-Identifier: GPL-2.0-only
"""Where a report's words say something else than its session shows."""

import re
from collections.abc import Callable, Iterator, Sequence

from harness.report import context, count, crashes, sentences, shell
from harness.report.claim import Claim
from harness.report.lines import Line
from harness.report.session import Session

_SUCCEEDS = re.compile(
    r"\b(?:succeed(?:s|ed)|works?|worked|go(?:es)? through|went through|"
    r"without (?:a |any )?(?:error|complaint|problem|message)s?|"
    r"(?:is|was) possible|can (?:still )?be (?:unload|remov)ed|"
    r"(?:is|was|gets|got) (?:silently |still )?(?:un)?(?:loaded|removed))\b",
    re.IGNORECASE,
)
_FAILS = re.compile(
    r"\b(?:fail(?:s|ed)?|refus\w+|reject\w+|denied|(?-i:E[A-Z]{3,12})|"
    r"(?:does|did|will|can)(?: not|n't)(?: (?:work|unload|succeed|go)\w*)?(?=\s*[.,:;!]*$)|"
    r"can(?:not|'t) be (?:unload|remov)ed)\b",
    re.IGNORECASE,
)
_COMPLAINS = re.compile(rf"{_FAILS.pattern}|\b(?:in use|busy|errors?)\b", re.IGNORECASE)
# What a clause says that leads to another.
_BACKGROUND = re.compile(
    r"\b(?:that|when|after|while|because|since|though|although|even if) (?:\S+ ){0,5}?"
    r"(?:is|was|gets|got) (?:un)?(?:loaded|removed)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:not|never|cannot|can't|\w+n't|no longer|fail\w*|nothing)\b")
_STAYS = re.compile(r"\b(?:stays?|remains?|still|keeps?)\b", re.IGNORECASE)

_Said = Sequence[tuple[str, str]]


def of(lines: Sequence[Line], shown: Session, claims: Sequence[Claim]) -> list[Claim]:
    """Each sentence of a message with which the session that is ``shown`` does not agree,
    unless other sentences do: words that say both are about two cases."""
    said = [
        (where, sentence)
        for where, sentence in sentences.stated_about(lines, shown)
        if not sentences.is_other_case(sentence)
    ]
    return [*_outcomes(said, shown, claims), *_counts(said, claims, shown)]


def _claim(where: str, sentence: str, step: int) -> Claim:
    text = f"the report says {sentence.rstrip(' .:;!')!r}, and shows otherwise"
    return Claim("contradiction", text, where, step)


def _outcomes(said: _Said, shown: Session, claims: Sequence[Claim]) -> Iterator[Claim]:
    """Of how commands end."""
    for where, sentence in said:
        step = _other_outcome(sentence, shown, claims)
        if step is not None and not _says_both(sentence, said):
            yield _claim(where, sentence, step)


def _other_outcome(sentence: str, shown: Session, claims: Sequence[Claim]) -> int | None:
    """The last command that the sentence names, where all of them end otherwise."""
    steps = _named(sentence, shown)
    words = sentences.without_commands(sentence, shown)
    for says, ends in _ENDINGS:
        if says(words):
            otherwise = steps and all(ends(step, shown, claims) for step in steps)
            return steps[-1] if otherwise else None
    return None


def _says_both(sentence: str, said: _Said) -> bool:
    opposite = _COMPLAINS if _succeeds(sentence) else _SUCCEEDS
    return any(opposite.search(other) for _, other in said if other != sentence)


def _succeeds(sentence: str) -> bool:
    stated = _BACKGROUND.sub("", sentence)
    match = _SUCCEEDS.search(stated)
    if match is None or _FAILS.search(stated[match.end() :]):
        return False
    clause = stated[: match.start()].rpartition(",")[2]
    return _DENIES.search(clause) is None


def _is_refused(step: int, _: Session, claims: Sequence[Claim]) -> bool:
    return any(
        each.kind == "fact" or (each.kind == "status" and each.number)
        for each in claims
        if each.step == step
    )


def _is_done(step: int, shown: Session, _: Sequence[Claim]) -> bool:
    """Whether the session shows that the command prints nothing, and then a prompt that shows
    no other status than 0."""
    command = shown.commands[step]
    silent = not (command.output or command.status or command.next_status)
    return silent and _has_ended(step, shown, ()) and "2>" not in command.text


def _has_ended(step: int, shown: Session, claims: Sequence[Claim]) -> bool:
    """Whether the session goes on in the same terminal, and shows no task that hangs."""
    command = shown.commands[step]
    ends = command.ended and not (command.background or command.interrupted)
    stuck = any(each.kind in ("hang", "splat", "panic") for each in claims)
    return ends and command.shown and not stuck and not command.text.rstrip().endswith("&")


_Shows = Callable[[int, Session, Sequence[Claim]], bool]

# What a sentence says of a command's end, and what is otherwise.
_ENDINGS: tuple[tuple[Callable[[str], object], _Shows], ...] = (
    (_succeeds, _is_refused),
    (crashes.HANG.search, _has_ended),
    (_FAILS.search, _is_done),
)

# Words for what a command does, and the commands that do it.
_ACTIONS = tuple(
    (re.compile(rf"\b(?:{says})\b", re.IGNORECASE), re.compile(does))
    for says, does in (
        (
            "unload(?:s|ing|ed)?|remov(?:e|es|ing|al)|(?:is|was|gets|got) removed|modprobe -r",
            r"\brmmod\b|\bmodprobe (?:-\w+ )*-\w*r|/remove\b",
        ),
        ("load(?:s|ed|ing)?", r"\b(?:insmod|modprobe (?!-))"),
        ("unb(?:ind(?:s|ing)?|ound)", r"/unbind\b"),
        ("b(?:ind(?:s|ing)?|ound)", r"/bind\b"),
    )
)


def _named(sentence: str, shown: Session) -> list[int]:
    """The commands that the sentence is about: those that it has whole, else those of its
    programs and verbs, of which the ones that have its module too."""
    whole = [n for n, text in enumerate(shown.texts) if text in sentence]
    if whole:
        return whole
    found = [n for n, text in enumerate(shown.texts) if _is_meant(text, sentence)]
    plain = sentence.replace("-", "_")
    narrow = [n for n in found if shell.last_word(shown.texts[n]).replace("-", "_") in plain]
    return narrow or found


def _is_meant(command: str, sentence: str) -> bool:
    if any(says.search(sentence) and does.search(command) for says, does in _ACTIONS):
        return True
    words = re.findall(r"[\w.-]+", sentence)
    return any(name in words for name in shell.programs(command))


def _counts(said: _Said, claims: Sequence[Claim], shown: Session) -> Iterator[Claim]:
    """Of a module's references, where no sentence has the number that is shown last, or any
    that is shown where nothing stays. What changes them afterwards leaves them open."""
    seen = [(each.step, number) for each in claims for number in _numbers(each, shown)]
    stated = [
        (where, sentence, found.number)
        for where, sentence in said
        if (found := count.of(sentence)) and not _DENIES.search(sentence)
    ]
    if not seen or any(number == seen[-1][1] for _, _, number in stated):
        return
    if not all(map(context.shows_state, shown.texts[(seen[-1][0] or 0) + 1 :])):
        return
    for where, sentence, number in stated:
        wanted = seen[-1:] if _STAYS.search(sentence) else seen
        if all(number != other for _, other in wanted):
            yield _claim(where, sentence, seen[-1][0] or 0)


def _numbers(each: Claim, shown: Session) -> list[int]:
    """The reference counts that a claim has."""
    if each.kind == "refcount" and each.number is not None and each.symptom:
        return [each.number]
    if each.kind != "output" or each.step is None or "refcnt" not in shown.texts[each.step]:
        return []
    return [int(line) for line in map(str.strip, each.lines) if re.fullmatch(r"\d{1,4}", line)]
