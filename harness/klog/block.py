# SPDX-License-Identifier: GPL-2.0-only
"""Reports as blocks of a log's messages: where each begins and ends, and what is its."""

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from harness.klog import frame, kinds
from harness.klog.kinds import Kind
from harness.klog.message import Message

# What ended a block: its own mark, another report, the machine's next boot, the end of the
# log, or lines that are none of a report's.
End = Literal["mark", "opening", "boot", "log", "others"]


@dataclass(slots=True)
class Block:
    """One report's messages. ``places`` are the openings that it had, the first of which
    made it; ``before`` what a WARN says before its opening; ``panic`` the reason of the
    panic that it led to; ``end`` what closed it."""

    kind: Kind
    places: list[re.Match[str]]
    messages: list[Message]
    before: list[Message] = field(default_factory=list)
    length: int = 1
    strays: int = 0
    framed: bool = False
    foreign: bool = False
    panic: str = ""
    end: End = "log"

    @property
    def texts(self) -> list[str]:
        """Its lines, without those behind its last one."""
        return [each.text for each in (*self.before, *self.messages[: self.length])]

    @property
    def first(self) -> int:
        """The number of its first line."""
        return (self.before or self.messages)[0].number

    @property
    def last(self) -> int:
        """The number of its last line."""
        message = self.messages[self.length - 1]
        return message.number + message.lines - 1


# Strings one of which every opening and every mark has; the rest of a log is passed over.
NEEDLES = (
    *("BUG", "WARNING:", "INFO: ", "nable to handle", "nternal error", "Oops", "PANIC: "),
    *("Kernel panic", "cut here", "UBSAN:", "general protection", "KASAN: ", "ivide"),
    *("invalid opcode", "stack segment", "guard page", "stack overflow", "nsufficient stack"),
    *("lignment check", "SError", "Bad mode", "Unhandled", "nhandled ", "Kernel access"),
    *("rcu: ", "rcu_", "hard LOCKUP", "unreferenced object", "suspected memory leak"),
    *("refcount_t: ", "list_add", "list_del", "list corruption", "ODEBUG: ", "cannot create dup"),
    *("already registered", "EEXIST", "DMA-API: ", "have a release", "waiting for ", "usercopy"),
    *("llocation failure", "Out of memory", "out of memory", "oom-killer", "Busy inodes"),
    *("CFI failure", "slab error", "Slab corruption", "locks held", "event 0x", "event: "),
    *("CMD_SYNC", "global error", "overflow detected", "GERROR", "CMDQ", "context fault"),
    *("global fault", "fault from EP", "addressing fault", "sync timed out", "Service Failure"),
    *("write aborted", "DMAR", "dmar_fault", "AMD-Vi: ", "Hardware Error", "nobody cared"),
    *("Disabling IRQ", "Linux version ", "Booting Linux", "control protection", "segment not"),
    *(
        "machine check",
        "double fault",
        "NULL pointer deref",
        "Kernel attempted",
        "Kernel unaligned",
    ),
    *("int3: ", "bounds: ", "invalid TSS", "command in error", "command fetch", "simd exception"),
    *("hypercall failed", "file count is"),
)

