# SPDX-License-Identifier: GPL-2.0-only
"""Find the claims of a session: exit statuses, output, kernel messages and splats."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.report import claim, commands, error_message, kernel_log, lsmod
from harness.report.claim import COMPLAINTS, MEASURES, Claim, one_line
from harness.report.commands import Command
from harness.report.lines import place
from harness.report.session import Session

# What a shell prints if a signal kills a command, for example after an oops.
_KILLED = re.compile(
    r"(?:\S+: line \d+: +\d+ )?(?P<how>Segmentation fault|Killed|Trace/breakpoint trap|Bus error|"
    r"Illegal instruction|Aborted)(?:\s.*)?"
)

# A greater status means that a signal ended the command.
_LAST_OWN_STATUS = 128

# Words in a kernel message about a fault. Other messages describe a device.
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
    """Return the claims of the session, in the order of its commands."""
    found = [
        each for step, command in enumerate(session.commands) for each in _of_command(step, command)
    ]
    found += _of_missing_rows(session)
    found.sort(key=lambda each: each.step or 0)
    texts = " ".join(session.texts).replace("-", "_")
    return _promote_descriptions([_demote_other_row(each, texts) for each in found])


def _of_missing_rows(session: Session) -> Iterator[Claim]:
    """Yield the claims that a module is not loaded: the session removes the module, and then lists
    all modules without it."""
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
    """Return the claim, without ``symptom`` if it is the row of a module that no command names or
    selects: such a row only shows the reporter's configuration."""
    if each.kind == "refcount" and each.subject not in texts and not each.selected:
        return replace(each, symptom=False)
    return each


def _promote_descriptions(claims: list[Claim]) -> list[Claim]:
    """Return the claims. If none of them is a symptom, kernel messages and rows of modules become
    symptoms."""
    if claim.any_symptom(claims):
        return claims
    return [
        replace(each, symptom=True) if each.kind in ("message", "refcount") else each
        for each in claims
    ]


def promote_silence(claims: Sequence[Claim], session: Session) -> list[Claim]:
    """Return the claims. The claim that a command prints nothing becomes a symptom if the report
    leads up to it.

    The command must query state, the next prompt must prove that it prints nothing, and it must
    come after all symptoms, which must be measures or complaints.
    """
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
    """Whether the silence is a symptom. An empty log is not a symptom if there are complaints,
    because the report may leave out lines of the log."""
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
        yield Claim("hang", f"{name} hangs", where, step)
    if command.status is not None:
        text = f"{name} exits with status {command.status}"
        yield Claim("status", text, where, step, number=command.status)
    elif command.next_status is not None and command.next_status <= _LAST_OWN_STATUS:
        # Success is the normal case and not a symptom.
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
    """Yield the claims of the output lines outside splats."""
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
    yield from _of_kill(step, command)
    texts = tuple(line for _, line in output)
    if output and commands.ends_machine(command.text):
        return
    if output and not all(_ELISION.fullmatch(text.strip()) for text in texts):
        where = place(output[0][0], output[-1][0])
        yield Claim("output", f"{name} prints {one_line(texts[0])}", where, step, lines=texts)
    elif silent and not output and _claims_silence(command):
        where = place(command.line, command.line)
        # A missing echo on success means that the command before it fails.
        fails = command.ended and commands.trailing_echo(command.text) == "&&"
        yield Claim("silence", f"{name} prints nothing", where, step, fails)


def _of_line(step: int, command: Command, number: int, line: str) -> Claim | None:
    """Return the claim of a tool's error message, a kernel message or a row of lsmod, None for any
    other line of output."""
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


def _of_kill(step: int, command: Command) -> Iterator[Claim]:
    """Yield the claim that a signal kills the command. The shell's message may be in a splat."""
    for number, line in zip(command.numbers, command.output, strict=False):
        if killed := _KILLED.fullmatch(line.strip()):
            text = f"`{one_line(command.text)}` is killed ({killed['how']})"
            yield Claim("killed", text, place(number, number), step)
            return


def _claims_silence(command: Command) -> bool:
    """Whether empty output means that the command prints nothing."""
    if command.interrupted or command.background or _KILLED.search(str(command.output)):
        return False
    return command.output_known and command.status is None
