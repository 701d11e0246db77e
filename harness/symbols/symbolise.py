# SPDX-License-Identifier: GPL-2.0-only
"""Add source lines to the frames of splats."""

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

# Registers and entry functions that are only in splats of one architecture.
_OTHER_ARCHITECTURES = tuple(
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
# The interrupted function follows the vector of its exception. Up to 6.12 it looks like a
# caller; from 6.13 on it is marked with a P for pc (arch/arm64/kernel/stacktrace.c,
# dump_backtrace_entry).
_VECTOR = re.compile(r"el1[ht]?(?:_64)?_(?:sync|irq|fiq|error)")
_MARKED = re.compile(r"(?P<frame>[\w$.]+\+0x[0-9a-f]+/0x[0-9a-f]+) .*\(F?K?P[FK]*\)")

# Functions that arm64 unwinds from up to 5.15: the address is the start of the function, not a
# return address (start_backtrace, arch/arm64/kernel/stacktrace.c).
_UNWIND_STARTS = frozenset(("dump_backtrace", "arch_stack_walk"))

_UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Symbolised:
    """A splat with the source lines of its frames, and with frames for inlined functions.

    ``known`` of ``total`` frames have a source line. ``reason`` is the reason why the other frames
    have no source line, or "" if there are no other frames.
    """

    splat: Splat
    known: int
    total: int
    reason: str = ""


def symbolised(
    splat: Splat, kernel: Kernel, spec: KernelSpec | None = None, *, wait: bool = False
) -> Symbolised:
    """Add source lines to the frames of a splat, and frames for inlined functions.

    ``spec`` is the source of the kernel. Without it only images with debug information are
    symbolised. An object is compiled with -g on the first use of its functions, which takes
    seconds; later their tables are read from the cache. ``wait`` waits for a running build in the
    work tree of the kernel, which can take minutes.

    A frame without a source line gets the place "?". This function does not raise HarnessError,
    but returns the reason.
    """
    symbols = _symbols(kernel, spec, wait)
    total = sum(len(chain.frames) for chain in splat.chains)
    mismatch = _mismatch(splat, kernel) or _other_build(splat, symbols)
    if mismatch:
        return Symbolised(splat, 0, total, mismatch)
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
        pc=_with_place(splat.pc, registers[0][1], answers),
        lr=_with_place(splat.lr, registers[1][1], answers),
    )
    return Symbolised(done, total - len(lacking), total, _summary(lacking))


# A run shows the splats of one or two kernels.
@functools.lru_cache(maxsize=4)
def _symbols(kernel: Kernel, spec: KernelSpec | None, wait: bool) -> Symbols:
    return Symbols(kernel, spec, wait)


def _mismatch(splat: Splat, kernel: Kernel) -> str:
    for line in splat.text:
        for pattern, name in _OTHER_ARCHITECTURES:
            if pattern.search(line):
                return f"the log is from {name}, but {kernel.label} is arm64"
    if splat.kernel and splat.kernel != kernel.release:
        return f"the log is from {splat.kernel}, but {kernel.label} is {kernel.release}"
    return ""


def _other_build(splat: Splat, symbols: Symbols) -> str:
    """Describe the first difference between a build ID in the log and the kernel's, "" if none."""
    logged = {
        frame.module: frame.build_id
        for chain in splat.chains
        for frame in chain.frames
        if frame.module and frame.build_id
    }
    found = next((match for line in splat.text if (match := _BUILD_ID.search(line))), None)
    if found:
        logged[VMLINUX] = found["id"]
    for module, build_id in build_ids(symbols, logged):
        if not build_id.startswith(logged[module]):
            what = f"module {module}" if module else "kernel"
            return (
                f"the log is from a {what} with build ID {logged[module]},"
                f" but the {what} of {symbols.kernel.label} has build ID {build_id}"
            )
    return ""


def _text(frame: Frame) -> str:
    return f"{frame.function}+{frame.offset or 0:#x}/{frame.size or 0:#x}"


def _exact(splat: Splat) -> frozenset[str]:
    """The frames that have the address of an instruction instead of a return address."""
    found = {match["frame"] for line in splat.text if (match := _MARKED.search(line))}
    if splat.pc:
        found.add(_text(splat.pc))
    return frozenset(found)


def _queries(chain: Chain, exact: frozenset[str]) -> Iterator[tuple[Frame, Query | None]]:
    above = ""
    for frame in chain.frames:
        interrupted = _VECTOR.fullmatch(above) is not None
        starts = frame.function in _UNWIND_STARTS and frame.offset == 0
        yield frame, _query(frame, interrupted or starts or _text(frame) in exact)
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


def _with_place(
    frame: Frame | None, query: Query | None, answers: dict[Query, Answer]
) -> Frame | None:
    """Return the frame of a register with its innermost source line."""
    if frame is None or query is None or not answers[query].places:
        return frame
    file, line = answers[query].places[0][1]
    return replace(frame, place=f"{file}:{line}")


def _reason(frame: Frame, query: Query | None, answers: dict[Query, Answer]) -> str:
    if frame.place:
        return ""
    return answers[query].reason if query else f"{frame.function} has no offset and size"


def _summary(reasons: list[str]) -> str:
    """Return the first reason, and the number of different other reasons."""
    different = list(dict.fromkeys(reasons))
    if not different:
        return ""
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    return different[0] + more


def text(splat: Splat) -> list[str]:
    """Return the lines of a symbolised splat in the format of scripts/decode_stacktrace.sh: with
    the source lines of the frames, and with additional lines for inlined functions."""
    places = _places(splat)
    return [each for own in splat.text for each in _decoded(own, places)]


_IN_TEXT = re.compile(r"(?<![\w$.])(?P<frame>[\w$.]+\+0x[0-9a-f]+/0x[0-9a-f]+)")


def _places(splat: Splat) -> dict[str, list[Frame]]:
    """For each frame as the kernel prints it: the functions inlined there, innermost first, and
    then the frame itself, each with its source line."""
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


def grouped(splats: Sequence[Splat]) -> list[list[Splat]]:
    """Group splats with the same title and call traces."""
    found: dict[tuple[str, ...], list[Splat]] = {}
    for each in splats:
        found.setdefault((each.title, *lines(each)), []).append(each)
    return list(found.values())


def lines(splat: Splat) -> Iterator[str]:
    """Yield the call traces as the kernel prints them, with the source line of each frame."""
    for chain in splat.chains:
        yield f"{chain.name}:"
        for frame in chain.frames:
            yield f"  {line(frame)}"


def line(frame: Frame) -> str:
    """Format a frame: ``function+0x54/0x80 [module] (file:line)``."""
    guess = "" if frame.reliable else "? "
    offset = f"+{frame.offset:#x}" if frame.offset is not None else ""
    size = f"/{frame.size:#x}" if frame.size is not None else ""
    module = f" [{frame.module}]" if frame.module else ""
    place = f" ({frame.place})" if frame.place else ""
    inline = " [inline]" if frame.inline else ""
    return f"{guess}{frame.function}{offset}{size}{module}{place}{inline}"
