# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness decode``: print the splats of a kernel log, with source files and lines."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from harness.cli import options, output
from harness.cli.output import Line
from harness.errors import UsageError
from harness.host import progress
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import log
from harness.klog.splat import Splat
from harness.symbols import symbolise
from harness.symbols.symbolise import Symbolised

_STDIN = "-"
_GZIP = b"\x1f\x8b"
_MEGABYTE = 1 << 20


def decode(
    log_file: Annotated[
        str,
        typer.Argument(
            metavar="LOG", help="A kernel log, plain or gzip-compressed; - is standard input."
        ),
    ] = _STDIN,
    kernel: Annotated[
        str,
        typer.Option(
            "--kernel", metavar="SPEC", help=f"The kernel that wrote the log: {options.SPEC}."
        ),
    ] = "",
    patch: options.Patches = [],  # noqa: B006  typer copies it
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    llvm: options.Llvm = False,
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Find the splats in a kernel log and print a summary of each.

    \b
      dmesg | iommu-harness decode
      iommu-harness decode console.log.gz --kernel tree:~/src/linux

    A splat is a kernel's report of a problem: an oops, a WARNING, a KASAN or lockdep report, a hung
    task. With --kernel, the functions in call traces are printed with their source files and lines.
    """
    with _Log(log_file) as source:
        built = None
        if kernel:
            (spec,) = options.kernels(
                [kernel], patch, fragment, variant, llvm=llvm, debian_mirror=debian_mirror
            )
            built = (build.build(spec), spec)
        elif patch or fragment or variant or llvm:
            raise UsageError(
                "--patch, --fragment, --variant and --llvm require --kernel", "add --kernel SPEC"
            )
        found = _symbolised(source, built)
        if as_json:
            records = [_record(each) for each in found]
            output.print_json({"splats": records, "lines": source.lines, "note": source.note})
            return
        counts = _Counts()
        for each in found:
            output.show(_lines(each, counts))
        output.show(_closing(source, counts))


class _Log:
    """A log that is being read.

    ``lines``: the number of lines read so far.
    ``note``: describes the damage of a damaged file.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == _STDIN else name
        self.lines = 0
        self.note = ""
        self.phase: progress.Phase | None = None
        self._read_so_far = 0
        self._last = b"\n"
        self._raw, self._size = _opened(name)
        self._file: BufferedReader | gzip.GzipFile = self._raw
        if self._raw.peek(2)[:2] == _GZIP:
            self._file = gzip.GzipFile(fileobj=self._raw)
            self._size = 0

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes. A damaged file ends at the damage."""
        try:
            data = self._file.read1(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self.note = f"{self.name} ends early: {error}"
            data = b""
        self._count(data)
        return data

    def _count(self, data: bytes) -> None:
        self.lines += data.count(b"\n") + (not data and self._last != b"\n")
        self._last = data[-1:] if data else b"\n"
        before, self._read_so_far = self._read_so_far, self._read_so_far + len(data)
        if self.phase:
            read = self._read_so_far // _MEGABYTE
            of = f" of {self._size // _MEGABYTE}" if self._size else ""
            self.phase.title = f"reading {self.name}, {read}{of} MB"
            for _ in range(read - before // _MEGABYTE):
                self.phase.step()

    def show_in(self, phase: progress.Phase) -> None:
        """Show in ``phase`` how much of the log has been read and, if its size is known, the
        time remaining."""
        self.phase = phase
        phase.expect(max(0, self._size - self._read_so_far) // _MEGABYTE)


def _opened(name: str) -> tuple[BufferedReader, int]:
    if name == _STDIN and sys.stdin is None:
        raise UsageError("cannot read standard input: it is closed", "give a log file")
    if name == _STDIN:
        return cast(BufferedReader, sys.stdin.buffer), 0
    try:
        if not name or not Path(name).exists():
            raise UsageError(
                f"cannot read {name!r}: no such file", "give a log file, or - for standard input"
            )
        if Path(name).is_dir():
            raise UsageError(f"cannot read {name}: is a directory", "give a file in it")
        return Path(name).open("rb"), Path(name).stat().st_size
    except OSError as error:
        raise UsageError(
            f"cannot read {name}: {error.strerror}", "check the permissions of the file"
        ) from error


def _symbolised(
    source: _Log, built: tuple[Kernel, KernelSpec] | None
) -> Iterator[tuple[Splat, Symbolised | None]]:
    """Yield each splat when it is found, symbolised if the kernel is given. Progress is shown
    only until the next splat is found, because the caller's output would overwrite the bar."""
    splats = log.splats(source)  # type: ignore[arg-type]
    while True:
        with progress.phase("decode", f"reading {source.name}") as phase:
            source.show_in(phase)
            splat = next(splats, None)
        if splat is None:
            return
        yield splat, symbolise.symbolised(splat, *built, wait=True) if built else None


class _Counts:
    """The numbers in the last line: splats, frames with a known source line, and all frames."""

    def __init__(self) -> None:
        self.splats = self.known = self.total = 0
        self.symbolised = False


def _lines(found: tuple[Splat, Symbolised | None], counts: _Counts) -> Iterator[Line]:
    splat, places = found
    counts.splats += 1
    if places:
        counts.symbolised = True
        counts.known += places.known
        counts.total += places.total
        splat = places.splat
    yield "bold", f"{splat.title}"
    for name, text in _facts(splat):
        if text:
            yield "", f"  {name:<9} {text}"
    for text in symbolise.lines(splat):
        yield "", f"  {text}"
    if places and places.reason:
        yield "yellow", f"  ?         {places.reason}"
    yield "", ""


def _facts(splat: Splat) -> Iterator[tuple[str, str]]:
    yield "kind", splat.kind
    yield "location", f"{splat.file}:{splat.line}" if splat.file else ""
    yield "function", f"{splat.function} from {splat.caller}" if splat.caller else splat.function
    yield "kernel", splat.kernel + (f", taint {splat.taint}" if splat.taint else "")
    yield "task", ", ".join(_task(splat))
    yield "pc", symbolise.line(splat.pc) if splat.pc else ""
    yield "lr", symbolise.line(splat.lr) if splat.lr else ""
    yield "panic", splat.panic
    marks = [("truncated", splat.cut), ("interleaved with another splat", splat.interleaved)]
    yield "lines", ", ".join([f"{splat.first} to {splat.last}", *(m for m, on in marks if on)])


def _task(splat: Splat) -> Iterator[str]:
    if splat.cpu is not None:
        yield f"CPU {splat.cpu}"
    if splat.pid is not None:
        yield f"PID {splat.pid}"
    if splat.comm:
        yield splat.comm


def _closing(source: _Log, counts: _Counts) -> Iterator[Line]:
    if source.note:
        yield "yellow", source.note
    many = "s" * (counts.splats != 1)
    found = f"{counts.splats or 'no'} splat{many if counts.splats else ''}"
    lines = f"{source.lines} line{'s' * (source.lines != 1)}"
    of_frames = f"{counts.known} of {counts.total} frames have a source line"
    places = f"; {of_frames}" if counts.symbolised else ""
    yield "bold", f"{found} in {lines} of {source.name}{places}"


def _record(found: tuple[Splat, Symbolised | None]) -> dict[str, Any]:
    """The splat as JSON, without its lines."""
    splat, places = found
    facts = asdict(places.splat if places else splat)
    del facts["text"]
    if places:
        facts |= {"known": places.known, "total": places.total, "reason": places.reason}
    return facts
