# SPDX-License-Identifier: GPL-2.0-only
"""Snapshots: guests that are saved, and restored any number of times.

A *warm* guest is booted once for a kernel, a machine and its warm-up commands, with its
memory in a file, and kept in the cache. Every guest restored from it maps that file
privately, and costs only the memory that it changes. ``save`` saves a running guest, with
its memory in the state.

This uses migration with x-ignore-shared, which leaves out memory that QEMU shares with a file
(QEMU, migration/ram.c, ramblock_is_ignored).
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import GuestLost, Unmigratable, UsageError
from harness.guest import launch
from harness.guest.guest import Guest, OnRecord, SavedLog
from harness.host import cache, progress
from harness.kernel.artifact import Kernel
from harness.klog.record import Record
from harness.machine import frames, qemu, topology
from harness.machine.device import EmulatedDevice
from harness.machine.qemu import ANONYMOUS, Boot, Memory
from harness.machine.topology import Iommu, Machine

# Part of the key: increment it when the code below changes what a snapshot contains.
_RECIPE = "3"

# Each guest may fill its memory, and at most this many warm up at once.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved guest in the files of ``directory``: the state of its devices in ``state``, its
    memory in ``ram`` or else in ``state`` as well. ``clock`` is the guest's time when it was
    saved, in seconds since boot; ``limit`` is how many seconds a command may be silent."""

    directory: Path
    boot: Boot
    saved: SavedLog
    clock: float
    limit: float

    @property
    def memory(self) -> Memory:
        file = self.directory / "ram"
        return Memory(file) if file.exists() else ANONYMOUS

    @property
    def stub(self) -> Boot:
        """What QEMU is started with: stubs of the kernel and initramfs. Both are in the guest's
        memory already, and QEMU would read the files whole, a third of the cost of restoring,
        to use them only at a reset, which ends the guest. Without any kernel QEMU provides no
        PSCI (arm_load_kernel in hw/arm/boot.c), with which a guest powers off."""
        image, initrd = self.directory / "image", self.directory / "initrd"
        return replace(self.boot, image=image, initrd=initrd, dtb=None)


# The part of a kernel that QEMU examines (load_aarch64_image in hw/arm/boot.c).
_HEADER = 4096


