# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness shell``: a guest to type into, fresh or in a state that was kept."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, cast

import typer

from harness.cli import options, output
from harness.errors import UsageError
from harness.guest import snapshot
from harness.guest.guest import Guest, Step
from harness.guest.state import changes
from harness.host import progress
from harness.iommu import drivers, machine_file
from harness.kernel import build
from harness.kernel.spec import DEFAULT_KERNEL
from harness.machine import topology

_PROMPT = "guest# "

DEFAULT_MACHINE = "smmuv3"


def shell(
    state: Annotated[
        Path | None, typer.Argument(help="The directory of a guest that was kept.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option("--kernel", metavar="SPEC", help=options.SPEC)
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="MACHINE, MACHINE+PRESET or a .toml file.")
    ] = None,
    variant: options.Variants = [],  # noqa: B006  typer copies it
    limit: Annotated[float, typer.Option(help="Seconds that a command may be silent.")] = 600,
    qemu: options.Qemu = topology.QEMU,
    debian_mirror: options.Mirror = "",
) -> None:
    """Type commands into a guest; see what they print, what the kernel says and what
    changes. The input's end ends the guest."""
    with tempfile.TemporaryDirectory(prefix="iommu-harness-") as scratch:
        if state:
            if kernel or machine or variant:
                raise UsageError(f"{state} has its own kernel and machine", "leave yours out")
            taken = snapshot.load(state, drivers.IOMMUS.values(), qemu)
            with snapshot.restored(taken, Path(scratch), limit=limit) as running:
                _converse(running)
            return
        (spec,) = options.kernels(
            [kernel or DEFAULT_KERNEL], [], [], variant, llvm=False, debian_mirror=debian_mirror
        )
        wanted = replace(machine_file.machine(machine or DEFAULT_MACHINE), qemu=qemu)
        built = build.build(spec.with_variants(wanted.variants))
        with snapshot.started(built, wanted, Path(scratch), limit=limit) as running:
            _converse(running)


def _converse(running: Guest) -> None:
    progress.say(
        f"a shell on {running.machine.name}; ^C ends a program, twice the guest's shell, three"
        " times the guest, as ^D and exit do"
    )
    for line in _typed():
        if line.strip() in ("exit", "logout"):
            return
        try:
            with _interruptible(running):
                step = running.step(line)
            output.say(_told(step))
        except UsageError as error:  # a line that no shell takes
            output.say([("red", str(error))])


@contextlib.contextmanager
def _interruptible(running: Guest) -> Iterator[None]:
    """The first ^C is for the program that the guest runs, the second for its shell, which
    is replaced, and the third for us."""
    signals = [signal.SIGINT, signal.SIGKILL]

    def hand_on(_number: int, _frame: object) -> None:
        running.interrupt(signals.pop(0))
        if not signals:
            signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _typed() -> Iterator[str]:
    """Lines until the end of the input; with a prompt and a history on a terminal."""
    if not sys.stdin.isatty():
        # A pipe may hold any bytes.
        cast(TextIOWrapper, sys.stdin).reconfigure(errors="surrogateescape")
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    import readline  # noqa: F401, PLC0415  input() edits lines with it

    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            print()
            return


def _told(step: Step) -> Iterator[tuple[str, str]]:
    for text in (step.out, step.err):
        if text:
            yield "", text.removesuffix("\n")
    for entry in step.kmsg:
        yield "dim", str(entry)
    for change in changes(step.before, step.after):
        yield "cyan", f"* {change}"
    if step.status:
        yield (
            "red",
            f"shell killed, status {step.status}" if step.killed else f"status {step.status}",
        )
