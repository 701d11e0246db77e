# SPDX-License-Identifier: GPL-2.0-only
"""Snapshots: guests that are saved once and can be restored any number of times.

A *warm* guest is booted once for a kernel, a machine and its warm-up commands. It is kept in the
cache, with its memory in a separate file. Every guest restored from it maps that file privately,
and so costs only the memory that it changes. ``save`` saves a running guest, with its memory in
the same file as the state of its devices.

This uses migration with x-ignore-shared, which omits memory that QEMU shares with a file
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

# Part of the cache key. Increment it when the code below changes what a snapshot contains.
_RECIPE = "3"

# The number of guests that may warm up at once. Each of them may fill its memory.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved guest, in the files of ``directory``.

    The file ``state`` contains the state of the devices. The memory is in the file ``ram`` if that
    file exists, otherwise in ``state`` too. ``clock`` is the guest's clock when it was saved, in
    seconds since boot. ``limit`` is how many seconds a command may be silent."""

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
        """Stubs of the kernel and initramfs, with which QEMU is started.

        The guest's memory already contains both. QEMU would read the complete files, which is a
        third of the cost of restoring, and use them only at a reset, which ends the guest. Without
        any kernel QEMU provides no PSCI (arm_load_kernel in hw/arm/boot.c), which a guest needs
        to power off."""
        image, initrd = self.directory / "image", self.directory / "initrd"
        return replace(self.boot, image=image, initrd=initrd, dtb=None)


# The size of the part of a kernel that QEMU examines (load_aarch64_image in hw/arm/boot.c).
_HEADER = 4096


def save(guest: Guest, directory: Path) -> Snapshot:
    """Save the guest to a new ``directory``, which contains all that is needed to restore it, and
    resume the guest.

    On a machine with a single console, do not save a guest while its kernel logs: such a guest
    has been observed to hang (GuestHang). Raises UsageError after a hot-plug or unplug and if the
    directory exists, and Unmigratable if QEMU cannot save the guest's devices."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{directory} already exists", "choose a new directory") from None
    snapshot = _write(guest, directory)
    guest.resume()
    return snapshot


def _write(guest: Guest, directory: Path) -> Snapshot:
    """Save the guest and leave it stopped."""
    if guest.hotplugged:
        names = ", ".join(sorted(guest.hotplugged))
        raise UsageError(
            f"cannot save a guest after hot-plug or unplug of {names}",
            "save it before the hot-plug, or undo the hot-plug first",
        )
    if not guest.machine.migratable:
        raise Unmigratable(
            f"QEMU cannot save a guest on {guest.machine.name}: a device does not support"
            " migration",
            "use a machine without this device",
        )
    clock = guest.clock()
    saved = guest.save(directory / "state")
    snapshot = Snapshot(directory, guest.boot, saved, clock, guest.limit)
    with guest.boot.image.open("rb") as image:
        snapshot.stub.image.write_bytes(image.read(_HEADER))
    snapshot.stub.initrd.write_bytes(b"\0")
    (directory / "console.log").write_bytes(saved.console)
    machine = guest.machine
    record = {
        "machine": asdict(replace(machine, qemu="", qemu_label="")),
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
    """Read the snapshot that ``save`` wrote to ``directory``, to restore it with the QEMU
    ``program``. ``iommus`` are the IOMMUs that the guest's machine may have. Raises UsageError for
    a directory without a valid snapshot, and for a snapshot that was saved with a different QEMU
    or a different guest protocol.

    The record is not trusted: neither the program nor the names of files are read from it.
    """
    record = _record(directory)
    if record and record.get("protocol") != frames.PROTOCOL:
        raise UsageError(
            f"{directory} was saved by a version of iommu-harness with a different guest protocol",
            "restore it with that version, or save the guest again with this version",
        )
    try:
        machine = replace(_machine(record["machine"], iommus), qemu=program)
        boot = Boot(machine, directory / "image", directory / "initrd", None, record["arguments"])
        snapshot = _snapshot(directory, boot, record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"cannot read the snapshot in {directory}: snapshot.json is invalid",
            "save the guest again",
            repr(error),
        ) from None
    for file in (boot.image, boot.initrd):
        if not file.is_file():
            raise UsageError(
                f"the snapshot in {directory} is incomplete: {file.name} is missing",
                "save the guest again",
            )
    if record["qemu"] != qemu.version(program):
        raise UsageError(
            f"the snapshot in {directory} was saved with {record['qemu']}, but this command uses"
            f" {qemu.version(program)}",
            "use --qemu with the path of the QEMU that saved it",
        )
    return snapshot


def _record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / "snapshot.json").read_text())
    except FileNotFoundError:
        raise UsageError(
            f"{directory} has no snapshot", "give a directory to which a guest was saved"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot read the snapshot in {directory}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(
            f"cannot read the snapshot in {directory}: snapshot.json is not JSON: {error}",
            "save the guest again",
        ) from None
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
    """Restore a guest from the snapshot, and end it when the block ends. The guest's log includes
    what it logged before it was saved. Raises GuestError if the restored guest does not run."""
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
    """Raise GuestLost if the clock or the log of the restored guest does not continue."""
    first = guest.clock()
    if not snapshot.clock <= first < guest.clock():
        raise GuestLost(
            f"the guest was saved {snapshot.clock:.6f} s after boot, but its clock is {first:.6f} s"
        )
    counted = guest.counted()
    if counted < snapshot.saved.counted:
        raise GuestLost(
            f"the restored guest reports {counted} kernel-log records,"
            f" but the snapshot has {snapshot.saved.counted}"
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
    """Return the snapshot of a guest that has booted and run the ``warm_up`` commands.

    If the cache has no such snapshot for this kernel, machine and QEMU, a guest is booted and
    saved. Its logs are written to ``directory``, if that is given. Raises UsageError for a warm-up
    command that fails, Unmigratable for a machine that QEMU cannot save, and GuestError for a
    guest that does not boot."""
    boot = launch.boot_of(kernel, machine, arguments, kmod=kmod)
    return _warm(boot, kernel, warm_up, directory)


def _warm(boot: Boot, kernel: Kernel, warm_up: Sequence[str], directory: Path | None) -> Snapshot:
    # argv identifies the contents of the files: their paths are cache entries, which are named
    # after their contents.
    argv = [*qemu.board(boot.machine), *qemu.payload(boot), *qemu.channels(boot.machine)]
    key = cache.digest(_RECIPE, kernel.key, qemu.identity(boot.machine.qemu), *argv, "", *warm_up)

    def make(into: Path) -> None:
        # SIGBUS kills QEMU if the file cannot grow while QEMU writes to the memory.
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
    """Remove the warm guests of a kernel from the cache, unless another process uses them."""
    for path in cache.with_title("snapshot", _title(kernel)):
        cache.discard_unused(path)


def is_kept(kernel: Kernel) -> bool:
    """Whether the cache has a warm guest of the kernel."""
    return bool(cache.with_title("snapshot", _title(kernel)))


def _warm_up(guest: Guest, commands: Sequence[str]) -> None:
    for command in commands:
        result = guest.run(command)
        if result.status:
            raise UsageError(
                f"the warm-up command {command!r} fails with status {result.status}:"
                f" {result.err.strip()}"
            )


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
    """Start a guest that has run the ``warm_up`` commands, and end it when the block ends. The
    guest is restored from a warm guest, or booted if QEMU cannot save the machine."""
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
