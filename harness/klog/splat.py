# SPDX-License-Identifier: GPL-2.0-only
"""Splats: the reports that the kernel writes into its log when something is wrong."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.klog import anatomy, blame, message
from harness.klog.anatomy import Anatomy
from harness.klog.assembler import Assembler
from harness.klog.block import INLINE, Block
from harness.klog.frame import Chain, Frame
from harness.klog.kinds import Severity
from harness.klog.machinery import prints
from harness.klog.message import Message


@dataclass(frozen=True, slots=True)
class Splat:
    """One report. ``kind`` is a name of kinds.KINDS, ``title`` names it in the same words on
    every build and in every run; ``file`` and ``line`` are where the kernel says that it
    happened ("" and 0 when it does not), ``function`` is the function that it is about and
    ``caller`` the next one outward; ``kernel`` is the release it prints; ``frames`` the
    functions of its own call trace, the innermost first; ``text`` all of its lines.

    ``opening`` is the line that it opens with, without what changes from run to run;
    ``panic`` the reason of the panic that it led to: a panic that is only what the kernel
    does about a report (a fatal exception, panic_on_warn and the like) is part of it.
    ``chains`` are all of its call traces; ``first`` and ``last`` the indexes of its lines.
    ``cut`` says that its end is missing, ``interleaved`` that another's lines are among it.
    """

    kind: str
    title: str
    file: str
    line: int
    function: str
    kernel: str
    frames: tuple[str, ...]
    text: tuple[str, ...]
    opening: str = ""
    severity: Severity = "serious"
    caller: str = ""
    taint: str = ""
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    pc: Frame | None = None
    lr: Frame | None = None
    chains: tuple[Chain, ...] = ()
    panic: str = ""
    first: int = 0
    last: int = 0
    cut: bool = False
    interleaved: bool = False


_UNSTABLE = re.compile(r"\b(CPU|PID|cpu|pid): ?\d+|\b(0x)?[0-9a-f]{8,16}\b|#\d+|/\d+\b")
_NUMBERS = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{8,16}\b|\b\d+\b|[!.:,]+\s*$|\([\d,]*\)$")
_EXIT_CODE = re.compile(r"\s*exitcode=.*|\s*\[#\d+\].*")
_TITLE_LENGTH = 120
_BUILT_IN = re.compile(
    r"^.*?/(?=(?:arch|block|certs|crypto|drivers|fs|include|init|io_uring|ipc|kernel|lib|mm|net|"
    r"rust|samples|security|sound|tools|usr|virt)/)"
)


def find(lines: Sequence[str]) -> list[Splat]:
    """The splats in a kernel log's lines; ``first`` and ``last`` count from 0."""
    numbered = enumerate(lines, start=1)
    parsed = (found for number, line in numbered if (found := message.parse(line, number)))
    return [
        replace(each, first=each.first - 1, last=each.last - 1)
        for each in stream(message.joined(parsed))
    ]


def stream(messages: Iterable[Message]) -> Iterator[Splat]:
    """The splats in messages, each when it has ended; ``first`` and ``last`` are numbers
    of their lines."""
    assembler = Assembler()
    for each in messages:
        yield from map(of, assembler.feed(each))
    yield from map(of, assembler.finish())


def of(block: Block) -> Splat:
    """What a report's lines say."""
    found = anatomy.read(block.texts[len(block.before) :])
    groups = _groups(block)
    candidates = blame.BLAMES[block.kind.blame](found, groups.get("function", ""))
    function, caller = blame.guilty(block.kind.blame, found, candidates)
    names = tuple(each.function for each in found.main if each.reliable)
    return Splat(
        block.kind.name,
        _title(block, groups, function),
        _source(groups.get("file") or found.file),
        int(groups.get("line", found.line)),
        function,
        found.kernel,
        tuple(itertools.dropwhile(prints, names)) or names,
        tuple(block.texts),
        opening=_UNSTABLE.sub("", _opening(block)).strip(),
        severity=block.kind.severity,
        caller=caller,
        taint=found.taint,
        cpu=_number(groups.get("cpu") or groups.get("cpu2"), found.cpu),
        pid=_number(groups.get("pid"), found.pid),
        comm=(groups.get("comm") or found.comm).strip(),
        pc=found.pc,
        lr=found.lr,
        chains=found.chains,
        panic=block.panic,
        first=block.first,
        last=block.last,
        cut=_cut(block, found),
        interleaved=block.foreign or _mixed(block, found),
    )


def _groups(block: Block) -> dict[str, str]:
    """What the openings say, the first of them first, but those of inlined functions last."""
    found: dict[str, str] = {}
    for match in sorted(block.places, key=lambda each: INLINE in each.string):
        found |= {k: v for k, v in match.groupdict().items() if v and k not in found}
    return found


def _opening(block: Block) -> str:
    """The line that says where, of a WARN whose text stands before it."""
    return block.places[-1 if block.places[-1].groupdict().get("file") else 0].string


def _title(block: Block, groups: dict[str, str], function: str) -> str:
    what = next((groups[name] for name in ("what", "what2", "what3") if name in groups), "")
    if block.kind.name == "panic":
        what = _NUMBERS.sub("", _EXIT_CODE.sub("", what))
    title = block.kind.title.format_map({"cache": "", **groups, "what": what.strip()})
    title = " ".join(title.split())[:_TITLE_LENGTH]
    if not function:
        return title
    # A data race has two sides, which the kernel sorts (kernel/kcsan/report.c).
    other = f" / {groups['other']}" if "other" in groups else ""
    return f"{title} in {function}{other}"


def _source(file: str) -> str:
    """Without the directory that a kernel was built in."""
    return _BUILT_IN.sub("", file) if file.startswith(("/", ".")) else file


def _number(text: str | None, otherwise: int | None) -> int | None:
    return int(text) if text else otherwise


def _cut(block: Block, found: Anatomy) -> bool:
    if block.end == "mark" or block.panic:
        return False
    if block.kind.ends:
        return block.end in {"boot", "log"} or not found.traces
    return block.kind.blame in {"trace", "lock", "hang"} and not found.traces


def _mixed(block: Block, found: Anatomy) -> bool:
    """Two tasks' headers in a report that is about one."""
    return block.kind.blame != "hang" and not block.panic and len(set(found.users)) > 1