_CUT = re.compile(r"\s*(?:-+\[ cut here \]-+|8<-+ cut here -+)")
_END = re.compile(r"\s*-{2,}\[ end (?:trace|Kernel panic)")
_BOOT = re.compile(r"\s*(?:Linux version \d|Booting Linux on |Booting paravirtualized kernel)")
_RULE = re.compile(r"\s*={20,}\s*$")
_RULED = frozenset(("KASAN", "KCSAN", "KMSAN", "KFENCE", "UBSAN"))
# The panics that kernels are set to when something else has been reported.
_CONSEQUENCE = re.compile(
    r"(?:Oops: |Oops - .*: |kernel: )?(?:[Ff]atal exception|panic_on_\w+ set|.*panic_on_warn|"
    r"hung_task: blocked tasks|softlockup: hung tasks|RCU Stall|Hard LOCKUP|hard lockup|"
    r"corrupted stack end|Machine halted|kernel stack overflow|KASAN: |UBSAN: |Oops|"
    r"Aiee, killing interrupt handler|Attempted to kill the idle task|bad mode|BUG!|"
    r"Asynchronous SError Interrupt|Unrecoverable exception|Corrupted kernel stack)"
)
# What an oops shows before its registers, and no report behind its trace.
_MODULES = re.compile(r"\s*Modules linked in:")
# Kinds whose text a WARN prints: the kernels from 4.11 to 4.14 do so before the cut mark.
_WARN_TEXTS = frozenset(
    name for kind in kinds.KINDS if kind.name == "WARNING" for name in kind.within
)
# Of what else a report is made than of frames; the rest are messages of others.
_CONTENT = re.compile(
    r"""
    \s*(?:[\[(]?[\[<][0-9a-f]{8,16}[>\]]|</?(?:IRQ|TASK|NMI|EOI|SOFTIRQ|ENTRY|EXCEPTION|\#DF)|
    CPU\b|[Pp]id:|PID:|Comm:|Process\ |Hardware\ name|Workqueue:|Modules\ linked|Call\ [Tt]race|
    Stack|[Bb]acktrace|stack\ backtrace|Code:|Tainted|Not\ tainted|Kernel\ (?:Offset|panic)|
    CPU\ features|Memory\ Limit|SMP:|PHYS_OFFSET|Rebooting|Dumping\ ftrace|\(ftrace|
    Exception\ stack|Registers?\b|\d+\.\d+\.\d+[\w.+-]*\ \#|(?:pc|lr|sp|pstate|epc|ra|gp|tp|fp|
    ip|status|cause|badaddr)\ ?:|(?:[xXrRtsa]\d{1,2}|[RE][A-Z0-9]{1,2}|[CDEFGS]S|[CD]R\d|PKRU|
    PGD|P4D|PUD|NIP|LR|MSR|GPR\d+|IP|EIP|PC|FPC|Flags|Control|DAR|CTR|XER|CFAR|ERA|PRMD|Krnl|
    task|pgd|Psr|psr|Hi|Lo|epc|Cause)\ ?[:=]|(?:PC|LR|EIP)\ is\ at|Mem\ abort|Data\ abort|ESR|
    EC\ =|SET\ =|EA,|FSC|CM\ =|ISV|GCS|Xs|user\ pgtable|swapper\ pgtable|\[[0-9a-f]{8,16}\]\ |
    page:|raw:|flags:|head:|page\ |\#PF|Read\ of|Write\ of|(?:read|write|
    assert)\b.*\bby\ (?:task|interrupt)|value\ changed|Reported\ by|Memory\ state|The\ buggy|
    Object|Redzone|Padding|Bytes\ b4|Slab|FIX|which\ belongs|The\ page|located\ |allocated\ |
    freed\ |Allocated|Freed|INFO:|Last\ potent|Second\ to|Uninit|Local\ variable|Bytes?\ |
    hex\ dump|kfence-|Invalid|Use-after-free|Out-of-bounds|Corrupted|Memory\ access|
    [0-9a-f]{2}\ [0-9a-f]{2}\ |>?[0-9a-f]{4,16}:|[0-9a-f]{8,16}\ |\^|this\ frame|irq\ event|
    (?:hard|soft)irqs\ last|\#\d|->|lock\(|\*\*\*|<Interrupt>|other\ info|Possible\ |
    Chain\ exists|the\ existing|but\ |which\ |and\ |\.\.\.\ |-{10,}|={10,}|\d+\ locks?\ held|
    no\ locks|\S+/\d+\ (?:is|just)|(?:ffff|\(|\{)|rcu:|rcu_|NMI|Sending|Task\ dump|task:|\(t=|
    \(detected|\t|in_atomic|preempt|Preempt|RCU\ |caller\ is|turning\ off|the\ code|maybe\ you|
    you\ didn|last\ function|comm\ |index\ |shift\ |signed\ |unsigned\ |load\ |member\ |left\ |
    "echo|note:|Fixing|Disabling\ lock|debug_locks|stack|addr|invalid\ opcode|Oops|KASAN|kasan|
    Mem-Info)""",
    re.VERBOSE,
)
_MOST_STRAYS = 30
# So few lines of others, or empty ones, that a report can still be going on.
_FEW_STRAYS = 3
_MOST_LINES = 3000
# So many lines after a report a panic can be what it led to; so many a WARN's text has.
_AFTERMATH = 400
# So many lines of other callers can come before a report goes on.
_SILENCE = 400
# Within so many lines two that stand alone can be about the same: six messages, and a record
# of /dev/kmsg is three lines where a device says it.
_NEAR = 20
_MOST_BEFORE = 6
# So much of a line an opening can be.
_LONGEST = 1000
# So many reports can be open at a time.
_MOST_OPEN = 64
_NEVER = 1 << 62


