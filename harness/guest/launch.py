# SPDX-License-Identifier: GPL-2.0-only
"""Start QEMU for a guest, and boot a kernel in it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.errors import UsageError
from harness.guest.guest import NO_SAVED_LOG, Guest, OnRecord, SavedLog
from harness.kernel.artifact import Kernel
from harness.klog import record
from harness.machine import devicetree, process, qemu
from harness.machine.console import Console
from harness.machine.monitor import Monitor
from harness.machine.qemu import ANONYMOUS, Boot, Memory
from harness.machine.topology import Machine
from harness.machine.watcher import Watcher
from harness.rootfs import initramfs

# Seconds of silence after which a booting guest counts as dead. Slow hosts and sanitizers
# make a boot long, not silent.
_BOOT_SILENCE = 60.0

# How long a command may be silent: the duration of the guest's boot on this host times
# _LIMIT_BOOTS, but at least _LIMIT_FLOOR seconds.
_LIMIT_BOOTS = 40.0
_LIMIT_FLOOR = 20.0

# guest-scripts/shell/agent reads this argument from the kernel's command line.
_KMOD = "harness_modules=kmod"


def boot_of(kernel: Kernel, machine: Machine, arguments: str = "", *, kmod: bool = False) -> Boot:
    """Prepare the initramfs and the device tree for a guest of ``kernel`` on ``machine``, and
    return everything that the guest boots from. Raises UsageError for a machine that this QEMU
    cannot emulate or that the kernel does not support."""
    if not kernel.serial_ports:
        machine = replace(machine, single_console=True)
    if machine.firmware == "acpi" and not kernel.option("ACPI"):
        raise UsageError(
            f"{kernel.label} was built without CONFIG_ACPI, which {machine.name} requires",
            "build it with --variant acpi",
        )
    qemu.check(machine)
    extras = [*(["kmod"] if kmod else []), *(["dropbear", "dropbearkey"] if machine.ssh else [])]
    tools = _KMOD if kmod else ""
    return Boot(
        machine,
        kernel.image,
        initramfs.image(kernel, extras),
        devicetree.blob(machine) if machine.firmware == "devicetree" else None,
        f"{tools} {arguments}".strip(),
    )


@contextlib.contextmanager
def booted(
    kernel: Kernel,
    machine: Machine,
    directory: Path,
    *,
    arguments: str = "",
    kmod: bool = False,
    limit: float | None = None,
    on_record: OnRecord = lambda _: None,
) -> Iterator[Guest]:
    """Boot a guest of ``kernel`` on ``machine``, and end it when the block ends.

    The output of the consoles and of QEMU, and QEMU's command line, are logged to ``directory``
    as they appear. ``arguments`` are appended to the kernel's command line. ``kmod`` replaces
    busybox's modprobe and related tools by those of the kmod package. ``limit`` is how many
    seconds a command may be silent; the default depends on the duration of this boot.
    """
    boot = boot_of(kernel, machine, arguments, kmod=kmod)
    with booted_from(boot, directory, limit=limit, on_record=on_record) as guest:
        yield guest


@contextlib.contextmanager
def booted_from(
    boot: Boot,
    directory: Path,
    *,
    limit: float | None = None,
    memory: Memory = ANONYMOUS,
    on_record: OnRecord = lambda _: None,
) -> Iterator[Guest]:
    """Boot a guest from ``boot``, with its RAM in ``memory``, and end it when the block ends.
    ``limit`` is as for ``booted``."""
    started = time.monotonic()
    with launched(boot, directory, memory=memory, on_record=on_record) as (guest, console):
        console.wait_ready(_BOOT_SILENCE)
        took = time.monotonic() - started
        console.limit = limit or max(_LIMIT_FLOOR, _LIMIT_BOOTS * took)
        yield guest


@contextlib.contextmanager
def launched(
    boot: Boot,
    directory: Path,
    *,
    memory: Memory,
    on_record: OnRecord,
    saved: SavedLog = NO_SAVED_LOG,
    stub: Boot | None = None,
) -> Iterator[tuple[Guest, Console]]:
    """Start QEMU for ``boot``, read all its channels, and end QEMU when the block ends.

    This does not wait for the guest: the caller must check that it answers. With a ``saved`` log,
    QEMU waits for the state of a saved guest to load. If ``stub`` is given, QEMU loads the files
    of ``stub`` instead of those of ``boot``."""
    machine = boot.machine
    argv = [*qemu.board(machine), *qemu.memory(machine, memory), *qemu.payload(stub or boot)]
    argv += [*qemu.channels(machine), *(["-incoming", "defer"] if saved.records else [])]
    records = list(saved.records)
    for each in records:
        on_record(each)

    def add_record(data: bytes) -> None:
        parsed = record.parse(data)
        if parsed:
            records.append(parsed)
            on_record(parsed)

    with contextlib.ExitStack() as stack:
        names = qemu.chardevs(machine)
        started = stack.enter_context(process.started(argv, names, directory / "qemu.log"))
        monitor = Monitor(started.sockets["qmp"])
        log = directory / "console-kernel.log"
        log.write_bytes(saved.console)
        counted, rest = saved.counted, saved.rest
        watcher = Watcher(started.sockets, monitor, log, add_record, counted=counted, rest=rest)
        watcher.feed(saved.console)
        console = Console(started, watcher, directory / "console-command.log", _BOOT_SILENCE)
        stack.callback(console.close)
        watcher.start(on_death=console.wake)
        stack.callback(_end, started, watcher)
        qemu.check_stage(machine, monitor.execute)
        guest = Guest(
            boot=boot,
            qemu=started,
            console=console,
            watcher=watcher,
            monitor=monitor,
            records=records,
            directory=directory,
        )
        yield guest, console


def _end(started: process.Process, watcher: Watcher) -> None:
    """Kill QEMU, and wait for the watcher's thread, which ends when QEMU's sockets close."""
    started.popen.kill()
    started.popen.wait()
    watcher.join()
