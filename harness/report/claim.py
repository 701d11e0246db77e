# SPDX-License-Identifier: GPL-2.0-only
"""What a report claims: checkable statements, each with its lines."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from harness.klog.splat import Splat
from harness.report import context, fact, modules, traces
from harness.report.fact import Fact
from harness.report.part import Command
from harness.report.session import Session

Kind = Literal[
    "panic",
    "splat",
    "hang",
    "killed",
    "contradiction",
    "fact",
    "refcount",
    "status",
    "message",
    "device",
    "output",
    "silence",
    "context",
]

# Which symptom a report is about when it shows several: the first of these.
# Of numbers and output the last is what a report comes to; what a tool or the kernel
# complains of comes before them.
_COMPLAINTS = ("fact", "message")
_MEASURES = ("refcount", "status", "device", "output", "silence")
WEIGHT: dict[Kind, int] = {
    kind: 4 if kind in _COMPLAINTS else 5 if kind in _MEASURES else number
    for number, kind in enumerate(get_args(Kind))
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement: of a ``kind``, in words (``text``), from the lines ``where``.
    ``step`` counts the session's commands from 0, None for what stands beside the
    session. Of a ``symptom`` the verdict is made; a claim that is none may differ.
    What it states is in ``lines`` (output, a message's text, a device's driver), ``number``
    (a status, a refcount, a group), ``fact`` or ``splat``; ``subject`` is a module, "" for the
    IOMMU's driver, or a device, "" for any. Of rows of modules one is ``chosen`` by the
    report from all that are loaded, ``tainted`` where the report is about its taints. A
    refcount without a number is that of a module that is not loaded, a device without a
    number or lines one that has no group."""

    kind: Kind
    text: str
    where: str
    step: int | None
    symptom: bool = True
    lines: tuple[str, ...] = ()
    number: int | None = None
    fact: Fact | None = None
    splat: Splat | None = None
    subject: str = ""
    chosen: bool = False
    tainted: bool = False

    @property
    def judges(self) -> bool:
        """Whether the verdict depends on it: on a symptom, and on each step before it."""
        return self.symptom or self.kind in ("silence", "status")


# What a shell says of a command that a signal killed, as an oops does.
_DEATH = re.compile(
    r"(?:\S+: line \d+: +\d+ )?(?P<how>Segmentation fault|Killed|Trace/breakpoint trap|Bus error|"
    r"Illegal instruction|Aborted)(?:\s.*)?"
)
# Kinds of splats whose task does not live on.
DEADLY = frozenset({"Oops", "BUG"})

# Above, a status says which signal has ended the command.
_LAST_OWN_STATUS = 128

# Words of a message that says something is wrong; other messages describe a device.
_ALARM = re.compile(
    r"fail|error|event 0x|warn|unable|cannot|can't|time[d -]?out|"
    r"invalid|refus|denied|busy|fishy|unexpected|"
    r"unhandled|fault|overflow|stuck|leak|abort|ignor|unsupported|not supported|still|duplicate|"
    r"already|conflict|bypass|blocked|reject|corrupt|oops|missing|illegal|unknown",
    re.IGNORECASE,
)

_COUNTED_ELISION = re.compile(r"(?:\.{3,}|…|\[\.\.\.\]|<snip>|\[snip\]|\[cut\])(?: .*)?")


def of_session(session: Session) -> list[Claim]:
    """The claims of the session itself, in the order of its commands."""
    found = [
        claim
        for number, command in enumerate(session.commands)
        for claim in _of_command(number, command)
    ]
    found += _absent(session)
    found.sort(key=lambda each: each.step or 0)
    texts = " ".join(session.texts).replace("-", "_")
    return _promoted([_demoted(each, texts) for each in found])


_REMOVES = re.compile(r"\b(?:rmmod|modprobe +(?:-\w+ +)*-\w*r\w*)\s+(?:-\w+ +)*(?P<module>[\w-]+)")
_LOADS = re.compile(r"\b(?:modprobe|insmod)\b")


