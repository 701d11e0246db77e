# SPDX-License-Identifier: GPL-2.0-only
"""What a report's lines say: call traces, registers, task, release; and the function
that it is about."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.klog import frame, machinery
from harness.klog.frame import Chain, Frame

MAIN = "call trace"
# A processor in smp_call_function_single and the like waits for what another does.
_WAITING = "smp_call_function"

# Lines that say whose frames follow. MAIN's own headers stand last.
_HEADERS = (
    (r"\s*(?:INFO: |kfence-#\d+.* )?[Aa]llocated (?:by|in)\b", "allocation"),
    (r"\s*Uninit was created at", "allocation"),
    (r"\s*(?:INFO: )?[Ff]reed (?:by|in)\b", "free"),
    (r"\s*Uninit was stored|\s*Local variable", "origin"),
    (r"\s*(?:Last potentially related|Second to last potentially)", "work creation"),
    (r"\s*-> #\d+|.*\bstate was registered at:|\s*\.\.\. (?:which|\s)", "dependency"),
    (r".*-irq-(?:un)?safe at:|\s*the dependencies between", "dependency"),
    (r"\s*the (?:first|second) lock", "dependency"),
    (r"\s*(?:read|write|assert)\b.{0,40} (?:to|of) .*\bby (?:task|interrupt)", "access"),
    (r"\s*Preemption disabled at", "preemption"),
    (r"\s*(?:NMI backtrace for|Task dump for|task:|Sending NMI|rcu: .*(?:dump|ran:))", "task"),
    (r"\s*\S{1,20} {1,20}[RSDTXZI] (?:running task| {0,20})\s*\d+ +\d+ +\d+ ", "task"),
    (r"\s*Kernel panic - not syncing", "panic"),
    (r"\s*(?:CPU: \d+ .*Comm:|CPU\d+: stopping)", ""),
    (r"\s*(?:Call [Tt]race|[Bb]acktrace|[Ss]tack backtrace)\b", MAIN),
)
_HEADER = re.compile("|".join(f"({pattern})" for pattern, _ in _HEADERS))
# Registers, code and memory: the most of a report's lines, of which nothing is taken.
_DULL = re.compile(
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
_WHO = re.compile(
    r"\s*(?P<comm>\S.{0,32}?)/(?P<pid>\d+)(?: \[[^\]]*\])? (?:is |just |takes|still )"
    r"|\s*Process (?P<comm2>\S.{0,32}?) \(pid: (?P<pid2>\d+)"
)
_AT = re.compile(r".*(?:,| ) ?at: (?:\[<[0-9a-f]+>\]\s*)?(?P<function>[A-Za-z_$.][\w$.]*)\+0x")
_SUSPICIOUS = re.compile(r"\s*(?:\.\./)*(?P<file>[\w./+-]+):(?P<line>\d+) suspicious rcu_")
_NO_CODE = re.compile(
    r".*(?:execute from non-executable|execution of user|NX-protected|execute userspace) "
)
_LAST_FUNCTION = re.compile(r"\s*last function: (?P<function>[\w.]+)")


# The traces whose parts have names of their own.
_MARKED = frozenset((MAIN, "task", "panic"))


@dataclass(slots=True)
class Trace:
    """Frames under one header, in parts: the mark of each (``IRQ`` or ""). ``user`` is the
    task of the last header before it."""

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
    """What was found in a report's lines. ``locks`` are the functions that lockdep names
    behind ``at:``, ``users`` the tasks in the order of their headers."""

    traces: list[Trace] = field(default_factory=list)
    pc: Frame | None = None
    pc_user: str = ""
    lr: Frame | None = None
    # The link register holds a return address; the program counter is of no code.
    linked: bool = False
    jumped: bool = False
    kernel: str = ""
    taint: str = ""
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    locks: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    last_function: str = ""
    file: str = ""
    line: int = 0

    @property
    def main(self) -> list[Frame]:
        """The frames of the report's own call trace. A WARN that panics has only that of the
        panic; of several tasks' it is the one of whose registers the program counter is."""
        for names in ({MAIN, "panic"}, {"access"}, {"task"}):
            found = [trace for trace in self.traces if trace.name in names]
            own = [trace for trace in found if trace.user == self.pc_user]
            if found:
                return (own or found)[0].frames
        return []

    @property
    def user(self) -> str:
        """The task whose header was the last."""
        return self.users[-1] if self.users else ""

    @property
    def chains(self) -> tuple[Chain, ...]:
        return tuple(
            Chain(mark if mark and trace.name in _MARKED else trace.name, tuple(frames))
            for trace in self.traces
            for mark, frames in trace.parts
        )


