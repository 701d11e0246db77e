# SPDX-License-Identifier: GPL-2.0-only
"""Find sentences of a report that contradict its own session."""

import re
from collections.abc import Callable, Iterator, Sequence

from harness.report import commands, prose, shell_syntax, statements
from harness.report.claim import Claim
from harness.report.prose import Prose, Sentence
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
# A subordinate clause, which does not state the outcome.
_SUBORDINATE = re.compile(
    r"\b(?:that|when|after|while|because|since|though|although|even if) (?:\S+ ){0,5}?"
    r"(?:is|was|gets|got) (?:un)?(?:loaded|removed)\b",
    re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:not|never|cannot|can't|\w+n't|no longer|fail\w*|nothing)\b")
_STAYS = re.compile(r"\b(?:stays?|remains?|still|keeps?)\b", re.IGNORECASE)

# Whether the command of a step ends in a certain way, judged by the session and its claims.
_Ends = Callable[[int, Session, Sequence[Claim]], bool]


def find(about: Prose, session: Session, claims: Sequence[Claim]) -> list[Claim]:
    """Return a claim for each sentence that contradicts the session. A sentence does not count if
    a different sentence agrees with the session: the prose is then about two cases."""
    stated = [each for each in about.statements if not prose.is_other_case(each.text)]
    return [*_of_outcomes(stated, session, claims), *_of_refcounts(stated, session, claims)]


def _claim(sentence: Sentence, step: int) -> Claim:
    quoted = repr(sentence.text.rstrip(" .:;!"))
    text = f"the sentence {quoted} contradicts the session of the report"
    return Claim("contradiction", text, sentence.where, step)


def _of_outcomes(
    stated: Sequence[Sentence], session: Session, claims: Sequence[Claim]
) -> Iterator[Claim]:
    """Yield the contradictions about how commands end."""
    for each in stated:
        step = _contradicted_step(each, session, claims)
        if step is not None and not _has_opposite(each, stated):
            yield _claim(each, step)


def _contradicted_step(sentence: Sentence, session: Session, claims: Sequence[Claim]) -> int | None:
    """Return the last of the steps that the sentence names, if it is wrong about all of them."""
    steps = _named_steps(sentence.text, session)
    for states, contradicts in _OUTCOMES:
        if states(sentence.words):
            contradicted = steps and all(contradicts(step, session, claims) for step in steps)
            return steps[-1] if contradicted else None
    return None


def _has_opposite(sentence: Sentence, stated: Sequence[Sentence]) -> bool:
    """Whether another sentence states the opposite."""
    opposite = _COMPLAINS if _states_success(sentence.text) else _SUCCEEDS
    return any(opposite.search(each.text) for each in stated if each.text != sentence.text)


def _states_success(sentence: str) -> bool:
    main = _SUBORDINATE.sub("", sentence)
    match = _SUCCEEDS.search(main)
    if match is None or _FAILS.search(main[match.end() :]):
        return False
    clause = main[: match.start()].rpartition(",")[2]
    return _DENIES.search(clause) is None


def _ends_with_error(step: int, _: Session, claims: Sequence[Claim]) -> bool:
    return any(
        each.kind == "error" or (each.kind == "status" and each.number)
        for each in claims
        if each.step == step
    )


def _succeeds_silently(step: int, session: Session, _: Sequence[Claim]) -> bool:
    """Whether the command prints nothing, and the next prompt shows no status other than 0."""
    command = session.commands[step]
    silent = not (command.output or command.status or command.next_status)
    return silent and _has_ended(step, session, ()) and "2>" not in command.text


def _has_ended(step: int, session: Session, claims: Sequence[Claim]) -> bool:
    """Whether the session continues in the same terminal, and shows no hang, splat or panic."""
    command = session.commands[step]
    ends = command.ended and not (command.background or command.interrupted)
    stuck = any(each.kind in ("hang", "splat", "panic") for each in claims)
    detached = command.text.rstrip().endswith("&")
    return ends and command.output_known and not stuck and not detached


# What a sentence can state about the end of a command, and the check that contradicts it.
_OUTCOMES: tuple[tuple[Callable[[str], object], _Ends], ...] = (
    (_states_success, _ends_with_error),
    (statements.hangs_forever, _has_ended),
    (_FAILS.search, _succeeds_silently),
)

# Verbs, and the commands that they describe.
_ACTIONS = tuple(
    (re.compile(rf"\b(?:{verb})\b", re.IGNORECASE), re.compile(command))
    for verb, command in (
        (
            "unload(?:s|ing|ed)?|remov(?:e|es|ing|al)|(?:is|was|gets|got) removed|modprobe -r",
            r"\brmmod\b|\bmodprobe (?:-\w+ )*-\w*r|/remove\b",
        ),
        ("load(?:s|ed|ing)?", r"\b(?:insmod|modprobe (?!-))"),
        ("unb(?:ind(?:s|ing)?|ound)", r"/unbind\b"),
        ("b(?:ind(?:s|ing)?|ound)", r"/bind\b"),
    )
)


def _named_steps(sentence: str, session: Session) -> list[int]:
    """Return the steps that the sentence is about.

    These are the steps with a command that the sentence contains. If it contains no command, they
    are the steps with a program or an action that it names; if it also names the module of some of
    these steps, only those count.
    """
    whole = [n for n, text in enumerate(session.texts) if text in sentence]
    if whole:
        return whole
    found = [n for n, text in enumerate(session.texts) if _is_named(text, sentence)]
    plain = sentence.replace("-", "_")
    with_module = [
        n for n in found if shell_syntax.last_word(session.texts[n]).replace("-", "_") in plain
    ]
    return with_module or found


def _is_named(command: str, sentence: str) -> bool:
    if any(verb.search(sentence) and action.search(command) for verb, action in _ACTIONS):
        return True
    words = re.findall(r"[\w.-]+", sentence)
    return any(name in words for name in shell_syntax.programs(command))


def _of_refcounts(
    stated: Sequence[Sentence], session: Session, claims: Sequence[Claim]
) -> Iterator[Claim]:
    """Yield the contradictions about refcounts.

    There are none if a sentence states the last number that the session shows, or if a later
    command may change the refcount. A sentence that says that the refcount stays at a number, or
    still is that number, contradicts the session if that is not the last number shown; any other
    sentence does so if the number is never shown.
    """
    shown = [(each.step or 0, number) for each in claims for number in _numbers(each, session)]
    numbered = [
        (each, found.number)
        for each in stated
        if (found := statements.refcount(each.text)) and not _DENIES.search(each.text)
    ]
    if not shown:
        return
    last_step, last_number = shown[-1]
    if any(number == last_number for _, number in numbered):
        return
    if not all(map(commands.shows_state, session.texts[last_step + 1 :])):
        return
    for each, number in numbered:
        compared = shown[-1:] if _STAYS.search(each.text) else shown
        if all(number != other for _, other in compared):
            yield _claim(each, last_step)


def _numbers(each: Claim, session: Session) -> list[int]:
    """Return the refcounts that a claim states."""
    if each.kind == "refcount" and each.number is not None and each.symptom:
        return [each.number]
    if each.kind != "output" or each.step is None or "refcnt" not in session.texts[each.step]:
        return []
    return [int(line) for line in map(str.strip, each.lines) if re.fullmatch(r"\d{1,4}", line)]
