# SPDX-License-Identifier: GPL-2.0-only
"""Splats with the places of their frames."""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.errors import HarnessError
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog.frame import Chain, Frame
from harness.klog.splat import Splat
from harness.symbols.symbols import VMLINUX, Answer, Query, Symbols, build_ids

# Words of the registers and of the entries that only one architecture's reports have.
_FOREIGN = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\b(?:RIP|RSP|RAX|CR2): |\bEIP: |\bentry_SYSCALL_64|\basm_sysvec_|\b__x64_sys_", "x86"),
        (r"\b(?:PC|LR) is at |\bret_fast_syscall\b|\bunwind_backtrace\b", "32-bit arm"),
        (r"\bepc ?: |\bsatp ?: |\bhandle_exception\+", "riscv"),
        (r"\bNIP \[|\bGPR00: ", "powerpc"),
        (r"\bKrnl PSW ?: ", "s390"),
        (r"\bERA: [0-9a-f]|\bPRMD: ", "loongarch"),
    )
)
# dump_stack_print_info(), with CONFIG_STACKTRACE_BUILD_ID.
_BUILD_ID = re.compile(r"CPU: \d+ .*#\d+ (?:.* )?(?P<id>[0-9a-f]{40})\s*$")
# The interrupted function stands below the vector that its exception took, up to 6.12
# with nothing to tell it from a caller; from 6.13 on it is marked with a P for pc
# (arch/arm64/kernel/stacktrace.c, dump_backtrace_entry).
_VECTOR = re.compile(r"el1[ht]?(?:_64)?_(?:sync|irq|fiq|error)")
_MARKED = re.compile(r"(?P<frame>[\w$.]+\+0x[0-9a-f]+/0x[0-9a-f]+) .*\(F?K?P[FK]*\)")

# What arm64 unwinds from, up to 5.15: the start of the function, where no call returns to
# (start_backtrace, arch/arm64/kernel/stacktrace.c).
_BEGINNINGS = frozenset(("dump_backtrace", "arch_stack_walk"))

_UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Symbolised:
    """A splat whose frames have their places, with inlined ones above them. ``reason`` says
    why some or all have none, "" where all have; ``known`` of ``total`` frames have one."""

    splat: Splat
    known: int
    total: int
    reason: str = ""


def symbolised(
    splat: Splat, kernel: Kernel, spec: KernelSpec | None = None, *, wait: bool = False
) -> Symbolised:
    """The splat with the places of its frames in the kernel's source; ``spec`` is what the
    kernel was built from, without which only what has debug information is known.

    Frames without a place have "?". Never raises for what it cannot do: it says so.
    The first time that an object's functions are wanted it is compiled with -g, which
    takes seconds; afterwards they come from the cache. With ``wait`` this waits for a build
    in the kernel's work tree, which can take minutes.
    """
    symbols = _symbols(kernel, spec, wait)
    total = sum(len(chain.frames) for chain in splat.chains)
    refused = _refused(splat, kernel) or _other_build(splat, symbols)
    if refused:
        return Symbolised(splat, 0, total, refused)
    exact = _exact(splat)
    frames = [each for chain in splat.chains for each in _queries(chain, exact)]
    registers = [(splat.pc, _query(splat.pc, True)), (splat.lr, _query(splat.lr, False))]
    queries = [query for _, query in (*frames, *registers) if query]
    try:
        answers = symbols.answers(queries)
    except (HarnessError, OSError) as error:
        return Symbolised(splat, 0, total, str(error))
    chains = tuple(
        Chain(chain.name, tuple(_with_places(chain, exact, answers))) for chain in splat.chains
    )
    lacking = [reason for frame, query in frames if (reason := _reason(frame, query, answers))]
    done = replace(
        splat,
        chains=chains,
        pc=_last(splat.pc, registers[0][1], answers),
        lr=_last(splat.lr, registers[1][1], answers),
    )
    return Symbolised(done, total - len(lacking), total, _summary(lacking))


# A run shows the splats of one or two kernels.
@functools.lru_cache(maxsize=4)
def _symbols(kernel: Kernel, spec: KernelSpec | None, wait: bool) -> Symbols:
    return Symbols(kernel, spec, wait)


def _refused(splat: Splat, kernel: Kernel) -> str:
    for line in splat.text:
        for pattern, name in _FOREIGN:
            if pattern.search(line):
                return f"the log is of {name}, and {kernel.label} is arm64"
    if splat.kernel and splat.kernel != kernel.release:
        return f"the log is of {splat.kernel}, and {kernel.label} is {kernel.release}"
    return ""


def _other_build(splat: Splat, symbols: Symbols) -> str:
    """The first build ID of the log that is not the kernel's."""
    said = {
        frame.module: frame.build_id
        for chain in splat.chains
        for frame in chain.frames
        if frame.module and frame.build_id
    }
    found = next((match for line in splat.text if (match := _BUILD_ID.search(line))), None)
    if found:
        said[VMLINUX] = found["id"]
    for module, build_id in build_ids(symbols, said):
        if not build_id.startswith(said[module]):
            what = f"module {module}" if module else "kernel"
            return (
                f"the log is of a {what} with build ID {said[module]},"
                f" and that of {symbols.kernel.label} has {build_id}"
            )
    return ""


