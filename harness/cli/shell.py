# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness shell``: an interactive shell in a new or restored guest."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, cast

import typer

from harness.cli import options, output
from harness.cli.output import Line
from harness.errors import UsageError
from harness.guest import snapshot
from harness.guest.guest import Guest, Step
from harness.guest.state import changes
from harness.host import progress
from harness.iommu import drivers, machine_file, machines
from harness.kernel import build
from harness.kernel.spec import DEFAULT_KERNEL
from harness.machine import qemus, topology

_PROMPT = "guest# "


def shell(
    state: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The directory of a saved guest, for example of a failed test."
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel",
            metavar="SPEC",
            show_default=DEFAULT_KERNEL,
            help=f"The kernel: {options.SPEC}.",
        ),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(metavar="MACHINE", show_default=machines.DEFAULT, help=f"{options.MACHINE}."),
    ] = None,
    variant: options.Variants = [],  # noqa: B006  typer copies it
    limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How long a command may print nothing before it counts as a hang.",
        ),
    ] = 600,
    qemu: options.Qemu = topology.QEMU,
    debian_mirror: options.Mirror = "",
) -> None:
    """Run commands in a guest and print what each command changes.

    \b
      iommu-harness shell --kernel debian:6.12 --machine smmuv3+switch
      iommu-harness shell ~/.local/state/iommu-harness/runs/failed-test_x-1/state-at-failure

    After each command, its output, the kernel log and the changes in sysfs (modules, groups,
    drivers) are printed. exit or the end of the input ends the guest.
    """
    options.use_mirror(debian_mirror)
    with tempfile.TemporaryDirectory(prefix="iommu-harness-") as scratch:
        if state:
            if kernel or machine or variant:
                raise UsageError(
                    f"{state} already determines the kernel and the machine",
                    "drop --kernel, --machine and --variant",
                )
            saved = snapshot.load(state, drivers.IOMMUS.values(), qemus.program(qemu))
            with snapshot.restored(saved, Path(scratch), limit=limit) as running:
                _interact(running)
            return
        (spec,) = options.kernels(
            [kernel or DEFAULT_KERNEL], [], [], variant, llvm=False, debian_mirror=debian_mirror
        )
        described = machine_file.machine(machine or machines.DEFAULT, qemu)
        built = build.build(spec.with_variants(described.variants))
        with snapshot.started(built, described, Path(scratch), limit=limit) as running:
            _interact(running)


def _interact(running: Guest) -> None:
    progress.note(
        f"shell on {running.machine.name}; press ^C once to interrupt the program, twice for a new"
        " shell, three times to end the guest; exit or ^D also ends the guest"
    )
    for line in _input_lines():
        if line.strip() in ("exit", "logout"):
            return
        try:
            with _interruptible(running):
                step = running.step(line)
            output.show(_lines(step))
        except UsageError as error:  # a line that no shell accepts
            output.show([("red", str(error))])


@contextlib.contextmanager
def _interruptible(running: Guest) -> Iterator[None]:
    """Forward ^C to the guest while the block runs. The first ^C interrupts the program that the
    guest runs, the second kills the guest's shell, which is replaced, and the third ends the
    harness."""
    signals = [signal.SIGINT, signal.SIGKILL]

    def forward(_number: int, _frame: object) -> None:
        running.interrupt(signals.pop(0))
        if not signals:
            signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _input_lines() -> Iterator[str]:
    """Yield the lines of standard input. A terminal has a prompt and a line history."""
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


def _lines(step: Step) -> Iterator[Line]:
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
