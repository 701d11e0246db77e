# SPDX-License-Identifier: GPL-2.0-only
"""Guests saved whole and started again from there, as often as wanted.

A *warm* guest is booted once for a kernel, a machine and what was run in it, with its
memory in a file, and kept in the cache. Every guest restored from it maps that file
privately: it costs the memory that it changes. A guest at any other moment is saved
with its memory in the state.

The recipe: migration with x-ignore-shared, which leaves memory out that QEMU shares
with a file (QEMU, migration/ram.c, ramblock_is_ignored).
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import GuestLost, Unmigratable, UsageError
from harness.guest import guest
from harness.guest.guest import Guest, OnRecord, SavedLog
from harness.host import cache, progress
from harness.kernel.artifact import Kernel
from harness.klog.record import Record
from harness.machine import frames, qemu, topology
from harness.machine.device import Device
from harness.machine.qemu import ANONYMOUS, Boot, Memory
from harness.machine.topology import Iommu, Machine

# Part of the key: raise it when the steps below make something else.
_RECIPE = "3"


# Each guest may fill its memory, and so many are warmed up at once.
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A guest at one moment, in the files of ``directory``: the state of its devices in
    ``state``, its memory in ``ram`` or else in the state too. ``clock`` is the guest's
    then; ``limit`` the seconds that a command of it may be silent."""

    directory: Path
    boot: Boot
    past: SavedLog
    clock: float
    limit: float

    @property
    def memory(self) -> Memory:
        file = self.directory / "ram"
        return Memory(file) if file.exists() else ANONYMOUS

    @property
    def stub(self) -> Boot:
        """What QEMU is started with: kernel and initramfs in name only. They are in the
        guest's memory, and QEMU would read them whole, which is a third of what a restored
        guest costs, for a reset that ends it. Without a kernel's name there would be no PSCI
        (arm_load_kernel in hw/arm/boot.c), by which a guest ends."""
        image, initrd = self.directory / "image", self.directory / "initrd"
        return replace(self.boot, image=image, initrd=initrd, dtb=None)


# As much of a kernel as QEMU looks at (load_aarch64_image in hw/arm/boot.c).
_HEADER = 4096


