# SPDX-License-Identifier: GPL-2.0-only
"""Find the claims in a report's prose about what its session does not show."""

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.report import (
    claim,
    commands,
    error_message,
    kernel_log,
    prose,
    shell_syntax,
    statements,
)
from harness.report.claim import Claim
from harness.report.error_message import ErrorMessage
from harness.report.lines import Line, place
from harness.report.prose import Prose, Sentence
from harness.report.session import Session
from harness.report.statements import Refcount

_STATUS = re.compile(
    r"\b(?:returns?|returned|exit(?:s|ed)?(?: with)?(?: (?:code|status|value))?(?: (?:is|of|was))?|"
    r"(?:exit|return) (?:code|status|value)(?: (?:is|of|was))?|rc ?=|"
    r"(?:fail(?:s|ed|ing)?|end(?:s|ed)?) with"
    r"(?= (?:an? )?(?:exit |error |return )?(?:code|status)\b))"
    r"(?: an?)?(?: (?:exit|error|return))?(?: (?:code|status|value))?(?: of)? "
    r"(?P<number>\d{1,3})\b",
    re.IGNORECASE,
)
_ERRNO = re.compile(
    r"(?:\bwith|\breturns?|\bgives?|\bgot|\bget|\bsays?|\bis|:|\()? ?-?\b(?P<errno>E[A-Z]{3,12})\b"
)
_IN_USE = re.compile(
    r"\b(?:(?:is|still|as|says?|module|be) (?:still )?(?:in use|busy)|refus\w+|can(?:no|')t "
    r"(?:be )?"
    r"(?:unload\w*|remov\w*)|cannot be (?:unloaded|removed)|fails? to unload)\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"\b(?:prints?|printed|shows?|outputs?|says?|lists?|gives?|returns?|has|found|finds?) "
    r"(?:me )?(?:absolutely )?nothing\b|\bno output\b|\b(?:is|stays|comes out|was) empty\b",
    re.IGNORECASE,
)
_LOG = re.compile(r"\b(?:dmesg|logs?|console|journal\w*|syslog)\b", re.IGNORECASE)
_FAILS = re.compile(r"\b(?:fail|err(?:no|or)|return|refus|say|got|get|with|end)", re.IGNORECASE)
_TAINTS = re.compile(
    r"\b(?:unsigned|out[- ]of[- ]tree|taints?)\b|(?-i:\([OEFCPRKXN]{1,4}\))", re.IGNORECASE
)
# Words in a sentence that continues where the session ends.
_CONTINUES_SESSION = re.compile(
    r"\b(?:then|afterwards?|after (?:that|this)|now|at (?:this|that) point|finally|"
    r"(?:this|the) last|here|that)\b",
    re.IGNORECASE,
)
# A quoted line of the log.
_QUOTED_LOG = re.compile(
    r"\b(?:dmesg|logs?|console|journal\w*|syslog|kernel)\b(?P<between>[^`\"“]{1,60})"
    r"(?:`+(?P<code>[^`]{8,300})`+|[\"“](?P<words>[^\"”]{8,300})[\"”])",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not?|never|nothing|\w+n't|command|option)\b", re.IGNORECASE)
_ORDINAL = re.compile(
    r"\b(first|second|third|fourth|fifth|last|final) (?:command|step|write|line|one|call|echo)\b",
    re.IGNORECASE,
)
_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4}

# Claims about crashes. They take precedence over what a session without a crash shows.
CRASH_KINDS = frozenset({"panic", "splat", "killed", "hang"})

# The longest excerpt of a log with lines that are claims: a longer excerpt is only context.
_FEW = 5