def _absent(session: Session) -> Iterator[Claim]:
    """A whole list of modules without one that was to be removed claims that it is gone."""
    removed: set[str] = set()
    for number, command in enumerate(session.commands):
        rows = [row for line in command.output if (row := modules.row(line))]
        if modules.lists_all(command.text) and rows and not _elided(command):
            for name in sorted(removed - {row.name for row in rows}):
                where = lines_of(command.line, command.last)
                text = f"`{shortened(command.text)}` does not show {name}"
                yield Claim("refcount", text, where, number, subject=name)
        taken = [match["module"].replace("-", "_") for match in _REMOVES.finditer(command.text)]
        removed.update(taken)
        if not taken and _LOADS.search(command.text):
            removed.clear()


def _elided(command: Command) -> bool:
    return any(_COUNTED_ELISION.fullmatch(line.strip()) for line in command.output)


def expects_anything(claims: Sequence[Claim]) -> bool:
    """Whether there is a symptom at all."""
    return any(claim.symptom for claim in claims)


def _demoted(each: Claim, texts: str) -> Claim:
    """A row of a module that no command is about is no symptom: what else is loaded is the
    reporter's configuration."""
    if each.kind == "refcount" and each.subject not in texts and not each.chosen:
        return replace(each, symptom=False)
    return each


def _promoted(claims: list[Claim]) -> list[Claim]:
    """Messages that describe a device, and rows of modules, are symptoms where a report has
    no other."""
    if any(claim.symptom for claim in claims):
        return claims
    return [
        replace(each, symptom=True) if each.kind in ("message", "refcount") else each
        for each in claims
    ]


def with_emptiness(claims: Sequence[Claim], session: Session) -> list[Claim]:
    """The claims of a report. That a command shows nothing is a symptom where its reporter
    looks for something, the next prompt proves that nothing came, and all symptoms are
    figures or complaints that come before it: the last one is what the report comes to."""
    symptoms = [each for each in claims if each.symptom]
    kinds = (*_MEASURES, *_COMPLAINTS)
    if any(each.kind not in kinds or each.step is None for each in symptoms):
        return list(claims)
    complains = any(each.kind in _COMPLAINTS for each in symptoms)
    last = max((each.step for each in symptoms if each.step is not None), default=-1)
    return [
        replace(each, symptom=True) if _is_emptiness(each, session, last, complains) else each
        for each in claims
    ]


def _is_emptiness(each: Claim, session: Session, last: int, complains: bool) -> bool:
    """Of a log whose lines a report leaves out, it says nothing where something complains."""
    if each.kind != "silence" or each.step is None or each.step <= last:
        return False
    command = session.commands[each.step]
    if complains and traces.prints_log(command.text):
        return False
    return command.ended and context.shows_state(command.text)


def shortened(text: str) -> str:
    """A command or an output in a line."""
    first, _, more = text.strip().partition("\n")
    return f"{first[:100]} ..." if more or len(first) > 100 else first


def lines_of(first: int, last: int) -> str:
    return f"line {first}" if first >= last else f"lines {first}-{last}"


def _of_command(number: int, command: Command) -> Iterator[Claim]:
    where = lines_of(command.line, command.last)
    name = f"`{shortened(command.text)}`"
    if _is_context(command):
        yield Claim("context", f"{name} describes the reporter's machine", where, number, False)
        return
    if command.interrupted and not context.is_endless(command.text):
        yield Claim("hang", f"{name} does not end", where, number)
    if command.status is not None:
        text = f"{name} exits with status {command.status}"
        yield Claim("status", text, where, number, number=command.status)
    elif command.next_status is not None and command.next_status <= _LAST_OWN_STATUS:
        # That commands succeed is how a session goes, and no symptom.
        reported = command.next_status
        text = f"{name} exits with status {reported}"
        yield Claim("status", text, where, number, reported != 0, number=reported)
    shown = traces.split(command.output, command.numbers)
    for splat, place in shown.splats:
        yield of_splat(splat, place, number)
    yield from _of_texts(number, command, shown.rest, said=bool(shown.splats))


