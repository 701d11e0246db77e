# SPDX-License-Identifier: GPL-2.0-only
"""Judge claims about commands: exit status, output, kernel messages, errors and state."""

from collections.abc import Sequence

from harness.guest.guest import Step
from harness.klog import splat
from harness.report import commands, error_message, lsmod, shell_syntax
from harness.report.claim import Claim, claims_killed
from harness.report.error_message import ErrorMessage
from harness.repro import device_names, matching, missing
from harness.repro.judge_crashes import KILLED_BY_SIGNAL, is_killed
from harness.repro.session_run import Ruling, SessionRun

# The maximum number of output lines, log lines and characters in a reason.
_MAX_OUTPUT, _MAX_LOGGED, _MAX_CHARACTERS = 40, 20, 300


def error(claim: Claim, run: SessionRun) -> Ruling:
    step, reported = run.step(claim.step), claim.error
    if step is None or reported is None:
        return run.not_reached(claim)
    lines = (step.out + "\n" + step.err).splitlines()
    printed = [found for found in map(error_message.parse, lines) if found]
    if reported.kind == error_message.IN_USE:
        if _is_missing(reported.subject, run):
            return None, f"the guest has no module {reported.subject}"
        same = any(_same_error(reported, found, run) for found in printed)
        return _in_use(reported, step, prints_error=same)
    if reported.kind.startswith("fails: "):
        errno = reported.kind.removeprefix("fails: ")
        return any(_has_errno(found, errno) for found in printed), _result(step)
    if reported.kind == error_message.NOT_LOADED and step.before.is_loaded(reported.subject):
        return False, f"{reported.subject} is loaded"
    return any(_same_error(reported, found, run) for found in printed), _result(step)


def _has_errno(printed: ErrorMessage, errno: str) -> bool:
    if printed.kind == error_message.IN_USE:
        return errno in ("EBUSY", "EAGAIN", "EWOULDBLOCK")
    return printed.kind.endswith(errno)


def _same_error(reported: ErrorMessage, printed: ErrorMessage, run: SessionRun) -> bool:
    subject = run.names.translate(reported.subject)
    same_subject = not subject or not printed.subject or subject == printed.subject
    return error_message.same_kind(reported, printed) and same_subject


def _is_missing(module: str, run: SessionRun) -> bool:
    """Whether the guest lacks the module, and no module is loaded under its name. The driver of
    the machine's IOMMU is never missing."""
    if module == run.names.iommu_driver:
        return False
    loaded = any(module in step.after.modules for step in run.steps)
    return not loaded and bool(missing.module(module, run.kernel))


def _in_use(reported: ErrorMessage, step: Step, *, prints_error: bool) -> Ruling:
    """Judge by the refcount of the module, and by its holders if the report names them. The
    wording of the error does not matter."""
    module = reported.subject
    found = step.after.modules.get(module)
    if found is None:
        return False, f"{module} is not loaded; {_result(step)}"
    if not set(reported.holders) <= set(found.holders):
        return False, f"{module} has refcount {found.refcount}, held by {_names(found.holders)}"
    shows_file = commands.shows_state(step.command)
    if step.status == 0 and not shows_file and not shell_syntax.is_compound(step.command):
        return False, f"the command succeeds; {_result(step)}"
    if not prints_error:
        return False, _result(step)
    return found.refcount > 0, f"{module} has refcount {found.refcount}, status {step.status}"


def _names(holders: Sequence[str]) -> str:
    return ", ".join(holders) or "no module"


def _result(step: Step) -> str:
    """Describe the exit status and the output in one line."""
    lines = (line.strip() for line in (step.out + step.err).splitlines() if line.strip())
    output = " | ".join(lines)[:_MAX_CHARACTERS]
    return f"status {step.status}, {output or 'no output'}"


def status(claim: Claim, run: SessionRun) -> Ruling:
    step = run.step(claim.step)
    if step is None:
        return run.not_reached(claim)
    return step.status == claim.number, f"exit status {step.status}"