def find(about: Prose, session: Session) -> list[Claim]:
    """Return the claims of the prose: error messages of tools, kernel messages, and sentences.

    An error message or a sentence is about the command that it names, or about the last command if
    it names no command. A kernel message may appear at any step.
    """
    found: dict[tuple[str, int | None, str], Claim] = {}
    for each in (
        *_error_messages(about.lines, session),
        *_quoted_log(about.lines),
        *_shown_log(about.lines),
        *_of_sentences(about.statements, session),
    ):
        # Each kernel message is a claim. Of other claims of one kind about one step only the
        # first counts.
        text = each.text if each.kind == "message" else ""
        found.setdefault((each.kind, each.step, text), each)
    return list(found.values())


def mentions_taints(about: Prose) -> bool:
    """Whether the prose is about how modules taint the kernel."""
    return any(_TAINTS.search(each.text) for each in about.statements)


def crash_claims(about: Prose, session: Session) -> list[Claim]:
    """Return the claims of a panic, a splat, a killed command or a hang. A hang that does not end
    is a claim only if the session does not show that the command ends."""
    usable = [each for each in about.statements if not prose.is_other_case(each.text)]
    found = [*_quoted_log(about.lines), *_of_sentences(usable, session)]
    return [
        each
        for each in found
        if each.kind in CRASH_KINDS and (each.kind != "hang" or _may_hang(session, each))
    ]


def _may_hang(session: Session, each: Claim) -> bool:
    if each.number is not None:
        return True
    command = session.commands[each.step or 0]
    return each.step == session.last_step and not (command.ended or command.output)


def closing_claims(lines: Sequence[Line], session: Session) -> list[Claim]:
    """Return the claims about the last command in the first paragraph below a session, for example
    "that hangs" or "and then the refcount is 3"."""
    below = [line for line in lines if line.number > session.last_line]
    start = next((n for n, line in enumerate(below) if not line.blank), len(below))
    end = next((n for n in range(start, len(below)) if below[n].blank), len(below))
    paragraph = list(prose.observed_lines(below[start:end]))
    text = " ".join(line.stripped for line in paragraph)
    if not _CONTINUES_SESSION.search(text):
        return []
    found = _of_sentences(prose.statements(paragraph, session), session)
    return [each for each in found if each.step == session.last_step]


def note_claims(session: Session) -> list[Claim]:
    """Return the claims of the reporter's remarks after commands."""
    return [
        each
        for step, command in enumerate(session.commands)
        if command.note and prose.states_fact(command.note)
        for each in _of_sentence(
            prose.sentence(command.note, session, place(command.line, command.line)), session, step
        )
    ]


def _error_messages(lines: Sequence[Line], session: Session) -> Iterator[Claim]:
    """Yield a claim for each line that is an error message of a tool."""
    for line in lines:
        error = error_message.parse(line.stripped)
        if error is None or error.kind == error_message.NO_COMMAND:
            continue
        step = _step_of(line.stripped.partition(":")[0], session)
        text = f"{_name(session, step)} reports: {error}"
        where = place(line.number, line.number)
        yield Claim("error", text, where, step, lines=(line.stripped,), error=error)


def _quoted_log(lines: Sequence[Line]) -> Iterator[Claim]:
    """Yield a claim for each kernel message in quotation marks. It may appear at any step."""
    for first, last, paragraph in prose.paragraphs(lines):
        for match in _QUOTED_LOG.finditer(paragraph):
            before = prose.last_sentence(paragraph[: match.start()] + match["between"])
            if not prose.states_fact(before) or _DENIED.search(before):
                continue
            text = match["code"] or match["words"]
            yield _of_log(kernel_log.message_text(text) or text.strip(), place(first, last))


def _shown_log(lines: Sequence[Line]) -> Iterator[Claim]:
    """Yield a claim for each line that is a kernel message, unless one belongs to a splat."""
    stamped = [line for line in lines if kernel_log.message_text(line.stripped) is not None]
    if len(stamped) > _FEW:
        return
    numbers = [line.number for line in stamped]
    rest = kernel_log.split_splats([line.stripped for line in stamped], numbers).rest
    if len(rest) == len(stamped):
        for number, text in rest:
            yield _of_log(kernel_log.message_text(text) or "", place(number, number))