class Assembler:
    """Sorts messages into blocks. ``feed`` them in order, then ``finish``; each gives the
    blocks that are complete, in the order of their first lines. A log that names its callers
    has a block for each of them."""

    def __init__(self) -> None:
        self._open: dict[str, Block] = {}
        self._cut: dict[str, list[Message]] = {}
        self._cut_until = _NEVER
        self._recent: dict[str, Block] = {}
        # The oops that another processor's report has interrupted, in a log without callers.
        self._parked: Block | None = None
        self._last_single: Block | None = None
        # A heap by first line; the number of them makes a block's place in it unique.
        self._done: list[tuple[int, int, Block]] = []
        self._count = 0
        # The first line of what may still change, and the line at which it will not.
        self._oldest = _NEVER
        self._expiry = _NEVER
        self._stale = False

    @property
    def idle(self) -> bool:
        """Whether the messages up to the next that has a needle change nothing."""
        return not self._open and not self._cut

    def feed(self, message: Message) -> list[Block]:
        if message.number > self._expiry:
            self._expire(message.number)
        self._take(message)
        if self._stale:
            self._changed()
        ready = []
        while self._done and self._done[0][0] < self._oldest:
            ready.append(heapq.heappop(self._done)[2])
        return ready

    def finish(self) -> Iterator[Block]:
        for key in list(self._open):
            self._end(key, "log")
        self._forget()
        if self._last_single is not None:
            self._finished(self._last_single)
            self._last_single = None
        while self._done:
            yield heapq.heappop(self._done)[2]

    def _finished(self, block: Block) -> None:
        self._count += 1
        heapq.heappush(self._done, (block.first, self._count, block))

    def _changed(self) -> None:
        self._stale = False
        held = [*self._open.values(), *self._recent.values()]
        held += [each for each in (self._last_single, self._parked) if each is not None]
        self._oldest = min((each.first for each in held), default=_NEVER)
        recent = (each.last + _AFTERMATH for each in self._recent.values())
        silent = (each.messages[-1].number + _SILENCE for each in self._open.values())
        single = [] if self._last_single is None else [self._last_single.first + _NEAR]
        cut = [self._cut_until] if self._cut else []
        self._expiry = min((*recent, *silent, *single, *cut), default=_NEVER)

    def _expire(self, number: int) -> None:
        """What a log has not gone on with for long is over."""
        last = self._last_single
        if last is not None and last.first + _NEAR < number:
            self._finished(last)
            self._last_single = None
        self._cut = {key: each for key, each in self._cut.items() if number < self._cut_until}
        for key, each in list(self._open.items()):
            if each.messages[-1].number + _SILENCE < number:
                self._close(key, "others")
        for key, each in list(self._recent.items()):
            if each.last + _AFTERMATH < number:
                self._forget(key)
        self._stale = True

    def _take(self, message: Message) -> None:
        key = message.caller
        block = self._open.get(key)
        if message.marked and self._mark(key, message):
            return
        if block is not None:
            self._line(key, block, message)
        elif key in self._cut:
            self._before(key, message)
        elif key and self._open:
            self._foreign(message)

    def _foreign(self, message: Message) -> None:
        """Takes a line of a caller that has no report of its own: what other processors say
        of themselves is part of a report about a hang."""
        text = message.text
        is_frame = frame.parse(text) is not None
        for block in self._open.values():
            if block.kind.blame == "hang" and (is_frame or _CONTENT.match(text)):
                _append(block, message, content=True)
                block.framed = block.framed or is_frame
                return
            block.foreign = block.foreign or is_frame

    def _mark(self, key: str, message: Message) -> bool:
        """Takes a message that begins something; False for all others."""
        block, text = self._open.get(key), message.text
        if (opened := opens(text)) is not None:
            self._opening(key, message, *opened)
        elif _CUT.match(text):
            if block is None or not _awaits_place(block):
                self._end(key, "opening")
                self._cut = {key: []}
                self._cut_until = message.number + _SILENCE
                self._expiry = min(self._expiry, self._cut_until)
        elif _BOOT.match(text):
            for each in list(self._open):
                self._end(each, "boot")
            self._forget()
        else:
            return False
        return True

    def _before(self, key: str, message: Message) -> None:
        self._cut[key].append(message)
        if len(self._cut[key]) > _MOST_BEFORE:
            del self._cut[key]

    def _opening(self, key: str, message: Message, kind: Kind, match: re.Match[str]) -> None:
        block = self._open.get(key)
        if kind.name == "panic" and self._led_to(key, message, match):
            return
        if kind.alone:
            self._single(kind, match, message)
            return
        if block is not None and _goes_on(block, kind):
            block.places.append(match)
            _append(block, message, content=True)
            return
        if block is not None and not key and _interrupts(block, kind):
            _append(block, message, content=True)
            block.foreign = True
            return
        if block is not None and not key and _is_interrupted(block, kind):
            self._parked = self._open.pop(key)
            block.foreign = True
        self._end(key, "opening")
        self._forget(key)
        before = self._cut.pop(key, []) if kind.ends else []
        if len(self._open) >= _MOST_OPEN:
            self._close(next(iter(self._open)), "others")
        self._open[key] = Block(kind, [match], [message], before)
        if len(self._open) > 1:
            for each in self._open.values():
                each.foreign = True
        self._stale = True

    def _single(self, kind: Kind, match: re.Match[str], message: Message) -> None:
        last = self._last_single
        near = last is not None and message.number <= last.first + _NEAR
        if last is not None and near and last.kind.name in kind.within and len(last.places) == 1:
            last.places.append(match)
            _append(last, message, content=True)
            return
        if last is not None:
            self._finished(last)
        self._last_single = Block(kind, [match], [message], end="mark")
        self._stale = True

    def _led_to(self, key: str, message: Message, match: re.Match[str]) -> bool:
        """Whether the panic is what the kernel does about the last report; it is then part
        of it."""
        block = self._open.get(key) or self._recent.get(key)
        bare = block is not None and key in self._open and not block.framed
        if not bare and not _CONSEQUENCE.match(match["what"]):
            return False
        if block is None or block.panic or message.number > block.last + _AFTERMATH:
            return False
        block.panic = match["what"].strip()
        if key in self._recent:
            del block.messages[block.length :]
            self._open[key] = self._recent.pop(key)
            self._stale = True
            block.strays = 0
        _append(block, message, content=True)
        return True

    def _line(self, key: str, block: Block, message: Message) -> None:
        text = message.text
        if not key and self._parked is not None and block.framed and _MODULES.match(text):
            self._close(key, "others")
            block = self._open[key]
        is_frame = frame.parse(text) is not None
        block.framed = block.framed or is_frame
        _append(block, message, content=is_frame or _CONTENT.match(text) is not None)
        if ("[ end" in text and _END.match(text)) or _ends_ruled(block, text):
            block.length = len(block.messages)
            self._close(key, "mark")
        elif block.strays > _MOST_STRAYS or len(block.messages) > _MOST_LINES:
            self._close(key, "others")

    def _end(self, key: str, end: End) -> None:
        """Closes a caller's report, and the one that it has interrupted."""
        self._close(key, end)
        self._close(key, end)

    def _close(self, key: str, end: End) -> None:
        block = self._open.pop(key, None)
        if block is None:
            return
        block.end = end
        self._forget(key)
        if end in {"boot", "log"} or block.panic:
            self._finished(block)
        else:
            self._recent[key] = block
        if not key and self._parked is not None:
            self._open[key], self._parked = self._parked, None
        self._stale = True

    def _forget(self, key: str | None = None) -> None:
        """What were the last reports, of one caller or of all, are no longer what a panic
        could be the end of."""
        for each in [key] if key is not None else list(self._recent):
            if each in self._recent:
                self._finished(self._recent.pop(each))
        self._stale = True