class _Reader:
    """Goes through the lines, and keeps whose frames they are."""

    def __init__(self) -> None:
        self.found = Anatomy()
        self.name = MAIN
        self.mark = ""
        self.trace: Trace | None = None

    def line(self, text: str) -> None:
        if (each := frame.parse(text)) is not None:
            self._frame(each, frame.caller(text))
        elif _DULL.match(text):
            return
        elif "<" in text and (mark := _MARK.match(text)) is not None:
            self.mark = "" if mark["end"] else _MARKS.get(mark["name"], "")
        else:
            self._header(text)
            self._registers(text)
            self._words(text)

    def _frame(self, each: Frame, caller: Frame | None) -> None:
        if self.trace is None:
            self.trace = Trace(self.name, self.found.user)
            self.found.traces.append(self.trace)
        if caller is None or self.trace.last != each.function:
            self.trace.add(self.mark, each)
        if caller:
            self.trace.add(self.mark, caller)

    def _header(self, text: str) -> None:
        if (match := _HEADER.match(text)) is not None:
            self._begin(_HEADERS[(match.lastindex or 1) - 1][1])

    def _begin(self, name: str) -> None:
        # A trace's own header only names what a line before has announced.
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
            if self.found.pc is None or (self.found.pc.inline and each is not None):
                self.found.pc = each
            # Kernels up to 4.x name it in a line before the task's header as well.
            self.found.pc_user = self.found.pc_user or self.found.user
            if (ra := _RA.match(match["rest"])) is not None:
                self.found.lr = self.found.lr or frame.parse(ra["rest"])
        elif self.found.lr is None and (match := _LR.match(text)) is not None:
            self.found.lr = frame.parse(match["rest"])
            self.found.linked = self.found.lr is not None and " is at " not in text

    def _words(self, text: str) -> None:
        found = self.found
        if "omm" in text and (match := _TASK.match(text) or _OLD_TASK.match(text)):
            found.users.append(match["pid"])
            self._task(match)
        elif " #" in text and (match := _RELEASE.match(text)) is not None:
            self._task(match)
        elif not found.comm and (match := _WHO.match(text)) is not None:
            found.comm = match["comm"] or match["comm2"]
            found.pid = int(match["pid"] or match["pid2"] or 0)
        if "execut" in text and _NO_CODE.match(text):
            found.jumped = True
        if " at: " in text and (match := _AT.match(text)) is not None:
            found.locks.append(match["function"])
        elif "suspicious rcu_" in text and (match := _SUSPICIOUS.match(text)) is not None:
            found.file, found.line = match["file"], int(match["line"])
        elif "last function" in text and (match := _LAST_FUNCTION.match(text)) is not None:
            found.last_function = found.last_function or match["function"]

    def _task(self, match: re.Match[str]) -> None:
        found, groups = self.found, match.groupdict(default="")
        if not found.kernel:
            found.kernel = groups["kernel"].rstrip(")")
            taint = groups["taint"].replace("Not tainted", "").removeprefix("Tainted:")
            found.taint = "".join(taint.split())
        if len(found.users) == 1 and groups.get("pid"):
            found.pid, found.comm = int(groups["pid"]), groups["comm"].strip()
            found.cpu = int(groups["cpu"]) if groups.get("cpu") else None


def read(texts: Iterable[str]) -> Anatomy:
    """The anatomy of a report's lines."""
    reader = _Reader()
    for text in texts:
        reader.line(text)
    return reader.found


def place(found: Anatomy, named: str) -> list[str]:
    """The functions to choose from, the likeliest first, of a report whose opening names
    one ("" where it does not)."""
    first = [named] if named else []
    if found.pc and machinery.plain(found.pc.function) != machinery.plain(named):
        first.append(found.pc.function)
    main = _reliable(found.main)
    if first and not any(each.reliable for each in found.main):
        main = []
    names = {machinery.plain(each) for each in first}
    behind = next((i + 1 for i, each in enumerate(main) if machinery.plain(each) in names), 0)
    if found.jumped:
        # Who has jumped there is in the link register.
        first = [found.lr.function] if found.lr else []
    elif not main and found.lr:
        main = [found.lr.function]
    return _linked(found, [*first, *main[behind:]])


def _linked(found: Anatomy, names: list[str]) -> list[str]:
    """With the function of the link register behind that of the program counter: a caller
    that the trace lacks, because its callee or itself has made no frame."""
    if not (found.linked and found.pc and found.lr) or found.jumped:
        return names
    pc, lr = found.pc.function, found.lr.function
    at = names.index(pc) if pc in names else len(names)
    if at == len(names) or lr in {pc, *names[at + 1 : at + 2]}:
        return names
    return [*names[: at + 1], lr, *names[at + 1 :]]


