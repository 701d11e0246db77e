# SPDX-License-Identifier: GPL-2.0-only
"""Claims about what a command does: its status, output and messages, and whether it is
refused."""

from collections.abc import Sequence

from harness.guest.guest import Step
from harness.klog import splat
from harness.report import claim, context, fact, modules, shell, traces
from harness.report.claim import Claim
from harness.repro import compare, lacking, names
from harness.repro.crash import DEATH, died, same_splat
from harness.repro.names import Names
from harness.repro.replayed import Case, Held, Replayed, unreached


def claimed_fact(case: Case) -> Held:
    each, done = case.claim, case.done
    step = done.step(each.step)
    said = each.fact
    if step is None or said is None:
        return unreached(each, done)
    lines = (step.out + "\n" + step.err).splitlines()
    seen = [found for found in map(fact.of, lines) if found]
    if said.kind == fact.IN_USE:
        printed = any(_same_fact(said, found, done.names) for found in seen)
        if _is_unknown(said.subject, done):
            return None, f"the guest has no module {said.subject}"
        return _in_use(said, step, printed)
    if said.kind.startswith("fails: "):
        errno = said.kind.removeprefix("fails: ")
        found = any(
            other.kind.endswith(errno) or _in_use_errno(other.kind, errno) for other in seen
        )
        return found, _did(step)
    if said.kind == fact.NOT_LOADED and step.before.is_loaded(said.subject):
        return False, f"{said.subject} is loaded"
    return any(_same_fact(said, other, done.names) for other in seen), _did(step)


def _in_use_errno(kind: str, errno: str) -> bool:
    return kind == fact.IN_USE and errno in ("EBUSY", "EAGAIN", "EWOULDBLOCK")


def _same_fact(said: fact.Fact, seen: fact.Fact, names: Names) -> bool:
    subject = names.translate(said.subject)
    return fact.same_kind(said, seen) and (
        subject == seen.subject or not said.subject or not seen.subject
    )


def _is_unknown(module: str, done: Replayed) -> bool:
    """Whether the guest does not have the module, and has not loaded another under its name.
    A machine has the driver of its IOMMU."""
    loaded = any(module in step.after.modules for step in done.steps)
    has = loaded or module == done.names.iommu_driver
    return not has and bool(lacking.module(module, done.kernel))


def _in_use(said: fact.Fact, step: Step, printed: bool) -> tuple[bool, str]:
    """Judged by what happened and not by any wording: that it is in use by the refcount, by
    which modules by its holders."""
    module = said.subject
    found = step.after.modules.get(module)
    if found is None:
        return False, f"{module} is not loaded; {_did(step)}"
    count = found.refcount
    if not set(said.holders) <= set(found.holders):
        held = ", ".join(found.holders) or "no module"
        return False, f"{module} has refcount {count}, held by {held}"
    if step.status == 0 and not shell.is_compound(step.command):
        return False, f"the command succeeds; {_did(step)}"
    if not printed:
        return False, _did(step)
    return count > 0, f"{module} has refcount {count}, status {step.status}"


def _did(step: Step) -> str:
    printed = " | ".join(
        line.strip() for line in (step.out + step.err).splitlines() if line.strip()
    )
    return f"status {step.status}, " + (printed[:300] or "no output")


def status(case: Case) -> Held:
    each, done = case.claim, case.done
    step = done.step(each.step)
    if step is None:
        return unreached(each, done)
    return step.status == each.number, f"exit status {step.status}"