def opens(text: str) -> tuple[Kind, re.Match[str]] | None:
    """The kind of report that a line opens, and how it matches."""
    if not any(needle in text for needle in NEEDLES):
        return None
    line = text[:_LONGEST].lstrip()
    for kind in kinds.KINDS:
        if match := kind.opening.match(line):
            return kind, match
    return None


def _goes_on(block: Block, kind: Kind) -> bool:
    """Whether what opens a report of the kind is part of one that is open."""
    if block.kind.name in kind.within:
        return True
    bare = len(block.messages) == len(block.places)
    return kind.again and block.kind.name == kind.name and bare


def _is_interrupted(block: Block, kind: Kind) -> bool:
    """Whether an oops, of which the log has no frame yet, goes on behind a report of the kind:
    nothing else is found on a processor between an exception and its registers."""
    dying = block.kind.severity == "fatal" and block.kind.ends and not block.framed
    return dying and kind.severity == "serious" and not kind.ends


def _interrupts(block: Block, kind: Kind) -> bool:
    """Whether, in a log without callers, what opens a report of the kind is of another
    processor: one that makes a report whose end is marked has no memory to ask for."""
    return kind.name == "page allocation" and block.kind.ends and block.strays <= _FEW_STRAYS


def _awaits_place(block: Block) -> bool:
    """Whether a cut mark stands between a report's text and the line that says where."""
    if block.framed:
        return False
    texts = block.kind.name in _WARN_TEXTS and len(block.messages) <= _MOST_BEFORE
    return texts or not block.kind.ends


def _append(block: Block, message: Message, *, content: bool) -> None:
    block.messages.append(message)
    if content:
        block.length = len(block.messages)
        block.strays = 0
    else:
        block.strays += 1


def _ends_ruled(block: Block, text: str) -> bool:
    if "====" not in text or block.kind.name not in _RULED:
        return False
    return block.framed and _RULE.match(text) is not None