def _text(frame: Frame) -> str:
    return f"{frame.function}+{frame.offset or 0:#x}/{frame.size or 0:#x}"


def _exact(splat: Splat) -> frozenset[str]:
    """The frames whose address is where the processor was, not where a call returns to."""
    found = {match["frame"] for line in splat.text if (match := _MARKED.search(line))}
    if splat.pc:
        found.add(_text(splat.pc))
    return frozenset(found)


def _queries(chain: Chain, exact: frozenset[str]) -> Iterator[tuple[Frame, Query | None]]:
    above = ""
    for frame in chain.frames:
        interrupted = _VECTOR.fullmatch(above) is not None
        begins = frame.function in _BEGINNINGS and frame.offset == 0
        yield frame, _query(frame, interrupted or begins or _text(frame) in exact)
        above = frame.function


def _query(frame: Frame | None, exact: bool) -> Query | None:
    if frame is None or frame.offset is None or frame.size is None or frame.place:
        return None
    return Query(frame.function, frame.offset, frame.size, frame.module, exact)


def _with_places(
    chain: Chain, exact: frozenset[str], answers: dict[Query, Answer]
) -> Iterator[Frame]:
    for frame, query in _queries(chain, exact):
        if frame.place or query is None or not answers[query].places:
            yield replace(frame, place=frame.place or _UNKNOWN)
            continue
        *inlined, last = answers[query].places
        for name, (file, line) in inlined:
            yield replace(
                frame, function=name, offset=None, size=None, inline=True, place=f"{file}:{line}"
            )
        yield replace(frame, place=f"{last[1][0]}:{last[1][1]}")


def _last(frame: Frame | None, query: Query | None, answers: dict[Query, Answer]) -> Frame | None:
    """A register's, of which the innermost place is shown."""
    if frame is None or query is None or not answers[query].places:
        return frame
    file, line = answers[query].places[0][1]
    return replace(frame, place=f"{file}:{line}")


def _reason(frame: Frame, query: Query | None, answers: dict[Query, Answer]) -> str:
    if frame.place:
        return ""
    return answers[query].reason if query else f"{frame.function} has no offset and size"


def _summary(reasons: list[str]) -> str:
    """The first reason, and how many more there are."""
    different = list(dict.fromkeys(reasons))
    if not different:
        return ""
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    return different[0] + more


def text(splat: Splat) -> list[str]:
    """The lines of a splat that is symbolised, with the places of the frames behind them
    and inlined functions above, as scripts/decode_stacktrace.sh prints them."""
    places = _places(splat)
    return [each for own in splat.text for each in _decoded(own, places)]


_IN_TEXT = re.compile(r"(?<![\w$.])(?P<frame>[\w$.]+\+0x[0-9a-f]+/0x[0-9a-f]+)")


def _places(splat: Splat) -> dict[str, list[Frame]]:
    """Of a frame as the kernel prints it: the functions that are inlined there, innermost
    first, and last itself, each with its place."""
    found: dict[str, list[Frame]] = {}
    inlined: list[Frame] = []
    for frame in (each for chain in splat.chains for each in chain.frames):
        inlined.append(frame)
        if frame.offset is not None:
            found.setdefault(_text(frame), inlined)
            inlined = []
    for register in (splat.pc, splat.lr):
        if register:
            found.setdefault(_text(register), [register])
    return found


def _decoded(own: str, places: dict[str, list[Frame]]) -> Iterator[str]:
    match = _IN_TEXT.search(own)
    found = places.get(match["frame"]) if match else None
    if match is None or not found or found[-1].place in ("", _UNKNOWN):
        yield own
        return
    *inlined, last = found
    for each in inlined:
        yield f"{own[: match.start()]}{each.function} ({each.place}) [inline]"
    yield f"{own} ({last.place})"


def alike(splats: Sequence[Splat]) -> list[list[Splat]]:
    """Splats grouped by title and call traces: one that repeats need not be read twice."""
    found: dict[tuple[str, ...], list[Splat]] = {}
    for each in splats:
        found.setdefault((each.title, *lines(each)), []).append(each)
    return list(found.values())


def lines(splat: Splat) -> Iterator[str]:
    """The call traces, one frame a line, as the kernel prints them with places behind."""
    for chain in splat.chains:
        yield f"{chain.name}:"
        for frame in chain.frames:
            yield f"  {line(frame)}"


def line(frame: Frame) -> str:
    """One frame: ``function+0x54/0x80 [module] (file:line)``."""
    guess = "" if frame.reliable else "? "
    offset = f"+{frame.offset:#x}" if frame.offset is not None else ""
    size = f"/{frame.size:#x}" if frame.size is not None else ""
    module = f" [{frame.module}]" if frame.module else ""
    place = f" ({frame.place})" if frame.place else ""
    inline = " [inline]" if frame.inline else ""
    return f"{guess}{frame.function}{offset}{size}{module}{place}{inline}"