def save(running: Guest, directory: Path) -> Snapshot:
    """The guest as it is, into a new ``directory`` that needs nothing else to be restored
    from; it goes on afterwards. On a single console only a guest that is quiet can be
    relied on: one that logs meanwhile has been seen not to answer any more, then
    GuestHang. Raises UsageError for a guest that cannot be saved and for a directory that
    is there already."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{directory} is there already", "name a new directory") from None
    taken = _write(running, directory)
    running.resume()
    return taken


def _write(running: Guest, directory: Path) -> Snapshot:
    """Leaves the guest stopped."""
    if running.hotplugged:
        names = ", ".join(sorted(running.hotplugged))
        raise UsageError(
            f"a guest with devices plugged or pulled ({names}) cannot be saved",
            "save it before, or undo that",
        )
    if not running.machine.migratable:
        raise Unmigratable(f"a guest on {running.machine.name} cannot be saved by QEMU")
    clock = running.clock()
    past = running.save(directory / "state")
    taken = Snapshot(directory, running.boot, past, clock, running.limit)
    with running.boot.image.open("rb") as image:
        taken.stub.image.write_bytes(image.read(_HEADER))
    taken.stub.initrd.write_bytes(b"\0")
    (directory / "console.log").write_bytes(past.console)
    machine = running.machine
    record = {
        "machine": asdict(replace(machine, qemu="")),
        "qemu": qemu.version(machine.qemu),
        "protocol": frames.PROTOCOL,
        "arguments": running.boot.arguments,
        "records": [asdict(each) for each in past.records],
        "counted": past.counted,
        "rest": past.rest.hex(),
        "clock": clock,
        "limit": running.limit,
    }
    (directory / "snapshot.json").write_text(json.dumps(record))
    return taken


def load(directory: Path, iommus: Collection[Iommu], program: str = topology.QEMU) -> Snapshot:
    """A guest that ``save`` put there, behind one of the ``iommus``, for the QEMU
    ``program``. Raises UsageError for a
    directory without one, and for one that another QEMU or another version of this saved.

    The record may be a stranger's: it names no program and no file to be used.
    """
    record = _record(directory)
    if record and record.get("protocol") != frames.PROTOCOL:
        raise UsageError(
            f"{directory} was saved by a version that may have spoken otherwise with its guests",
            "open it with that version, or make it again with this",
        )
    try:
        machine = replace(_machine(record["machine"], iommus), qemu=program)
        boot = Boot(machine, directory / "image", directory / "initrd", None, record["arguments"])
        taken = _snapshot(directory, boot, record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{directory} has no snapshot of a guest: {error!r}") from None
    for file in (boot.image, boot.initrd):
        if not file.is_file():
            raise UsageError(f"{directory} has no whole guest: {file.name} is missing")
    if record["qemu"] != qemu.version(program):
        raise UsageError(
            f"{directory} was saved by {record['qemu']}, and this is {qemu.version(program)}",
            "name that one with --qemu",
        )
    return taken


def _record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / "snapshot.json").read_text())
    except FileNotFoundError:
        raise UsageError(f"{directory} has no guest that was kept", "name its directory") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory} has no snapshot of a guest: {error}") from None
    return record if isinstance(record, dict) else {}


def _snapshot(directory: Path, boot: Boot, record: dict[str, Any]) -> Snapshot:
    console = directory / "console.log"
    past = SavedLog(
        console.read_bytes() if console.is_file() else b"",
        tuple(Record(**each) for each in record["records"]),
        int(record["counted"]),
        bytes.fromhex(record["rest"]),
    )
    return Snapshot(directory, boot, past, float(record["clock"]), float(record["limit"]))


def _machine(record: dict[str, Any], iommus: Collection[Iommu]) -> Machine:
    driver = record["iommu"]["driver"]
    (iommu,) = (each for each in iommus if each.driver == driver)
    devices = tuple(_device(each) for each in record["devices"])
    overlays = tuple(record["overlays"])
    return Machine(**record | {"iommu": iommu, "devices": devices, "overlays": overlays})


def _device(record: dict[str, Any]) -> Device:
    return Device(**record | {"properties": tuple(map(tuple, record["properties"]))})


@contextlib.contextmanager
def restored(
    snapshot: Snapshot,
    directory: Path,
    *,
    limit: float | None = None,
    on_record: OnRecord = lambda _: None,
) -> Iterator[Guest]:
    """A guest that goes on from the snapshot, ended on the way out; what it had said
    before is in its log. Raises GuestError for a snapshot that does not come to life."""
    with guest.running(
        snapshot.boot,
        directory,
        memory=snapshot.memory,
        on_record=on_record,
        past=snapshot.past,
        stub=snapshot.stub,
    ) as (running, console):
        running.load(snapshot.directory / "state", snapshot.past)
        console.limit = limit or snapshot.limit
        _check(running, snapshot)
        yield running


def _check(running: Guest, snapshot: Snapshot) -> None:
    """That it answers, that its time goes on from where it was, and its log too."""
    first = running.clock()
    if not snapshot.clock <= first < running.clock():
        raise GuestLost(
            f"the guest was saved {snapshot.clock:.6f} s after its boot, and now it is {first:.6f}"
        )
    counted = running.counted()
    if counted < snapshot.past.counted:
        raise GuestLost(
            f"the guest had logged {snapshot.past.counted} records, and now there are {counted}"
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
    """A guest that has booted and run the commands of ``warm_up``, from the cache when
    there is one of this kernel, machine and QEMU; its boot is logged in ``directory``,
    where one is given. Raises UsageError for a machine that cannot be saved, and for a
    command that fails; GuestError for a guest that does not boot."""
    boot = guest.boot_of(kernel, machine, arguments, kmod=kmod)
    # The paths in it are of the cache, and name contents.
    argv = [*qemu.board(boot.machine), *qemu.payload(boot), *qemu.channels(boot.machine)]
    key = cache.digest(_RECIPE, kernel.key, qemu.identity(machine.qemu), *argv, "", *warm_up)

    def make(into: Path) -> None:
        # A file that cannot grow under QEMU's memory ends it with SIGBUS.
        cache.make_room(_AT_ONCE * machine.memory / 1000, f"warming up {kernel.label}")
        title = f"warming up {kernel.label} on {machine.name}"
        with progress.phase("warm guest", title), cache.scratch() as scratch:
            memory = Memory(into / "ram", shared=True)
            with guest.booted(
                kernel,
                machine,
                directory or scratch,
                arguments=arguments,
                kmod=kmod,
                memory=memory,
            ) as running:
                _warm_up(running, warm_up)
                _write(running, into)

    entry = cache.entry("snapshot", key, _title(kernel), make)
    return _snapshot(entry, boot, _record(entry))


def _title(kernel: Kernel) -> str:
    return f"the warm guest of {kernel.label}, kernel {kernel.key}"


def forget(kernel: Kernel) -> None:
    """Removes the warm guests of a kernel that nobody will use again; those that another
    process has in use stay."""
    for path in cache.titled("snapshot", _title(kernel)):
        cache.release(path)


def is_kept(kernel: Kernel) -> bool:
    """Whether there is any warm guest of the kernel."""
    return bool(cache.titled("snapshot", _title(kernel)))


def _warm_up(running: Guest, commands: Sequence[str]) -> None:
    for command in commands:
        result = running.run(command)
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
    """A guest of its own, the fastest way: restored from a warm one, or booted where
    QEMU cannot save the machine."""
    with contextlib.ExitStack() as stack:
        try:
            if not machine.migratable:
                raise Unmigratable(f"a guest on {machine.name} cannot be saved by QEMU")
            taken = warm(
                kernel, machine, warm_up, arguments=arguments, kmod=kmod, directory=directory
            )
            going = restored(taken, directory, limit=limit, on_record=on_record)
            running = stack.enter_context(going)
        except Unmigratable:
            cold = guest.booted(
                kernel,
                machine,
                directory,
                arguments=arguments,
                kmod=kmod,
                limit=limit,
                on_record=on_record,
            )
            running = stack.enter_context(cold)
            _warm_up(running, warm_up)
        yield running