def refcount(claim: Claim, run: SessionRun) -> Ruling:
    step = run.step(claim.step)
    if step is None:
        return run.not_reached(claim)
    module = claim.subject or run.names.iommu_driver
    found = step.after.modules.get(module.replace("-", "_"))
    if claim.number is None:
        return found is None, f"{module} is {'loaded' if found else 'not loaded'}"
    if found is None:
        lacks = missing.module(module, run.kernel)
        return (None if lacks else False), f"{module} is not loaded"
    row = lsmod.parse_row(claim.lines[0]) if claim.lines else None
    reason = f"{module} has refcount {found.refcount}"
    if row is None:
        return found.refcount == claim.number, reason
    if mark := _other_mark(row, step, compare_taints=claim.about_taints):
        return False, f"{reason}, {mark}"
    # Which modules use this one depends on the configuration. The other references do not.
    listed = {other.subject for other in run.claims_about(claim.step)}
    further = set(found.holders) - set(row.holders)
    held = set(row.holders) <= set(found.holders) and not further & listed
    same = row.anonymous == found.refcount - len(found.holders)
    return held and same, f"{reason}, held by {_names(found.holders)}"


def _other_mark(row: lsmod.Row, step: Step, *, compare_taints: bool) -> str:
    """Return the mark of the guest's row if the row in the report is marked differently, "" if
    not. Taints depend on how a module was built (in the tree, signed)."""
    rows = map(lsmod.parse_row, step.out.splitlines())
    found = next((each for each in rows if each and each.name == row.name), None)
    if found is None:
        return ""
    if row.state and found.state and row.state != found.state:
        return found.state
    if compare_taints and row.state and row.taints != found.taints:
        return f"taints {found.taints or 'none'}"
    return "not permanent" if row.permanent and not found.permanent else ""


def output(claim: Claim, run: SessionRun) -> Ruling:
    step = run.step(claim.step)
    if step is None:
        return run.not_reached(claim)
    if commands.prints_log(step.command):
        return _log_output(claim.lines, step, run)
    reported = [run.names.translate(line) for line in claim.lines]
    out, err = _unclaimed_output(step, claim, run)
    if matching.same_output(reported, out, err, step.command):
        return True, _prints(step)
    foreign = _foreign_device("\n".join(claim.lines), run)
    return (None, foreign) if foreign else (False, _prints(step))


def _foreign_device(text: str, run: SessionRun) -> str:
    """Return which device in the text the guest lacks, "" if none."""
    return run.names.why_unclear(text) or missing.hardware(text)


def _foreign_message(line: str, run: SessionRun) -> str:
    """Return which device or driver in the kernel message the guest lacks, "" if none."""
    return _foreign_device(line, run) or missing.driver(matching.normal(line), run.kernel)


def _prints(step: Step) -> str:
    lines = [line for line in (step.out + step.err).splitlines() if line.strip()]
    return "it prints " + ("\n".join(lines[:_MAX_OUTPUT]) or "nothing")


def _unclaimed_output(step: Step, claim: Claim, run: SessionRun) -> tuple[str, str]:
    """Return standard output and error without the lines of other claims about the step."""
    errors = [each for each in run.claims_about(claim.step) if each.kind == "error"]
    others = [run.names.translate(each.lines[0]) for each in errors if each.lines]
    dies = claim.step is not None and claims_killed(run.claims, claim.step)

    def is_claimed(line: str) -> bool:
        if dies and KILLED_BY_SIGNAL.match(line.strip()):
            return True
        printed = error_message.parse(line)
        return any(matching.same_line(other, line) for other in others) or any(
            printed and each.error and _same_error(each.error, printed, run) for each in errors
        )

    out, err = (
        "\n".join(line for line in text.splitlines() if not is_claimed(line))
        for text in (step.out, step.err)
    )
    return out, err


def _log_output(lines: Sequence[str], step: Step, run: SessionRun) -> Ruling:
    """Rule on whether the command prints these messages of the log, in order.

    Other messages in the guest's log are ignored. If the command prints all matches of a pattern,
    it must not print a message more often than the report shows it. The claim is inconclusive if
    only messages of drivers that the guest lacks are missing.
    """
    printed = [matching.normal(line) for line in step.out.splitlines()]
    reported = [line for line in lines if not matching.is_elision(line)]
    expected = [matching.normal(run.names.translate(line)) for line in reported]
    absent = [reported[number] for number in _absent(expected, printed)]
    foreign = [reason for line in absent if (reason := _foreign_message(line, run))]
    if len(absent) > len(foreign):
        return False, _prints(step)
    if foreign:
        return None, foreign[0]
    complete = len(reported) == len(lines) and _prints_all_matches(step.command)
    more = complete and any(_times(line, printed) > _times(line, expected) for line in expected)
    return not more, _prints(step)


