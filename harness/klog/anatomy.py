# SPDX-License-Identifier: GPL-2.0-only
"""Parse the lines of a splat: call traces, registers, task, release."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.klog import frame
from harness.klog.frame import Chain, Frame

MAIN = "call trace"

# Header lines, with the type of the trace that follows. Headers of MAIN are last.
_HEADERS = (
    (r"\s*(?:INFO: |kfence-#\d+.* )?[Aa]llocated (?:by|in)\b", "allocation"),
    (r"\s*Uninit was created at|\s*page (?:last )?allocated via order", "allocation"),
    (r"\s*(?:INFO: )?[Ff]reed (?:by|in)\b|\s*page last free\b", "free"),
    (r"\s*Uninit was stored|\s*Local variable", "origin"),
    (r"\s*(?:Last potentially related|Second to last potentially)", "work creation"),
    (r"\s*-> #\d+|.*\bstate was registered at:|\s*\.\.\. (?:which|\s)", "dependency"),
    (r".*-irq-(?:un)?safe at:|\s*the dependencies between", "dependency"),
    (r"\s*the (?:first|second) lock", "dependency"),
    (r"\s*(?:read|write|assert)\b.{0,40} (?:to|of) .*\bby (?:task|interrupt)", "access"),
    (r"\s*Preemption disabled at", "preemption"),
    (r".* is trying to (?:release|contend) lock .*at:\s*$", "lock"),
    (r".{0,120}\bat offset \d+ in frame:", "frame"),
    (r"\s*(?:NMI backtrace for|Task dump for|task:|Sending NMI|rcu: .*(?:dump|ran:))", "task"),
    (r"\s*\S{1,20} {1,20}[RSDTXZI] (?:running task| {0,20})\s*\d+ +\d+ +\d+ ", "task"),
    (r"\s*Kernel panic - not syncing", "panic"),
    (r"\s*(?:CPU: \d+ .*Comm:|CPU\d+: stopping)", ""),
    (r"\s*(?:Call [Tt]race|[Bb]acktrace|[Ss]tack backtrace)\b", MAIN),
)
_HEADER = re.compile("|".join(f"({pattern})" for pattern, _ in _HEADERS))
# Registers, code and memory: most lines of a splat. They are not parsed.
_SKIPPED = re.compile(
    r"\s*(?:(?:R(?:[ABCD]X|[SD]I|BP|\d\d)|[CDEFG]S|[CD]R\d|[xr]\d{1,2}|[tsa]\d{1,2}) ?: ?[0-9a-f]|"
    r"Code: |>?[0-9a-f]{8,16}: |[0-9a-f]{8,16} [0-9a-f]{8,16} |Object |raw: |RSP: |sp : )"
)
_MARK = re.compile(
    r"\s*<(?P<end>/?)(?P<name>IRQ|TASK|NMI|EOI|SOFTIRQ|ENTRY_TRAMPOLINE|#DF|#DB|#MC)>"
)
_MARKS = {"IRQ": "IRQ", "SOFTIRQ": "IRQ", "NMI": "NMI", "#DF": "exception", "#MC": "exception"}
_PC = re.compile(
    r"\s*(?:pc ?: ?|PC is at |EIP is at |RIP: (?:0010|0060|e030|e033):|RIP: (?=[A-Za-z_])|"
    r"EIP: (?:0060:)?|IP: |epc ?: (?:[0-9a-f]{8,16} )?|ERA: [0-9a-f]+ |pc [0-9a-f]+ |"
    r"NIP (?:\[[0-9a-f]+\]|: ?[0-9a-f]+)? ?|Krnl PSW ?: [0-9a-f]{16} [0-9a-f]{16} \()"
    r"(?:\[<[0-9a-f]+>\]\s*){0,2}(?P<rest>\S.*)"
)
_LR = re.compile(
    r"\s*(?:lr ?: ?|LR is at |ra ?: (?:[0-9a-f]{8,16} )?|LR (?:\[[0-9a-f]+\])? ?)(?P<rest>\S.*)"
)
_RA = re.compile(r".*\bra ?: (?P<rest>[A-Za-z_].*)")
_TASK = re.compile(
    r"\s*CPU: (?P<cpu>\d+)(?: UID: \d+)? PID: (?P<pid>-?\d+) Comm: (?P<comm>.{0,40}?) "
    r"(?P<taint>Not tainted|Tainted: [A-Z ]*[A-Z])\s+(?P<kernel>\S+)?"
)
_OLD_TASK = re.compile(
    r"\s*(?:Pid: (?P<pid>\d+), comm: (?P<comm>.{0,40}?) "
    r"(?P<taint>Not tainted|Tainted: [A-Z ]*[A-Z])\s+\(?(?P<kernel>\S+)?)"
)
_RELEASE = re.compile(
    r"\s*(?P<kernel>\d+\.\d+[\w.+~-]*) #\S+ (?P<taint>Not tainted|Tainted: [A-Z ]*[A-Z])"
)
_COMM = re.compile(
    r"\s*(?P<comm>\S.{0,32}?)/(?P<pid>\d+)(?: \[[^\]]*\])? (?:is |just |takes|still )"
    r"|\s*Process (?P<comm2>\S.{0,32}?) \(pid: (?P<pid2>\d+)"
    r'|\s*comm "(?P<comm3>.{0,32}?)", pid (?P<pid3>\d+)'
)
# The task that the splat is about, from lines before its trace. Some of these lines are also
# openings in kinds.toml.
_OWNER = re.compile(
    r"\b(?:by task|locks? held by|code:|atomic:) .{1,32}?/(?P<pid>\d+)\b"
    r"|\bpid: (?P<pid2>\d+), name: |WARNING: CPU: \d+ PID: (?P<pid3>\d+) "
)
_AT = re.compile(r".*(?:,| ) ?at: (?:\[<[0-9a-f]+>\]\s*)?(?P<function>[A-Za-z_$.][\w$.]*)\+0x")
_SUSPICIOUS = re.compile(r"\s*(?:\.\./)*(?P<file>[\w./+-]+):(?P<line>\d+) suspicious rcu_")
_NO_CODE = re.compile(
    r".*(?:execute from non-executable|execution of user|NX-protected|execute userspace) "
)
# The current work of a worker: its queue and function.
_WORK = re.compile(r"\s*Workqueue: \S+ (?P<function>[\w.]+)")
# The user of a per-CPU variable in preemptible code (lib/smp_processor_id.c).
_CALLER = "caller is "
_LAST_FUNCTION = re.compile(r"\s*last function: (?P<function>[\w.]+)")


# Types of traces with parts that have names of their own.
_MARKED = frozenset((MAIN, "task", "panic"))


@dataclass(slots=True)
class Trace:
    """The frames below one header. ``parts`` are pairs of a mark (``IRQ`` or "") and frames.
    ``user`` is the PID in the last task header before the trace."""

    name: str
    user: str = ""
    parts: list[tuple[str, list[Frame]]] = field(default_factory=list)

    @property
    def frames(self) -> list[Frame]:
        return [each for _, frames in self.parts for each in frames]

    @property
    def last(self) -> str:
        return self.parts[-1][1][-1].function if self.parts else ""

    def add(self, mark: str, found: Frame) -> None:
        if not self.parts or self.parts[-1][0] != mark:
            self.parts.append((mark, []))
        self.parts[-1][1].append(found)


@dataclass(slots=True)
class Anatomy:
    """The parsed parts of a splat.

    ``locks`` are the functions that lockdep prints after ``at:``. ``users`` are the PIDs in the
    task headers, in order. ``owner`` is the PID of the task that the splat is about, or "" if it
    is unknown. ``modular`` are the functions that belong to modules.
    """

    traces: list[Trace] = field(default_factory=list)
    pc: Frame | None = None
    pc_user: str = ""
    lr: Frame | None = None
    # linked: the link register holds a return address. jumped: the program counter does not
    # point to code.
    linked: bool = False
    jumped: bool = False
    kernel: str = ""
    taint: str = ""
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    locks: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    owner: str = ""
    modular: set[str] = field(default_factory=set)
    last_function: str = ""
    work: str = ""
    caller: str = ""
    file: str = ""
    line: int = 0

    @property
    def main(self) -> list[Frame]:
        """The frames of the splat's own call trace. A WARN that panics has only the trace of the
        panic. If there are traces of several tasks, the trace of the owner takes precedence, then
        the trace of the task to which the program counter belongs."""
        for names in ({MAIN, "panic"}, {"access"}, {"task"}):
            found = [trace for trace in self.traces if trace.name in names]
            for user in (self.owner, self.pc_user):
                own = [trace for trace in found if user and trace.user == user]
                if own:
                    return own[0].frames
            if found:
                return found[0].frames
        return []

    @property
    def user(self) -> str:
        """The PID in the last task header, or ""."""
        return self.users[-1] if self.users else ""

    @property
    def chains(self) -> tuple[Chain, ...]:
        return tuple(
            Chain(mark if mark and trace.name in _MARKED else trace.name, tuple(frames))
            for trace in self.traces
            for mark, frames in trace.parts
        )


class _Reader:
    """A parser for a splat, line by line. It keeps the header and the mark that apply to the
    following frames."""

    def __init__(self) -> None:
        self.found = Anatomy()
        self.name = MAIN
        self.mark = ""
        self.trace: Trace | None = None
        self.no_pc = False

    def line(self, text: str) -> None:
        if (each := frame.parse(text)) is not None:
            self._frame(each, frame.caller(text))
        elif _SKIPPED.match(text):
            return
        elif "<" in text and (mark := _MARK.match(text)) is not None:
            self.mark = "" if mark["end"] else _MARKS.get(mark["name"], "")
            # Kernels up to 4.8 print the first frame in the line of the mark.
            if (each := frame.parse(text[mark.end() :])) is not None:
                self._frame(each, None)
        else:
            self._header(text)
            self._registers(text)
            self._fields(text)

    def _frame(self, each: Frame, caller: Frame | None) -> None:
        if self.name == "lock":
            self.found.locks.append(each.function)
            self.name = MAIN
            return
        if self.trace is None:
            self.trace = Trace(self.name, self.found.user)
            self.found.traces.append(self.trace)
        if each.module:
            self.found.modular.add(each.function)
        if caller is None or self.trace.last != each.function:
            self.trace.add(self.mark, each)
        if caller:
            self.trace.add(self.mark, caller)

    def _header(self, text: str) -> None:
        if (match := _HEADER.match(text)) is not None:
            self._begin(_HEADERS[(match.lastindex or 1) - 1][1])

    def _begin(self, name: str) -> None:
        # The header of a trace belongs to the type that an earlier line announced.
        announced = self.name in {"task", "panic", "access"} and self.trace is None
        if name == MAIN and announced:
            return
        self.trace, self.mark = None, ""
        self.name = name or (self.name if announced else MAIN)

    def _registers(self, text: str) -> None:
        if (match := _PC.match(text)) is not None:
            each = frame.parse(match["rest"])
            if each is not None and self.trace is not None and "RSP" not in text:
                self._frame(each, None)
            if self.found.pc is None and each is None and self.found.lr is None:
                self.found.jumped = True
            # Registers after the trace of this task belong to an exception during the dump.
            late = self.trace is None and self._traced()
            if not (self.no_pc or late) and (self.found.pc is None or self.found.pc.inline):
                self.found.pc = each or self.found.pc
            # Registers further down belong to the interrupted code, not to the jump.
            self.no_pc = self.no_pc or late or self.found.pc is None
            # Kernels up to 4.x also print it in a line before the task header.
            self.found.pc_user = self.found.pc_user or self.found.user
            if (ra := _RA.match(match["rest"])) is not None:
                self.found.lr = self.found.lr or frame.parse(ra["rest"])
        elif self.found.lr is None and (match := _LR.match(text)) is not None:
            self.found.lr = frame.parse(match["rest"])
            self.found.linked = self.found.lr is not None and " is at " not in text

    def _traced(self) -> bool:
        """Whether the task of the last header already has a call trace."""
        user = self.found.user
        return any(each.name == MAIN and each.user == user for each in self.found.traces)

    def _fields(self, text: str) -> None:
        found = self.found
        if not found.owner and not found.traces and (match := _OWNER.search(text)) is not None:
            found.owner = match["pid"] or match["pid2"] or match["pid3"]
        if "omm" in text and (match := _TASK.match(text) or _OLD_TASK.match(text)):
            found.users.append(match["pid"])
            self._task(match)
        elif " #" in text and (match := _RELEASE.match(text)) is not None:
            self._task(match)
        elif not found.comm and (match := _COMM.match(text)) is not None:
            found.comm = match["comm"] or match["comm2"] or match["comm3"]
            found.pid = int(match["pid"] or match["pid2"] or match["pid3"] or 0)
        if "execut" in text and _NO_CODE.match(text):
            found.jumped = True
        if text.startswith(_CALLER) and (each := frame.parse(text.removeprefix(_CALLER))):
            found.caller = each.function
        elif " at: " in text and (match := _AT.match(text)) is not None:
            found.locks.append(match["function"])
        elif "suspicious rcu_" in text and (match := _SUSPICIOUS.match(text)) is not None:
            found.file, found.line = match["file"], int(match["line"])
        elif "last function" in text and (match := _LAST_FUNCTION.match(text)) is not None:
            found.last_function = found.last_function or match["function"]
        elif "Workqueue: " in text and (match := _WORK.match(text)) is not None:
            found.work = found.work or match["function"]

    def _task(self, match: re.Match[str]) -> None:
        found, groups = self.found, match.groupdict(default="")
        if not found.kernel:
            found.kernel = groups["kernel"].rstrip(")")
            taint = groups["taint"].replace("Not tainted", "").removeprefix("Tainted:")
            found.taint = "".join(taint.split())
        own = [each for each in found.users if each == (found.owner or found.users[0])]
        if len(own) == 1 and groups.get("pid") == own[0]:
            found.pid, found.comm = int(groups["pid"]), groups["comm"].strip()
            found.cpu = int(groups["cpu"]) if groups.get("cpu") else None


def read(texts: Iterable[str]) -> Anatomy:
    """Parse the lines of a splat."""
    reader = _Reader()
    for text in texts:
        reader.line(text)
    return reader.found
