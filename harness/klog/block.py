# SPDX-License-Identifier: GPL-2.0-only
"""Blocks of messages, one for each splat: the lines that open, continue and end a splat."""

import functools
import re
from dataclasses import dataclass, field
from typing import Literal

from harness.klog import kinds
from harness.klog.kinds import Kind
from harness.klog.message import Message

# What ended a block: its end mark, the opening of another splat, the next boot, the end of the
# log, or too many lines that do not belong to a splat.
End = Literal["mark", "opening", "boot", "log", "others"]


@dataclass(slots=True)
class Block:
    """The messages of one splat.

    ``openings`` are the matches of its opening lines. The first opening created the block.
    ``before`` is the text of a WARN that is printed before its opening. ``length`` is the number of
    messages up to the last line of the splat, and ``strays`` is the number of messages after that
    line. ``framed`` is set once the splat has a call trace. ``foreign`` is set once the messages
    contain lines of another splat. ``panic`` is the reason for the panic that the splat caused.
    ``end`` is what closed the block.
    """

    kind: Kind
    openings: list[re.Match[str]]
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
        """The lines of the splat, without messages after its last line."""
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


# Each opening and each mark contains one of these strings. All other lines are skipped.
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
    *(
        "Disabling IRQ",
        "rust_kernel: panicked",
        "Linux version ",
        "Booting Linux",
        "control protection",
        "segment not",
    ),
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

CUT = re.compile(r"\s*(?:-+\[ cut here \]-+|8<-+ cut here -+)")
END = re.compile(r"\s*-{2,}\[ end (?:trace|Kernel panic)")
BOOT = re.compile(r"\s*(?:Linux version \d|Booting Linux on |Booting paravirtualized kernel)")
_RULE = re.compile(r"\s*={20,}\s*$")
_RULED = frozenset(("KASAN", "KCSAN", "KMSAN", "KFENCE", "UBSAN"))
# Reasons for panics that a splat causes, for example panic_on_warn and panic_on_oops.
CONSEQUENCE = re.compile(
    r"(?:[\w /-]{1,60}: )?[Ff]atal exception|"
    r"(?:Oops: |Oops - .*: |kernel: )?(?:panic_on_\w+ set|.*panic_on_warn|"
    r"hung_task: blocked tasks|softlockup: hung tasks|RCU Stall|Hard LOCKUP|hard lockup|"
    r"corrupted stack end|Machine halted|kernel stack overflow|KASAN: |UBSAN: |Oops|"
    r"Aiee, killing interrupt handler|Attempted to kill the idle task|bad mode|BUG!|"
    r"scheduling while atomic|"
    r"Asynchronous SError Interrupt|Unrecoverable exception|Corrupted kernel stack)"
)
_OUT_OF_MEMORY = frozenset(("page allocation", "out of memory"))
# An oops prints it before its registers. No splat prints it after its trace.
MODULES = re.compile(r"\s*Modules linked in:")
# Kinds with a text that a WARN prints. Kernels from 4.11 to 4.14 print it before the cut mark.
_WARN_TEXTS = frozenset(
    name for kind in kinds.KINDS if kind.name == "WARNING" for name in kind.within
)
# Lines of a splat other than frames. All other lines are unrelated messages.
CONTENT = re.compile(
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
    Mem-Info|workqueue\ \S+:|pwq\ \d|pool\ \d|pending:|in-flight:|inactive:|Showing\ b)""",
    re.VERBOSE,
)
# A symboliser appends this to the lines that it adds for inlined functions.
INLINE = "[inline]"
# A splat can continue after at most this many unrelated or empty lines.
_FEW_STRAYS = 3
# The text of a WARN has at most this many lines.
MOST_BEFORE = 6
# Openings are matched against at most this many characters of a line.
_LONGEST = 1000


_OPENINGS = tuple((kind.opening.match, kind) for kind in kinds.KINDS)


# Most lines with a needle are not openings, and one pattern for all openings rejects them faster.
# It is compiled on first use, because most commands do not read splats.
@functools.cache
def _any_opening() -> re.Pattern[str]:
    unnamed = (re.sub(r"\(\?P<\w+>", "(?:", kind.opening.pattern) for kind in kinds.KINDS)
    return re.compile("|".join(f"(?:{opening})" for opening in unnamed))


def opens(text: str) -> tuple[Kind, re.Match[str]] | None:
    """Return the kind of splat that a line opens and the match, or None if it opens no splat."""
    for needle in NEEDLES:
        if needle in text:
            break
    else:
        return None
    line = text[:_LONGEST].lstrip()
    if _any_opening().match(line) is None:
        return None
    for opening, kind in _OPENINGS:
        if match := opening(line):
            return kind, match
    return None


def continues(block: Block, kind: Kind) -> bool:
    """Whether an opening of the kind is part of the open splat."""
    if block.kind.name in kind.within:
        return True
    bare = len(block.messages) == len(block.openings)
    repeated = kind.again or INLINE in block.openings[-1].string
    return repeated and block.kind.name == kind.name and bare


def describes_warning(block: Block, kind: Kind) -> bool:
    """Whether an opening of the kind is the text of the open WARN: kernels up to 4.10 print
    it below the place (warn_slowpath_common, kernel/panic.c)."""
    bare = len(block.messages) == 1
    return bare and block.kind.name == "WARNING" and kind.name in _WARN_TEXTS and kind.ends


def is_interrupted(block: Block, kind: Kind) -> bool:
    """Whether an oops without frames so far continues after a splat of the kind. That splat is from
    another CPU: between an exception and its registers a CPU does not detect other bugs."""
    dying = block.kind.severity == "fatal" and block.kind.ends and not block.framed
    return dying and kind.severity == "serious" and not kind.ends


def interrupts(block: Block, kind: Kind) -> bool:
    """Whether, in a log without callers, an opening of the kind is from another CPU: a CPU that
    prints a splat with an end mark does not allocate memory."""
    return kind.name in _OUT_OF_MEMORY and block.kind.ends and block.strays <= _FEW_STRAYS


def awaits_place(block: Block) -> bool:
    """Whether a cut mark here separates the text of a WARN from its line with the place."""
    if block.framed:
        return False
    texts = block.kind.name in _WARN_TEXTS and len(block.messages) <= MOST_BEFORE
    return texts or not block.kind.ends


def append(block: Block, message: Message, *, content: bool) -> None:
    """Append a message to a block: ``content`` of the splat, or a stray message."""
    block.messages.append(message)
    if content:
        block.length = len(block.messages)
        block.strays = 0
    else:
        block.strays += 1


def is_end_rule(block: Block, text: str) -> bool:
    """Whether the line is the rule of "=" that ends the splat of a sanitizer."""
    if "====" not in text or block.kind.name not in _RULED:
        return False
    return block.framed and _RULE.match(text) is not None