def trace(found: Anatomy, named: str) -> list[str]:
    """Of one that only its call trace locates; lockdep's without one, its first lock."""
    return _reliable(found.main) or place(found, named) or found.locks[:1]


def lock(found: Anatomy, named: str) -> list[str]:
    """Of lockdep's, which says where the lock is taken and where another one was."""
    where = next((each for each in found.locks[:2] if not machinery.is_machinery(each)), named)
    return place(found, where) or found.locks[:1]


def order(found: Anatomy, named: str) -> list[str]:
    """Of lockdep's about interrupts: who takes the lock in one, which it shows first."""
    first = next((each for each in found.traces if each.name == "dependency"), None)
    return _reliable(first.frames) if first else lock(found, named)


def hang(found: Anatomy, named: str) -> list[str]:
    """Of one about what goes on for too long: inside of what dispatched the work. A
    processor that waits for another is not to blame: the waiting is."""
    if found.pc and found.pc.function.startswith(_WAITING):
        return [_WAITING]
    for each in found.traces:
        names = _linked(found, _interrupted(_reliable(each.frames)))
        if any(machinery.plain(name) == "rcu_gp_kthread" for name in names):
            continue
        if names and names[0].startswith(_WAITING):
            return [_WAITING]
        if chosen := _inside(names):
            return chosen
    return place(found, named)


def _inside(names: Sequence[str]) -> list[str]:
    last = -1
    for index, name in enumerate(names):
        if machinery.dispatches(name) and last >= 0:
            return list(names[last:])
        if (not machinery.is_machinery(name) and not machinery.dispatches(name)) or machinery.named(
            name
        ).startswith("sys_"):
            last = index
    return [name for name in names if not machinery.is_machinery(name)]


def _interrupted(names: list[str]) -> list[str]:
    """Behind the functions of the interrupt that found it."""
    entry = next((i for i, name in enumerate(names) if machinery.interrupts(name)), -1)
    if not all(machinery.is_machinery(name) for name in names[:entry]):
        return names
    return names[entry + 1 :] or names


# What ends a grace period is somewhere else than what waits for its end.
_GRACE_PERIOD = re.compile(r"synchronize_(?:s?rcu|net|sched)\w*|(?:s|_)?rcu_barrier\w*")


def wait(found: Anatomy, named: str) -> list[str]:
    """Of a task that waits for too long: what waits, or that it is for RCU."""
    names = trace(found, named)
    plain = [machinery.plain(each) for each in names]
    at = next((i for i, each in enumerate(plain) if _GRACE_PERIOD.fullmatch(each)), -1)
    # What waits for the lock of a barrier waits for some other task's.
    locked = at > 0 and "mutex_lock" in plain[at - 1]
    if at >= 0 and not locked:
        return [names[at]]
    return [each for each in names if not machinery.waits(each)] or names


def outermost(found: Anatomy, named: str) -> list[str]:
    """Of one that came to light by chance: the work that the task was at."""
    names = trace(found, named)
    for index in range(len(names) - 1, -1, -1):
        if not (machinery.is_machinery(names[index]) or machinery.dispatches(names[index])):
            return names[index:]
    return names


def text(found: Anatomy, named: str) -> list[str]:
    """Of one whose opening says it, or nothing does."""
    return [named] if named else trace(found, named)


def none(found: Anatomy, _named: str) -> list[str]:
    """Of one that is about no function, unless it says which was the last."""
    return [found.last_function] if found.last_function else []


BLAMES: dict[str, Callable[[Anatomy, str], list[str]]] = {
    "place": place,
    "trace": trace,
    "lock": lock,
    "order": order,
    "hang": hang,
    "wait": wait,
    "outermost": outermost,
    "text": text,
    "none": none,
}


def _reliable(frames: Sequence[Frame]) -> list[str]:
    real = [each for each in frames if not each.inline] or frames
    sure = [each.function for each in real if each.reliable]
    return sure or [each.function for each in real]


def guilty(candidates: Sequence[str]) -> tuple[str, str]:
    """The first of the functions that is not machinery, and the next one outward; where
    all are, the first that does not only print."""
    real = [each for each in candidates if not machinery.is_machinery(each)]
    if not real:
        found = [each for each in candidates if not machinery.prints(each)] or candidates
        return (machinery.named(found[0]) if found else ""), ""
    outward = (machinery.named(each) for each in real[1:])
    function = machinery.named(real[0])
    return function, next((each for each in outward if each != function), "")
