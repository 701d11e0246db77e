# SPDX-License-Identifier: GPL-2.0-only
"""The claims that a session itself makes: by statuses, output, messages and splats."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.report import claim, commands, error_message, kernel_log, lsmod
from harness.report.claim import COMPLAINTS, MEASURES, Claim, one_line
from harness.report.commands import Command
from harness.report.lines import place
from harness.report.session import Session

# What a shell prints about a command that a signal kills, as an oops does.
_KILLED = re.compile(
    r"(?:\S+: line \d+: +\d+ )?(?P<how>Segmentation fault|Killed|Trace/breakpoint trap|Bus error|"
    r"Illegal instruction|Aborted)(?:\s.*)?"
)

# A greater status is that of a command which a signal ended.
_LAST_OWN_STATUS = 128

# Words of a message about a fault; other messages describe a device.
_ALARM = re.compile(
    r"fail|error|event 0x|warn|unable|cannot|can't|time[d -]?out|"
    r"invalid|refus|denied|busy|fishy|unexpected|"
    r"unhandled|fault|overflow|stuck|leak|abort|ignor|unsupported|not supported|still|duplicate|"
    r"already|conflict|bypass|blocked|reject|corrupt|oops|missing|illegal|unknown",
    re.IGNORECASE,
)

_ELISION = re.compile(r"(?:\.{3,}|…|\[\.\.\.\.\]|<snip>|\[snip\]|\[cut\])(?: .*)?")

_REMOVES = re.compile(r"\b(?:rmmod|modprobe +(?:-\w+ +)*-\w*r\w*)\s+(?:-\w+ +)*(?P<module>[\w-]+)")
_LOADS = re.compile(r"\b(?:modprobe|insmod)\b")


def find(session: Session) -> list[Claim]:
    """The claims of the session, in the order of its commands."""
    found = [
        each for step, command in enumerate(session.commands) for each in _of_command(step, command)
    ]
    found += _of_missing_rows(session)
    found.sort(key=lambda each: each.step or 0)
    texts = " ".join(session.texts).replace("-", "_")
    return _promote_descriptions([_demote_other_row(each, texts) for each in found])


def _of_missing_rows(session: Session) -> Iterator[Claim]:
    """A list of all modules without one that the session removes claims that it is not loaded."""
    removed: set[str] = set()
    for step, command in enumerate(session.commands):
        rows = [row for line in command.output if (row := lsmod.parse_row(line))]
        if lsmod.lists_all_modules(command.text) and rows and not _has_elision(command):
            for name in sorted(removed - {row.name for row in rows}):
                where = place(command.line, command.last_line)
                text = f"`{one_line(command.text)}` does not show {name}"
                yield Claim("refcount", text, where, step, subject=name)
        removes = [match["module"].replace("-", "_") for match in _REMOVES.finditer(command.text)]
        removed.update(removes)
        if not removes and _LOADS.search(command.text):
            removed.clear()


def _has_elision(command: Command) -> bool:
    return any(_ELISION.fullmatch(line.strip()) for line in command.output)


def _demote_other_row(each: Claim, texts: str) -> Claim:
    """The row of a module that no command names or selects is no symptom: it shows the
    reporter's configuration."""
    if each.kind == "refcount" and each.subject not in texts and not each.selected:
        return replace(each, symptom=False)
    return each


def _promote_descriptions(claims: list[Claim]) -> list[Claim]:
    """Messages that describe a device, and rows of modules, are symptoms if the report shows
    no other."""
    if claim.any_symptom(claims):
        return claims
    return [
        replace(each, symptom=True) if each.kind in ("message", "refcount") else each
        for each in claims
    ]


def promote_silence(claims: Sequence[Claim], session: Session) -> list[Claim]:
    """The claims, where the silence of a command may be a symptom: the command queries state,
    the next prompt proves that it prints nothing, and it follows all symptoms, which are
    measures or complaints. The last measure is the one that the report leads to."""
    symptoms = [each for each in claims if each.symptom]
    kinds = (*MEASURES, *COMPLAINTS)
    if any(each.kind not in kinds or each.step is None for each in symptoms):
        return list(claims)
    complains = any(each.kind in COMPLAINTS for each in symptoms)
    last = max((each.step for each in symptoms if each.step is not None), default=-1)
    return [
        replace(each, symptom=True) if _is_telling(each, session, last, complains) else each
        for each in claims
    ]


