# SPDX-License-Identifier: GPL-2.0-only
"""Splats: what the kernel prints when it detects a bug, with the function to blame."""

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
    """A splat.

    ``kind`` is the name of a kind in kinds.KINDS. ``title`` is the same for every build and every
    run. ``file`` and ``line`` are the source line that the kernel prints, or "" and 0. ``function``
    is the function to blame, and ``caller`` is the next function outward. ``kernel`` is the release
    in the splat. ``frames`` are the functions of the splat's own call trace, innermost first.
    ``text`` are all lines of the splat.

    ``opening`` is the opening line without the parts that change between runs. ``panic`` is the
    reason for the panic that followed. A panic that is only a consequence of the splat, for example
    of a fatal exception or panic_on_warn, is part of the splat. ``chains`` are all call traces.
    ``first`` and ``last`` are the indexes of the first and the last line. ``cut``: the end of the
    splat is missing. ``interleaved``: lines of another splat are among its lines.
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
    """Return the splats in the lines of a kernel log. ``first`` and ``last`` count from 0."""
    numbered = enumerate(lines, start=1)
    parsed = (found for number, line in numbered if (found := message.parse(line, number)))
    return [
        replace(each, first=each.first - 1, last=each.last - 1)
        for each in stream(message.joined(parsed))
    ]


def stream(messages: Iterable[Message]) -> Iterator[Splat]:
    """Yield the splats in messages, each as soon as it has ended. ``first`` and ``last`` are line
    numbers."""
    assembler = Assembler()
    for each in messages:
        yield from map(from_block, assembler.feed(each))
    yield from map(from_block, assembler.finish())


def from_block(block: Block) -> Splat:
    """Parse the lines of a splat."""
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
    """Return the groups of all openings. The first opening takes precedence, and openings of
    inlined functions are last."""
    found: dict[str, str] = {}
    for match in sorted(block.openings, key=lambda each: INLINE in each.string):
        found |= {k: v for k, v in match.groupdict().items() if v and k not in found}
    return found


def _opening(block: Block) -> str:
    """Return the opening line. If a WARN has its text before its place, it is the line with the
    place."""
    return block.openings[-1 if block.openings[-1].groupdict().get("file") else 0].string


def _title(block: Block, groups: dict[str, str], function: str) -> str:
    what = next((groups[name] for name in ("what", "what2", "what3") if name in groups), "")
    if block.kind.name == "panic":
        what = _NUMBERS.sub("", _EXIT_CODE.sub("", what))
    title = block.kind.title.format_map({"cache": "", **groups, "what": what.strip()})
    title = " ".join(title.split())[:_TITLE_LENGTH]
    if not function:
        return title
    # KCSAN names the functions of both accesses, sorted (kernel/kcsan/report.c).
    other = f" / {groups['other']}" if "other" in groups else ""
    return f"{title} in {function}{other}"


def _source(file: str) -> str:
    """Return the path relative to the kernel source."""
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
    """Whether the splat of one task has the headers of several tasks."""
    return block.kind.blame != "hang" and not block.panic and len(set(found.users)) > 1
