# SPDX-License-Identifier: GPL-2.0-only
"""What a report claims in words, where its session shows nothing."""

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.report import count, crashes, device, fact, sentences, shell, traces
from harness.report.claim import Claim, lines_of, of_splat
from harness.report.count import Count
from harness.report.fact import Fact
from harness.report.lines import Line
from harness.report.session import Session

_STATUS = re.compile(
    r"\b(?:returns?|returned|exit(?:s|ed)?(?: with)?(?: (?:code|status|value))?(?: (?:is|of|was))?|"
    r"(?:exit|return) (?:code|status|value)(?: (?:is|of|was))?|rc ?=)"
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


def claims(lines: Sequence[Line], session: Session) -> list[Claim]:
    """The claims of a message's prose about the session: messages of tools that stand in it,
    and sentences. Each is about the command that it names, else the last one."""
    usable = sentences.own(lines, session)
    found: dict[tuple[str, int | None, str], Claim] = {}
    said = (
        *_messages(usable, session),
        *_logged(usable),
        *_shown_log(usable),
        *_statements(usable, session),
    )
    for claim in said:
        # Of messages each is one; of what else is said of a step the first sentence counts.
        what = claim.text if claim.kind == "message" else ""
        found.setdefault((claim.kind, claim.step, what), claim)
    return list(found.values())


_TAINTS = re.compile(
    r"\b(?:unsigned|out[- ]of[- ]tree|taints?)\b|(?-i:\([OEFCPRKXN]{1,4}\))", re.IGNORECASE
)


def is_about_taints(lines: Sequence[Line], session: Session) -> bool:
    """Whether a message says something of how modules taint the kernel."""
    return any(_TAINTS.search(sentence) for _, sentence in sentences.stated_about(lines, session))


# What is worse than anything that a session without one shows.
CRASHES = frozenset({"panic", "splat", "killed", "hang"})


def of_crashes(lines: Sequence[Line], session: Session) -> list[Claim]:
    """What a message says in words of a panic, an oops, a death or a hang of the session; of a
    hang only where this does not show that the command ends."""
    own = sentences.own(lines, session)
    usable = [each for each in sentences.stated(own) if not sentences.is_other_case(each[1])]
    found = [*_logged(own), *_of_sentences(usable, session)]
    return [
        each
        for each in found
        if each.kind in CRASHES and (each.kind != "hang" or _may_hang(session, each))
    ]


def _may_hang(session: Session, each: Claim) -> bool:
    command = session.commands[each.step or 0]
    return each.step == len(session.commands) - 1 and not (command.ended or command.output)


# Words of a sentence that goes on where the session has ended.
_GOES_ON = re.compile(
    r"\b(?:then|afterwards?|after (?:that|this)|now|at (?:this|that) point|finally|"
    r"(?:this|the) last|here|that)\b",
    re.IGNORECASE,
)


def of_end(lines: Sequence[Line], session: Session) -> list[Claim]:
    """What the first paragraph below a session says of its last command, which shows
    nothing: "that hangs", "and then the refcount is 3"."""
    last = len(session.commands) - 1
    below = [line for line in lines if line.number > session.last]
    start = next((n for n, line in enumerate(below) if not line.blank), len(below))
    end = next((n for n in range(start, len(below)) if below[n].blank), len(below))
    paragraph = list(sentences.observed(below[start:end]))
    text = " ".join(line.bare for line in paragraph)
    if not _GOES_ON.search(text):
        return []
    stated = _statements(paragraph, session)
    return [each for each in stated if each.step == last]


def _messages(lines: Sequence[Line], session: Session) -> Iterator[Claim]:
    """Lines that are a tool's own message."""
    for line in lines:
        said = fact.of(line.bare)
        if said is None or said.kind == fact.NO_COMMAND:
            continue
        step = _step_of(line.bare.partition(":")[0], session)
        text = f"`{session.commands[step].text.partition(chr(10))[0]}`: {said}"
        where = lines_of(line.number, line.number)
        yield Claim("fact", text, where, step, lines=(line.bare,), fact=said)


# A line of the log in quotes.
_QUOTED_LOG = re.compile(
    r"\b(?:dmesg|logs?|console|journal\w*|syslog|kernel)\b(?P<says>[^`\"“]{1,60})"
    r"(?:`+(?P<code>[^`]{8,300})`+|[\"“](?P<words>[^\"”]{8,300})[\"”])",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not?|never|nothing|\w+n't|command|option)\b", re.IGNORECASE)


def _logged(lines: Sequence[Line]) -> Iterator[Claim]:
    """Messages of the kernel that are quoted in a sentence; they may come at any step."""
    for first, last, paragraph in sentences.paragraphs(lines):
        for match in _QUOTED_LOG.finditer(paragraph):
            before = sentences.SENTENCE.findall(paragraph[: match.start()] + match["says"])[-1:]
            if any(not sentences.states(each) or _DENIED.search(each) for each in before):
                continue
            text = match["code"] or match["words"]
            yield _of_log(traces.message(text) or text.strip(), lines_of(first, last))


# A few lines of the log are shown for what they say, a whole one for whatever may be in it.
_FEW = 5


def _shown_log(lines: Sequence[Line]) -> Iterator[Claim]:
    """Messages of the kernel in lines of their own, which are no splat's."""
    stamped = [line for line in lines if traces.message(line.bare) is not None]
    numbers = [line.number for line in stamped]
    rest = traces.split([line.bare for line in stamped], numbers).rest
    if len(rest) == len(stamped) <= _FEW:
        for number, text in rest:
            yield _of_log(traces.message(text) or "", lines_of(number, number))


def _of_log(text: str, where: str) -> Claim:
    found = traces.split([text], [0]).splats
    if found:
        return of_splat(found[0][0], where, None)
    return Claim("message", f"the kernel says: {text}", where, None, lines=(text,))


def _statements(lines: Sequence[Line], session: Session) -> Iterator[Claim]:
    yield from _of_sentences(sentences.stated(lines), session)


def _of_sentences(said: Iterable[tuple[str, str]], session: Session) -> Iterator[Claim]:
    for where, sentence in said:
        yield from _of_sentence(sentence, session, where, _step_of(sentence, session))


def of_notes(session: Session) -> list[Claim]:
    """What remarks behind commands say of them."""
    return [
        claim
        for step, command in enumerate(session.commands)
        if command.note and sentences.states(command.note)
        for claim in _of_sentence(command.note, session, lines_of(command.line, command.line), step)
    ]


def _of_sentence(sentence: str, session: Session, where: str, step: int) -> Iterator[Claim]:
    command = session.commands[step].text
    sentence = sentences.without_commands(sentence, session)
    name = f"`{command.partition(chr(10))[0]}`"
    if counted := count.of(sentence):
        yield _count(counted, session, where)
        return
    if placed := device.of(sentence, where, step):
        yield placed
    if crash := crashes.of(sentence, name, where, step):
        yield crash
        return
    if _NOTHING.search(sentence) and _is_of_command(sentence, command):
        yield Claim("silence", f"{name} prints nothing", where, step)
    if match := _STATUS.search(sentence):
        status = int(match["number"])
        yield Claim("status", f"{name} exits with status {status}", where, step, number=status)
    if errno := _errno_in(sentence):
        said = Fact(f"fails: {errno}", "")
        yield Claim("fact", f"{name} fails with {errno}", where, step, fact=said)
    elif _IN_USE.search(sentence) and _is_refused(sentence, session, step):
        said = Fact(fact.IN_USE, shell.last_word(command).replace("-", "_"))
        yield Claim("fact", f"{name}: {said}", where, step, fact=said)


def _is_of_command(sentence: str, command: str) -> bool:
    """Whether it can be about what the command prints, and not about the log."""
    return traces.prints_log(command) or not _LOG.search(sentence)


def _count(said: Count, session: Session, where: str) -> Claim:
    text = f"the refcount of {said.module or 'the IOMMU driver'} is {said.number}"
    last = len(session.commands) - 1
    return Claim("refcount", text, where, last, number=said.number, subject=said.module)


_FAILS = re.compile(r"\b(?:fail|err(?:no|or)|return|refus|say|got|get|with|end)", re.IGNORECASE)


def _errno_in(sentence: str) -> str:
    """The errno that a sentence names, by its name or its text."""
    match = _ERRNO.search(sentence)
    if match and match["errno"] in fact.ERRNO_NAMES:
        return match["errno"]
    return fact.errno_in(sentence) if _FAILS.search(sentence) else ""


def _is_refused(sentence: str, session: Session, step: int) -> bool:
    """Whether the sentence can be about the step: that unloads a module, and where it names
    any of the session's, then this."""
    words = re.findall(r"\w+", sentence.replace("-", "_"))
    modules = [shell.last_word(text).replace("-", "_") for text in session.texts]
    named = [each for each in modules if each in words]
    return _unloads(session.commands[step].text) and (not named or modules[step] in named)


def _unloads(command: str) -> bool:
    names = shell.programs(command)
    return "rmmod" in names or ("modprobe" in names and " -r" in command)


_ORDINAL = re.compile(
    r"\b(first|second|third|fourth|fifth|last|final) (?:command|step|write|line|one|call|echo)\b",
    re.IGNORECASE,
)
_ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4}


def _step_of(sentence: str, session: Session) -> int:
    """The command that the sentence names: by its place, whole, or by its program."""
    last = len(session.commands) - 1
    place = _ORDINAL.search(sentence)
    if place:
        return min(_ORDINALS.get(place[1].lower(), last), last)
    for number in range(last, -1, -1):
        text = session.commands[number].text
        if text in sentence:
            return number
    for number in range(last, -1, -1):
        names = shell.programs(session.commands[number].text)
        if names and re.search(rf"\b{re.escape(names[0])}\b", sentence):
            return number
    return last