def _is_telling(each: Claim, session: Session, last: int, complains: bool) -> bool:
    """Whether the silence is a symptom. That of a log is none where something complains: the
    report may leave the log's lines out."""
    if each.kind != "silence" or each.step is None or each.step <= last:
        return False
    command = session.commands[each.step]
    if complains and commands.prints_log(command.text):
        return False
    return command.ended and commands.shows_state(command.text)


def _of_command(step: int, command: Command) -> Iterator[Claim]:
    where = place(command.line, command.last_line)
    name = f"`{one_line(command.text)}`"
    if _is_context(command):
        yield Claim("context", f"{name} describes the reporter's machine", where, step, False)
        return
    if command.interrupted and not commands.is_endless(command.text):
        yield Claim("hang", f"{name} does not end", where, step)
    if command.status is not None:
        text = f"{name} exits with status {command.status}"
        yield Claim("status", text, where, step, number=command.status)
    elif command.next_status is not None and command.next_status <= _LAST_OWN_STATUS:
        # Success is the normal course of a session and no symptom.
        reported = command.next_status
        text = f"{name} exits with status {reported}"
        yield Claim("status", text, where, step, reported != 0, number=reported)
    split = kernel_log.split_splats(command.output, command.numbers)
    for splat, lines in split.splats:
        yield claim.of_splat(splat, lines, step)
    yield from _of_output(step, command, split.rest, has_splat=bool(split.splats))


def _is_context(command: Command) -> bool:
    text = command.text
    if commands.describes_machine(text) or commands.only_switches_shell(text):
        return True
    runs_on = command.interrupted or command.background or not command.ended
    return runs_on and commands.is_endless(text)


def _of_output(
    step: int, command: Command, rest: Sequence[tuple[int, str]], *, has_splat: bool
) -> Iterator[Claim]:
    """The claims of the output's lines outside of splats."""
    name = f"`{one_line(command.text)}`"
    output: list[tuple[int, str]] = []
    silent = not has_splat
    for number, line in rest:
        found = _of_line(step, command, number, line)
        if found is None and line.strip() and not _KILLED.fullmatch(line.strip()):
            output.append((number, line))
        elif found:
            silent = False
            yield found
    yield from _of_death(step, command)
    texts = tuple(line for _, line in output)
    if output and not all(_ELISION.fullmatch(text.strip()) for text in texts):
        where = place(output[0][0], output[-1][0])
        yield Claim("output", f"{name} prints {one_line(texts[0])}", where, step, lines=texts)
    elif silent and not output and _claims_silence(command):
        where = place(command.line, command.line)
        # A missing echo on success means that the command before it fails.
        fails = command.ended and commands.trailing_echo(command.text) == "&&"
        yield Claim("silence", f"{name} prints nothing", where, step, fails)


def _of_line(step: int, command: Command, number: int, line: str) -> Claim | None:
    """The claim of one line of output: a tool's error message, a kernel message, or a row of
    lsmod."""
    name, where = f"`{one_line(command.text)}`", place(number, number)
    error = error_message.parse(line)
    if error and error.kind != error_message.NO_COMMAND:
        return Claim("error", f"{name} reports: {error}", where, step, lines=(line,), error=error)
    message = kernel_log.message_text(line)
    if message is not None and not commands.prints_log(command.text):
        symptom = _ALARM.search(message) is not None
        return Claim("message", f"the kernel logs: {message}", where, step, symptom, (message,))
    row = lsmod.parse_row(line) if lsmod.lists_modules(command.text) else None
    if row is None:
        return None
    return Claim(
        "refcount",
        f"{name} shows {row.name} with refcount {row.refcount}",
        where,
        step,
        lines=(line,),
        number=row.refcount,
        subject=row.name,
        selected="|" in command.text,
    )


def _of_death(step: int, command: Command) -> Iterator[Claim]:
    """The claim that a signal kills the command. The shell's message may be within a splat."""
    for number, line in zip(command.numbers, command.output, strict=False):
        if killed := _KILLED.fullmatch(line.strip()):
            text = f"`{one_line(command.text)}` is killed ({killed['how']})"
            yield Claim("killed", text, place(number, number), step)
            return


def _claims_silence(command: Command) -> bool:
    """Whether an empty output means that the command prints nothing."""
    if command.interrupted or command.background or _KILLED.search(str(command.output)):
        return False
    return command.output_known and command.status is None