def save(guest: Guest, directory: Path) -> Snapshot:
    """Save the guest into a new ``directory``, which suffices to restore it, and resume it.

    On a single console, save only a guest that does not log: one that logged meanwhile has
    been observed to stop answering, which raises GuestHang. Raises UsageError for a guest that
    cannot be saved, and for a directory that exists."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{directory} already exists", "name a new directory") from None
    snapshot = _write(guest, directory)
    guest.resume()
    return snapshot


def _write(guest: Guest, directory: Path) -> Snapshot:
    """Save the guest, and leave it stopped."""
    if guest.hotplugged:
        names = ", ".join(sorted(guest.hotplugged))
        raise UsageError(
            f"cannot save a guest after hot-plug or unplug of {names}",
            "save it before that, or undo it",
        )
    if not guest.machine.migratable:
        raise Unmigratable(f"QEMU cannot save a guest on {guest.machine.name}")
    clock = guest.clock()
    saved = guest.save(directory / "state")
    snapshot = Snapshot(directory, guest.boot, saved, clock, guest.limit)
    with guest.boot.image.open("rb") as image:
        snapshot.stub.image.write_bytes(image.read(_HEADER))
    snapshot.stub.initrd.write_bytes(b"\0")
    (directory / "console.log").write_bytes(saved.console)
    machine = guest.machine
    record = {
        "machine": asdict(replace(machine, qemu="")),
        "qemu": qemu.version(machine.qemu),
        "protocol": frames.PROTOCOL,
        "arguments": guest.boot.arguments,
        "records": [asdict(each) for each in saved.records],
        "counted": saved.counted,
        "rest": saved.rest.hex(),
        "clock": clock,
        "limit": guest.limit,
    }
    (directory / "snapshot.json").write_text(json.dumps(record))
    return snapshot


def load(directory: Path, iommus: Collection[Iommu], program: str = topology.QEMU) -> Snapshot:
    """Read the snapshot that ``save`` wrote to ``directory``, to be restored with the QEMU
    ``program``; the record's IOMMU is one of ``iommus``. Raises UsageError for a directory
    without a snapshot, and for one that another QEMU or version of iommu-harness saved.

    The record is not trusted: it names neither a program nor a file to use.
    """
    record = _record(directory)
    if record and record.get("protocol") != frames.PROTOCOL:
        raise UsageError(
            f"{directory} was saved by a version of iommu-harness with another guest protocol",
            "restore it with that version, or save it again with this one",
        )
    try:
        machine = replace(_machine(record["machine"], iommus), qemu=program)
        boot = Boot(machine, directory / "image", directory / "initrd", None, record["arguments"])
        snapshot = _snapshot(directory, boot, record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"cannot read the snapshot in {directory}: {error!r}") from None
    for file in (boot.image, boot.initrd):
        if not file.is_file():
            raise UsageError(f"the snapshot in {directory} is incomplete: {file.name} is missing")
    if record["qemu"] != qemu.version(program):
        raise UsageError(
            f"{directory} was saved by {record['qemu']}, and this is {qemu.version(program)}",
            "name that QEMU with --qemu",
        )
    return snapshot


def _record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / "snapshot.json").read_text())
    except FileNotFoundError:
        raise UsageError(f"{directory} has no snapshot", "name a snapshot's directory") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the snapshot in {directory}: {error}") from None
    return record if isinstance(record, dict) else {}


def _snapshot(directory: Path, boot: Boot, record: dict[str, Any]) -> Snapshot:
    console = directory / "console.log"
    saved = SavedLog(
        console.read_bytes() if console.is_file() else b"",
        tuple(Record(**each) for each in record["records"]),
        int(record["counted"]),
        bytes.fromhex(record["rest"]),
    )
    return Snapshot(directory, boot, saved, float(record["clock"]), float(record["limit"]))


def _machine(record: dict[str, Any], iommus: Collection[Iommu]) -> Machine:
    driver = record["iommu"]["driver"]
    (iommu,) = (each for each in iommus if each.driver == driver)
    devices = tuple(_device(each) for each in record["devices"])
    overlays = tuple(record["overlays"])
    return Machine(**record | {"iommu": iommu, "devices": devices, "overlays": overlays})


def _device(record: dict[str, Any]) -> EmulatedDevice:
    return EmulatedDevice(**record | {"properties": tuple(map(tuple, record["properties"]))})


@contextlib.contextmanager
def restored(
    snapshot: Snapshot,
    directory: Path,
    *,
    limit: float | None = None,
    on_record: OnRecord = lambda _: None,
) -> Iterator[Guest]:
    """A guest restored from the snapshot, which ends with the context. Its log includes what it
    had logged before it was saved. Raises GuestError if it does not run."""
    with launch.launched(
        snapshot.boot,
        directory,
        memory=snapshot.memory,
        on_record=on_record,
        saved=snapshot.saved,
        stub=snapshot.stub,
    ) as (guest, console):
        guest.load(snapshot.directory / "state", snapshot.saved)
        console.limit = limit or snapshot.limit
        _check(guest, snapshot)
        yield guest


def _check(guest: Guest, snapshot: Snapshot) -> None:
    """Check that the guest answers, and that its clock and log continue. Raises GuestLost."""
    first = guest.clock()
    if not snapshot.clock <= first < guest.clock():
        raise GuestLost(
            f"the guest was saved {snapshot.clock:.6f} s after boot, and its clock is {first:.6f} s"
        )
    counted = guest.counted()
    if counted < snapshot.saved.counted:
        raise GuestLost(
            f"the restored guest reports {counted} kernel-log records;"
            f" the snapshot had {snapshot.saved.counted}"
        )


def warm(
    kernel: Kernel,
    machine: Machine,
    warm_up: Sequence[str] = (),
    *,
    arguments: str = "",
    kmod: bool = False,
    directory: Path | None = None,
) -> Snapshot:
    """The snapshot of a guest that has booted and run the ``warm_up`` commands. It comes from
    the cache if that has one for this kernel, machine and QEMU; otherwise the boot is logged to
    ``directory``, if given. Raises UsageError for a machine that cannot be saved and for a
    command that fails, GuestError for a guest that does not boot."""
    boot = launch.boot_of(kernel, machine, arguments, kmod=kmod)
    return _warm(boot, kernel, warm_up, directory)


def _warm(boot: Boot, kernel: Kernel, warm_up: Sequence[str], directory: Path | None) -> Snapshot:
    # Its paths are in the cache, and name contents.
    argv = [*qemu.board(boot.machine), *qemu.payload(boot), *qemu.channels(boot.machine)]
    key = cache.digest(_RECIPE, kernel.key, qemu.identity(boot.machine.qemu), *argv, "", *warm_up)

    def make(into: Path) -> None:
        # If the file cannot grow while QEMU writes memory, SIGBUS kills QEMU.
        cache.ensure_space(_AT_ONCE * boot.machine.memory / 1000, f"warming up {kernel.label}")
        title = f"warming up {kernel.label} on {boot.machine.name}"
        with progress.phase("warm guest", title), cache.scratch() as scratch:
            memory = Memory(into / "ram", shared=True)
            with launch.booted_from(boot, directory or scratch, memory=memory) as guest:
                _warm_up(guest, warm_up)
                _write(guest, into)

    entry = cache.entry("snapshot", key, _title(kernel), make)
    return _snapshot(entry, boot, _record(entry))


def _title(kernel: Kernel) -> str:
    return f"the warm guest of {kernel.label}, kernel {kernel.key}"


def forget(kernel: Kernel) -> None:
    """Remove the warm guests of a kernel from the cache, except those that another process
    uses."""
    for path in cache.with_title("snapshot", _title(kernel)):
        cache.discard_unused(path)


def is_kept(kernel: Kernel) -> bool:
    """Whether the cache has a warm guest of the kernel."""
    return bool(cache.with_title("snapshot", _title(kernel)))


def _warm_up(guest: Guest, commands: Sequence[str]) -> None:
    for command in commands:
        result = guest.run(command)
        if result.status:
            raise UsageError(f"the warm-up command {command!r} fails: {result.err.strip()}")


@contextlib.contextmanager
def started(
    kernel: Kernel,
    machine: Machine,
    directory: Path,
    warm_up: Sequence[str] = (),
    *,
    arguments: str = "",
    kmod: bool = False,
    limit: float | None = None,
    on_record: OnRecord = lambda _: None,
) -> Iterator[Guest]:
    """A guest that has run the ``warm_up`` commands, which ends with the context. It is restored
    from a warm guest, or booted if QEMU cannot save the machine."""
    boot = launch.boot_of(kernel, machine, arguments, kmod=kmod)
    with contextlib.ExitStack() as stack:
        try:
            if not machine.migratable:
                raise Unmigratable(f"QEMU cannot save a guest on {machine.name}")
            snapshot = _warm(boot, kernel, warm_up, directory)
            restoring = restored(snapshot, directory, limit=limit, on_record=on_record)
            guest = stack.enter_context(restoring)
        except Unmigratable:
            booting = launch.booted_from(boot, directory, limit=limit, on_record=on_record)
            guest = stack.enter_context(booting)
            _warm_up(guest, warm_up)
        yield guest