def _of_log(text: str, where: str) -> Claim:
    splats = kernel_log.split_splats([text], [0]).splats
    if splats:
        return claim.of_splat(splats[0][0], where, None)
    return Claim("message", f"the kernel logs: {text}", where, None, lines=(text,))


def _of_sentences(sentences: Iterable[Sentence], session: Session) -> Iterator[Claim]:
    for each in sentences:
        yield from _of_sentence(each, session, _step_of(each.text, session))


def _of_sentence(sentence: Sentence, session: Session, step: int) -> Iterator[Claim]:
    """Yield the claims of a sentence about the step."""
    command, name = session.commands[step].text, _name(session, step)
    text, where = sentence.words, sentence.where
    if refcount := statements.refcount(text):
        yield _of_refcount(refcount, session, where)
        return
    if device := statements.device(text, where, step):
        yield device
    if crash := statements.crash(text, name, where, step):
        yield crash
        return
    if _NOTHING.search(text) and _may_be_about_output(text, command):
        yield Claim("silence", f"{name} prints nothing", where, step)
    if match := _STATUS.search(text):
        status = int(match["number"])
        yield Claim("status", f"{name} exits with status {status}", where, step, number=status)
    if errno := _errno_in(text):
        error = ErrorMessage(f"fails: {errno}", "")
        yield Claim("error", f"{name} fails with {errno}", where, step, error=error)
    elif _IN_USE.search(text) and _may_be_about_unload(text, session, step):
        module = shell_syntax.last_word(command).replace("-", "_")
        error = ErrorMessage(error_message.IN_USE, module)
        yield Claim("error", f"{name} reports: {error}", where, step, error=error)


def _name(session: Session, step: int) -> str:
    first_line = session.commands[step].text.partition("\n")[0]
    return f"`{first_line}`"


def _may_be_about_output(sentence: str, command: str) -> bool:
    """Whether the sentence may be about the output of the command, not about the kernel log."""
    return commands.prints_log(command) or not _LOG.search(sentence)


def _of_refcount(stated: Refcount, session: Session, where: str) -> Claim:
    text = f"the refcount of {stated.module or 'the IOMMU driver'} is {stated.number}"
    return Claim(
        "refcount", text, where, session.last_step, number=stated.number, subject=stated.module
    )


def _errno_in(sentence: str) -> str:
    """Return the errno that a sentence mentions by name or by text, "" if it mentions none."""
    match = _ERRNO.search(sentence)
    if match and match["errno"] in error_message.ERRNO_NAMES:
        return match["errno"]
    return error_message.find_errno(sentence) if _FAILS.search(sentence) else ""


def _may_be_about_unload(sentence: str, session: Session, step: int) -> bool:
    """Whether the step unloads a module, and the sentence names it or names no module."""
    words = re.findall(r"\w+", sentence.replace("-", "_"))
    modules = [shell_syntax.last_word(text).replace("-", "_") for text in session.texts]
    named = [each for each in modules if each in words]
    return _unloads(session.commands[step].text) and (not named or modules[step] in named)


def _unloads(command: str) -> bool:
    names = shell_syntax.programs(command)
    return "rmmod" in names or ("modprobe" in names and " -r" in command)


def _step_of(sentence: str, session: Session) -> int:
    """Return the step that the sentence names by its ordinal, by its whole command or by its
    program, or the last step if it names no step."""
    last = session.last_step
    ordinal = _ORDINAL.search(sentence)
    if ordinal:
        return min(_ORDINALS.get(ordinal[1].lower(), last), last)
    for step in range(last, -1, -1):
        text = session.commands[step].text
        if text in sentence:
            return step
    for step in range(last, -1, -1):
        names = shell_syntax.programs(session.commands[step].text)
        if names and re.search(rf"\b{re.escape(names[0])}\b", sentence):
            return step
    return last
