# SPDX-License-Identifier: GPL-2.0-only
"""What a report says a command printed, and whether a guest's step did the same.

Text is compared by meaning where tools word one fact differently, and such a
fact is then judged by what happened and not by any wording.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import regex

from harness.guest.guest import Step
from harness.klog import splat
from harness.scenario.transcript import Command


@dataclass(frozen=True, slots=True)
class Fact:
    """What a message says: a ``kind`` of the table below and the ``module`` it is
    about, with underscores ("" where the message names none)."""

    kind: str
    module: str


@dataclass(frozen=True, slots=True)
class _Wording:
    """One tool's message for a fact. busybox and kmod word them differently."""

    kind: str
    pattern: re.Pattern[str]


def _wording(kind: str, pattern: str) -> _Wording:
    return _Wording(kind, re.compile(pattern))


_NAME = r"'?(?P<module>[\w-]+?)(?:\.ko)?'?"

_WORDINGS = (
    # busybox 1.35 modutils/modprobe.c and rmmod.c; older ones print no quotes.
    # EAGAIN is what delete_module(2) gives for a module in use with O_NONBLOCK.
    _wording(
        "in use",
        rf"(?:modprobe|rmmod): (?:can't unload|remove) (?:module )?{_NAME}: "
        r"(?:Resource temporarily unavailable|Device or resource busy)",
    ),
    # kmod 30, tools/modprobe.c and tools/rmmod.c.
    _wording(
        "in use",
        rf"(?:modprobe: FATAL|rmmod: ERROR): Module {_NAME} is in use(?: by: .*)?\.?",
    ),
    _wording("not found", rf"modprobe: module {_NAME} not found in modules\.dep"),
    _wording("not found", rf"modprobe: FATAL: Module {_NAME} not found(?: in directory \S+)?\.?"),
    _wording("not found", rf"insmod: can't insert '(?:.*/)?{_NAME}': No such file or directory"),
    _wording("not loaded", rf"rmmod: (?:can't unload|remove) (?:module )?{_NAME}: No such file.*"),
    _wording("not loaded", rf"rmmod: ERROR: Module {_NAME} is not currently loaded"),
    _wording("write failed: busy", r".*write error: Device or resource busy"),
    _wording("write failed: no device", r".*write error: No such device"),
    _wording("write failed: not permitted", r".*write error: Operation not permitted"),
    _wording("write failed: invalid", r".*write error: Invalid argument"),
    _wording("not a command", r".*?(?P<module>[\w./-]+): (?:command )?not found"),
)


def fact(line: str) -> Fact | None:
    """What a line of output says, when it is one of the known wordings."""
    for wording in _WORDINGS:
        match = wording.pattern.fullmatch(line.strip())
        if match:
            module = match.groupdict().get("module") or ""
            return Fact(wording.kind, module.replace("-", "_"))
    return None


def _still_in_use(said: Fact, step: Step) -> str:
    count = step.after.refcount(said.module)
    if count is None:
        return f"{said.module} is not loaded"
    if _succeeded(step):
        return "the command succeeded"
    return "" if count > 0 else f"{said.module} has refcount 0"


def _not_loaded(said: Fact, step: Step) -> str:
    if step.before.refcount(said.module) is not None:
        return f"{said.module} was loaded"
    return "the command succeeded" if _succeeded(step) else ""


def _failed(_said: Fact, step: Step) -> str:
    return "the command succeeded" if _succeeded(step) else ""


def _succeeded(step: Step) -> bool:
    """Of a command of several parts the status says nothing about the one part."""
    return step.status == 0 and not _COMPOUND.search(step.command)


# What must have happened for a fact to hold; "" when it did, else what did instead.
_CHECKS: dict[str, Callable[[Fact, Step], str]] = {
    "in use": _still_in_use,
    "not loaded": _not_loaded,
}

# Lines that differ from machine to machine or from tool to tool, and what of them
# counts. Applied to both sides.
_NORMAL: tuple[tuple[re.Pattern[str], str], ...] = (
    # lsmod: the size depends on the build, the header on the tool.
    (re.compile(r"Module\s+Size\s+Used by.*"), "Module Size Used by"),
    (re.compile(r"(\w+)\s+\d{3,}\s+(-?\d+)(?:\s+(\S.*))?"), r"\1 SIZE \2 \3"),
    # Who says it: "bash: line 1:", "sh:", or the file our shell reads from.
    (re.compile(r"(?:/\S+|-?(?:ba|da|a)?sh): (?:eval: )?(?:line \d+: )?(.*)"), r"\1"),
    # GNU and busybox.
    (
        re.compile(
            r"(\w+): (?:can't open|can't stat|cannot access|cannot open)? ?'?([^':]+)'?: "
            r"(No such file or directory|Permission denied)"
        ),
        r"\1: \2: \3",
    ),
)