def _is_context(command: Command) -> bool:
    if context.is_context(command.text) or context.only_moves_shell(command.text):
        return True
    goes_on = command.interrupted or command.background or not command.ended
    return goes_on and context.is_endless(command.text)


def of_splat(splat: Splat, where: str, step: int | None) -> Claim:
    """The claim that the kernel reports the splat."""
    place = f" in {splat.function}" if splat.function else ""
    kind: Kind = "panic" if splat.kind == "panic" else "splat"
    text = f"the kernel reports: {splat.kind}{place}" if kind == "splat" else splat.text[0].strip()
    return Claim(kind, text, where, step, splat=splat)


def _of_texts(
    number: int, command: Command, rest: Sequence[tuple[int, str]], *, said: bool
) -> Iterator[Claim]:
    """The claims of the lines that are no splat's; ``said`` whether the command has shown
    anything in one."""
    name = f"`{shortened(command.text)}`"
    output: list[tuple[int, str]] = []
    for line, text in rest:
        found = _of_line(number, command, line, text)
        if found is None and text.strip() and not _DEATH.fullmatch(text.strip()):
            output.append((line, text))
        elif found:
            said = True
            yield found
    yield from _deaths(number, command)
    shown = tuple(text for _, text in output)
    if output and not all(_COUNTED_ELISION.fullmatch(text.strip()) for text in shown):
        where = lines_of(output[0][0], output[-1][0])
        yield Claim("output", f"{name} prints {shortened(shown[0])}", where, number, lines=shown)
    elif not (said or output) and _claims_silence(command):
        where = lines_of(command.line, command.line)
        # What is to be printed on success, and is not, is a failure.
        fails = command.ended and context.announces(command.text) == "&&"
        yield Claim("silence", f"{name} prints nothing", where, number, fails)


def _of_line(number: int, command: Command, line: int, text: str) -> Claim | None:
    """The claim of one line of output: a tool's message, the kernel's, or a module's row."""
    name, where = f"`{shortened(command.text)}`", lines_of(line, line)
    wording = fact.of(text)
    if wording and wording.kind != fact.NO_COMMAND:
        return Claim("fact", f"{name}: {wording}", where, number, lines=(text,), fact=wording)
    message = traces.message(text)
    if message is not None and not traces.prints_log(command.text):
        symptom = _ALARM.search(message) is not None
        return Claim("message", f"the kernel says: {message}", where, number, symptom, (message,))
    row = modules.row(text) if modules.lists(command.text) else None
    if row:
        shown = f"{name} shows {row.name} with refcount {row.refcount}"
        return Claim(
            "refcount",
            shown,
            where,
            number,
            lines=(text,),
            number=row.refcount,
            subject=row.name,
            chosen="|" in command.text,
        )
    return None


def _deaths(number: int, command: Command) -> Iterator[Claim]:
    """That a signal kills the command: its shell says so, among a splat's lines as well."""
    pairs = zip(command.numbers, command.output, strict=False)
    for line, text in pairs:
        if death := _DEATH.fullmatch(text.strip()):
            shown = f"`{shortened(command.text)}` is killed ({death['how']})"
            yield Claim("killed", shown, lines_of(line, line), number)
            return


def _claims_silence(command: Command) -> bool:
    """Whether an empty output means that the command prints nothing."""
    ended = not (command.interrupted or command.background or _DEATH.search(str(command.output)))
    return command.shown and command.status is None and ended


def reports_death(claims: Sequence[Claim], step: int) -> bool:
    """Whether the report shows that the command of that step dies."""
    return any(
        claim.step == step
        and (
            claim.kind in ("killed", "panic")
            or (claim.splat is not None and claim.splat.kind in DEADLY)
        )
        for claim in claims
    )