def refcount(case: Case) -> Held:
    each, claims, done = case.claim, case.claims, case.done
    step = done.step(each.step)
    if step is None:
        return unreached(each, done)
    module = each.subject or done.names.iommu_driver
    found = step.after.modules.get(module.replace("-", "_"))
    if each.number is None:
        return found is None, f"{module} is {'loaded' if found else 'not loaded'}"
    if found is None:
        return (None if lacking.module(module, done.kernel) else False), f"{module} is not loaded"
    row = modules.row(each.lines[0]) if each.lines else None
    reason = f"{module} has refcount {found.refcount}"
    if row is None:
        return found.refcount == each.number, reason
    # Which modules hold others depends on the configuration; what else holds it does not.
    listed = {other.subject for other in claims if other.step == each.step}
    more = set(found.holders) - set(row.holders)
    held = set(row.holders) <= set(found.holders) and not more & listed
    same = row.anonymous == found.refcount - len(found.holders)
    if mark := _other_mark(row, step, taints=each.tainted):
        return False, f"{reason}, {mark}"
    return held and same, f"{reason}, held by {', '.join(found.holders) or 'no module'}"


def _other_mark(row: modules.Row, step: Step, *, taints: bool) -> str:
    """What the guest's row says where the report's has another mark, or "". Taints count
    where the report is about them: whether a module is in the tree or signed is a matter of
    its build."""
    seen = next(
        (r for r in map(modules.row, step.out.splitlines()) if r and r.name == row.name), None
    )
    if seen is None:
        return ""
    if row.state and seen.state and row.state != seen.state:
        return seen.state
    if taints and row.state and row.taints != seen.taints:
        return f"taints {seen.taints or 'none'}"
    return "not permanent" if row.permanent and not seen.permanent else ""


def output(case: Case) -> Held:
    each, claims, done = case.claim, case.claims, case.done
    step = done.step(each.step)
    if step is None:
        return unreached(each, done)
    wanted = [done.names.translate(line) for line in each.lines]
    out, err = _without_claimed(step, each, claims, done.names)
    if traces.prints_log(step.command):
        return _log(each.lines, step, done)
    held = compare.same_output(wanted, out, err, step.command)
    foreign = "" if held else _foreign("\n".join(each.lines), done)
    return (None, foreign) if foreign else (held, f"it prints {_printed(step)}")


def _foreign(text: str, done: Replayed) -> str:
    """Why what is printed is about a device that the guest does not have, or ""."""
    return done.names.about(text) or lacking.hardware(text)


def _foreign_message(line: str, done: Replayed) -> str:
    """Why the kernel's message is about a device, or of a driver, that the guest does not
    have, or ""."""
    return _foreign(line, done) or lacking.driver(compare.normal(line), done.kernel)


def _printed(step: Step) -> str:
    lines = [line for line in (step.out + step.err).splitlines() if line.strip()]
    return "\n".join(lines[:40]) or "nothing"


def _without_claimed(
    step: Step, each: Claim, claims: Sequence[Claim], names: Names
) -> tuple[str, str]:
    """What a step printed but for lines that other claims of it are about."""
    others = [
        names.translate(other.lines[0])
        for other in claims
        if other.step == each.step and other.kind == "fact" and other.lines
    ]
    dead = claim.reports_death(claims, each.step if each.step is not None else -1)

    def kept(text: str) -> str:
        lines = [
            line
            for line in text.splitlines()
            if not any(compare.same_line(other, line) for other in others)
            and not (dead and DEATH.match(line.strip()))
        ]
        return "\n".join(lines)

    return kept(step.out), kept(step.err)


def _log(lines: Sequence[str], step: Step, done: Replayed) -> Held:
    """Whether what the command prints of the log has the messages, in order, none of them
    more often where it shows all that match; the log of a guest has others. Of those that it
    does not have, the ones of drivers that the guest cannot have say nothing."""
    printed = [compare.normal(line) for line in step.out.splitlines()]
    reported = [line for line in lines if not compare.is_elision(line)]
    wanted = [compare.normal(done.names.translate(line)) for line in reported]
    missing = [reported[number] for number in _missing(wanted, printed)]
    foreign = [why for line in missing if (why := _foreign_message(line, done))]
    if len(missing) > len(foreign):
        return False, f"it prints {_printed(step)}"
    if foreign:
        return None, foreign[0]
    complete = len(reported) == len(lines) and _shows_all(step.command)
    often = complete and any(_times(line, printed) > _times(line, wanted) for line in wanted)
    return not often, f"it prints {_printed(step)}"