def _absent(expected: Sequence[str], printed: Sequence[str]) -> list[int]:
    """Return the indexes of the messages that are not printed, or not in this order."""
    found, start = [], 0
    for number, line in enumerate(expected):
        pairs = enumerate(printed[start:], start=start)
        place = next((n for n, text in pairs if matching.same_message(line, text)), None)
        if place is None:
            found.append(number)
        else:
            start = place + 1
    return found


def _prints_all_matches(command: str) -> bool:
    """Whether the command prints all matching messages, not only the first or last ones."""
    names = shell_syntax.programs(command)
    return names[-1:] == ["grep"] and not {"head", "tail"} & set(names)


def _times(line: str, texts: Sequence[str]) -> int:
    return sum(matching.same_message(line, text) for text in texts)


def device(claim: Claim, run: SessionRun) -> Ruling:
    """Judge a claim about the driver or group of a device after a step."""
    step = run.step(claim.step)
    if step is None:
        return run.not_reached(claim)
    devices = step.after.devices
    if not claim.subject:
        driver = claim.lines[0]
        bound = [name for name, one in devices.items() if _same_driver(one.driver, driver)]
        return bool(bound), f"{driver} is bound to {', '.join(bound) or 'no device'}"
    name = device_names.with_domain(run.names.translate(claim.subject))
    found = devices.get(name)
    if found is None:
        return None, run.names.why_unclear(claim.subject) or f"the guest has no device {name}"
    if claim.lines:
        same = _same_driver(found.driver, claim.lines[0])
        return same, f"{name} is bound to {found.driver or 'no driver'}"
    group = "has no group" if found.group is None else f"is in group {found.group}"
    return found.group == claim.number, f"{name} {group}"


def _same_driver(one: str, other: str) -> bool:
    return one.replace("-", "_") == other.replace("-", "_")


def message(claim: Claim, run: SessionRun) -> Ruling:
    if claim.step is not None and run.step(claim.step) is None:
        return run.not_reached(claim)
    expected = run.names.translate(claim.lines[0])
    # A worker may log it while the next command runs.
    steps = run.steps if claim.step is None else run.steps[claim.step : claim.step + 2]
    logged = [record.text for step in steps for record in step.kmsg]
    printed = [] if claim.step is None else run.steps[claim.step].out.splitlines()
    if any(matching.same_message(expected, matching.normal(text)) for text in [*logged, *printed]):
        return True, "the kernel logs it"
    foreign = _foreign_message(claim.lines[0], run)
    if foreign:
        return None, foreign
    if claim.step is None and run.error is not None:
        return run.not_reached(claim)
    own = [record.text for step in steps[:1] for record in step.kmsg]
    return False, "the kernel logs " + ("\n".join(own[:_MAX_LOGGED]) or "nothing")


def silence(claim: Claim, run: SessionRun) -> Ruling:
    """Judge the claim that a command prints nothing: it must not be killed or print an error, and
    the output of a command that only shows state must be empty."""
    assert claim.step is not None
    step = run.step(claim.step)
    if step is None:
        return run.not_reached(claim)
    dies = is_killed(step) and not claims_killed(run.claims, claim.step)
    if dies and not _reports_splat_of(step, run):
        return False, f"it is killed, {_result(step)}"
    if step.status and step.err.strip():
        return False, _result(step)
    shows = commands.shows_state(step.command) or commands.trailing_echo(step.command)
    if step.out.strip() and shows and not _prints_whole_log(step):
        return False, _prints(step)
    return True, f"status {step.status}"


def _reports_splat_of(step: Step, run: SessionRun) -> bool:
    """Whether the report contains a splat that the guest's kernel also logs in this step."""
    found = splat.find([record.text for record in step.kmsg])
    reported = [each.splat for each in run.claims if each.splat]
    return any(matching.same_splat(one, other) for one in reported for other in found)


def _prints_whole_log(step: Step) -> bool:
    """Whether the command prints the whole log. A report may leave this output out."""
    return commands.prints_log(step.command) and "|" not in step.command