_KERNEL = re.compile(r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? (.*)")
_ELIDED = re.compile(r"(?:\.\.\.|…|\[\.\.\.\]|<snip>|\[snip\]|\[cut\])(?: .*)?")

_VIRTIO = re.compile(r"\bvirtio\d+\b")

_COMPOUND = re.compile(r"[;|&\n]")

# What a shell says of a command that a signal killed, as an oops does.
_SHELL_DEATH = re.compile(r"(?:Segmentation fault|Killed|Trace/breakpoint trap)(?: .*)?")

_PATTERN_SECONDS = 1.0

_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")

# Splats whose task does not live on.
_DEADLY = {"Oops", "BUG"}

# The status of a command that the shell cannot find.
_NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Difference:
    """How a step differs from the report: each side in words."""

    expected: str
    observed: str


def compare(command: Command, step: Step) -> Difference | None:
    """None when the step did what the report says; else the first difference."""
    told_death = _tells_death(command.output)
    texts = [
        line for line in command.output if not (told_death and _SHELL_DEATH.fullmatch(line.strip()))
    ]
    logged: list[str] = []
    # dmesg and its like print kernel messages; elsewhere the console shows them.
    if not any(_KERNEL.fullmatch(line) for line in (step.out + step.err).splitlines()):
        logged = [line for line in texts if _KERNEL.fullmatch(line)]
        texts = [line for line in texts if not _KERNEL.fullmatch(line)]
    return (
        _compare_shell(step, told_death)
        or _compare_status(command, step)
        or _compare_facts(texts, step)
        or _compare_text(texts, step)
        or _compare_kernel(logged, step)
    )


def tells_panic(command: Command, text: str) -> bool:
    """Whether the report shows this panic; it may cut the text short."""
    panics = (_PANIC.search(line) for line in command.output)
    return any(text.startswith(match[1].strip()) for match in panics if match)


def missing(wanted: Command, step: Step) -> str:
    """The program or module that the step needed and the guest does not have, or "": one
    that the report's machine did not have either is none."""
    told = {fact(_normal(line)) for line in wanted.output}
    for line in step.err.splitlines():
        said = fact(_normal(line))
        if said in told:
            continue
        if said and said.kind == "not a command" and step.status == _NOT_FOUND:
            return said.module
        if said and said.kind == "not found":
            return f"module {said.module}"
    return ""


def expects_anything(commands: Sequence[Command]) -> bool:
    """Whether the report says what happened at all."""
    return any(command.output or command.status is not None for command in commands)


def _tells_death(output: Sequence[str]) -> bool:
    """Whether the report shows that the command died: its shell says so, or the
    kernel's splat does."""
    if any(_SHELL_DEATH.fullmatch(line.strip()) for line in output):
        return True
    found = splat.find([_normal(line) for line in output])
    return any(each.kind in _DEADLY for each in found)


def _compare_shell(step: Step, told_death: bool) -> Difference | None:
    if not step.killed or told_death:
        return None
    return Difference("the command ends", f"its shell was killed by signal {step.status - 128}")


def _compare_status(command: Command, step: Step) -> Difference | None:
    if command.status is None or command.status == step.status:
        return None
    return Difference(f"exit status {command.status}", f"exit status {step.status}")


def _compare_facts(texts: Sequence[str], step: Step) -> Difference | None:
    for line in texts:
        said = fact(line)
        if said is None:
            continue
        instead = _CHECKS.get(said.kind, _failed)(said, step)
        if instead:
            return Difference(line.strip(), _with_output(instead, step))
    return None


def _with_output(instead: str, step: Step) -> str:
    printed = " | ".join((step.out + step.err).split("\n")).strip(" |")
    return f"{instead}; exit status {step.status}, " + (printed or "no output")


def _compare_text(texts: Sequence[str], step: Step) -> Difference | None:
    """Standard output and error as a terminal may have mixed them: the one before
    the other, either way."""
    out, err = _lines(step.out), _lines(step.err)
    wanted = [line.rstrip() for line in texts if line.strip()]
    if _matches(wanted, out + err) or _matches(wanted, err + out):
        return None
    return Difference("\n".join(wanted) or "no output", "\n".join(out + err) or "no output")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _matches(wanted: Sequence[str], seen: Sequence[str]) -> bool:
    """Whether all lines match, in order. What has been matched so far may end at
    several places of ``seen``, because an elision stands for any number of lines."""
    ends = {0}
    for line in wanted:
        if _ELIDED.fullmatch(line.strip()):
            ends = set(range(min(ends), len(seen) + 1))
        else:
            ends = {end + 1 for end in ends if end < len(seen) and _same(line, seen[end])}
        if not ends:
            return False
    return len(seen) in ends


def _same(wanted: str, seen: str) -> bool:
    if wanted.endswith(" (re)"):
        return _regular(wanted.removesuffix(" (re)"), seen)
    if wanted.endswith(" (glob)"):
        return fnmatch.fnmatchcase(seen, wanted.removesuffix(" (glob)"))
    said = fact(_normal(wanted))
    if said is not None:
        return said == fact(_normal(seen))
    return _normal(wanted).split() == _normal(seen).split()


def _normal(line: str) -> str:
    """What counts of a line: of a kernel message all but its time."""
    line = line.strip()
    if message := _KERNEL.fullmatch(line):
        # Which virtio device is the first depends on the machine.
        return _VIRTIO.sub("virtioN", message[1])
    for pattern, meaning in _NORMAL:
        if match := pattern.fullmatch(line):
            line = match.expand(meaning)
    return line


def _regular(pattern: str, seen: str) -> bool:
    """A pattern from a report may be wrong, or made to take forever: no match."""
    try:
        return regex.fullmatch(pattern, seen, timeout=_PATTERN_SECONDS) is not None
    except (regex.error, TimeoutError):
        return False


def _compare_kernel(output: Sequence[str], step: Step) -> Difference | None:
    """The kernel messages that the report shows, in order; there may be others."""
    seen = iter([record.text for record in step.kmsg])
    for line in output:
        message = _KERNEL.fullmatch(line)
        if message and not any(_same_message(message[1], text) for text in seen):
            logged = "\n".join(record.text for record in step.kmsg)
            return Difference(f"kernel: {message[1]}", logged or "no kernel message")
    return None


def _same_message(wanted: str, seen: str) -> bool:
    seen = seen.rstrip()
    return _same(wanted, seen) or _same(
        _VIRTIO.sub("virtioN", wanted), _VIRTIO.sub("virtioN", seen)
    )