def _missing(wanted: Sequence[str], printed: Sequence[str]) -> list[int]:
    """The places of the messages that are not among what is printed, in order."""
    found, start = [], 0
    for number, line in enumerate(wanted):
        pairs = enumerate(printed[start:], start=start)
        place = next((n for n, text in pairs if compare.same_message(line, text)), None)
        if place is None:
            found.append(number)
        else:
            start = place + 1
    return found


def _shows_all(command: str) -> bool:
    """Whether it prints all messages that match, and no end or beginning of them."""
    names = shell.programs(command)
    return names[-1:] == ["grep"] and not {"head", "tail"} & set(names)


def _times(line: str, texts: Sequence[str]) -> int:
    return sum(compare.same_message(line, text) for text in texts)


def device(case: Case) -> Held:
    """Where a device is after a step: its driver, or its group."""
    each, done = case.claim, case.done
    step = done.step(each.step)
    if step is None:
        return unreached(each, done)
    devices = step.after.devices
    if not each.subject:
        bound = [name for name, one in devices.items() if _is_driver(one.driver, each.lines[0])]
        return bool(bound), f"{each.lines[0]} has {', '.join(bound) or 'no device'}"
    name = names.full(done.names.translate(each.subject))
    found = devices.get(name)
    if found is None:
        return None, done.names.about(each.subject) or f"the guest has no device {name}"
    if each.lines:
        return _is_driver(
            found.driver, each.lines[0]
        ), f"{name} has driver {found.driver or 'none'}"
    return found.group == each.number, f"{name} has group {found.group}"


def _is_driver(driver: str, said: str) -> bool:
    return driver.replace("-", "_") == said.replace("-", "_")


def message(case: Case) -> Held:
    each, done = case.claim, case.done
    if each.step is not None and done.step(each.step) is None:
        return unreached(each, done)
    wanted = done.names.translate(each.lines[0])
    # A worker may say it while the next command runs.
    steps = done.steps if each.step is None else done.steps[each.step : each.step + 2]
    logged = [record.text for step in steps for record in step.kmsg]
    printed = [] if each.step is None else done.steps[each.step].out.splitlines()
    if any(compare.same_message(wanted, compare.normal(text)) for text in [*logged, *printed]):
        return True, "the kernel says so"
    foreign = _foreign_message(each.lines[0], done)
    if foreign:
        return None, foreign
    if each.step is None and done.error is not None:
        return unreached(each, done)
    own = [record.text for step in steps[:1] for record in step.kmsg]
    return False, "the kernel says " + ("\n".join(own[:20]) or "nothing")


def silence(case: Case) -> Held:
    """A command that the report shows to print nothing: it must not fail or die, and one
    that shows something must show nothing."""
    each, claims, done = case.claim, case.claims, case.done
    assert each.step is not None
    step = done.step(each.step)
    if step is None:
        return unreached(each, done)
    if died(step) and not claim.reports_death(claims, each.step) and not _shown(claims, step):
        return False, f"it is killed, {_did(step)}"
    if step.status and step.err.strip():
        return False, _did(step)
    shows = context.shows_state(step.command) or context.announces(step.command)
    if step.out.strip() and shows and not _noise(step):
        return False, f"it prints {_printed(step)}"
    return True, f"status {step.status}"


def _shown(claims: Sequence[Claim], step: Step) -> bool:
    """Whether the report shows a splat of the step, though not that the command dies of it."""
    seen = splat.find([record.text for record in step.kmsg])
    reported = [each.splat for each in claims if each.splat]
    return any(same_splat(one, other) for one in reported for other in seen)


def _noise(step: Step) -> bool:
    """Whether a command shows the whole log, of which a report leaves out what it likes."""
    return traces.prints_log(step.command) and "|" not in step.command
