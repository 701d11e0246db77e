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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import GuestLost, UsageError
from harness.guest import guest
from harness.guest.guest import Guest, OnRecord, Past
from harness.host import cache, progress
from harness.kernel.artifact import Kernel
from harness.klog.record import Record
from harness.machine import qemu
from harness.machine.device import Device
from harness.machine.qemu import ANONYMOUS, Boot, Memory
from harness.machine.topology import IOMMUS, Machine

# Part of the key: raise it when the steps below make something else.
_RECIPE = "1"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A guest at one moment, in the files of ``directory``: the state of its devices in
    ``state``, its memory in ``ram`` or else in the state too. ``clock`` is the guest's
    then; ``limit`` the seconds that a command of it may be silent."""

    directory: Path
    boot: Boot
    past: Past
    clock: float
    limit: float

    @property
    def memory(self) -> Memory:
        file = self.directory / "ram"
        return Memory(file) if file.exists() else ANONYMOUS


def save(running: Guest, directory: Path) -> Snapshot:
    """The guest as it is, into a new ``directory``; it goes on afterwards. Raises
    HostError for a guest with a device that QEMU cannot save."""
    directory.mkdir(parents=True)
    taken = _write(running, directory)
    running.monitor.resume()
    return taken


def _write(running: Guest, directory: Path) -> Snapshot:
    machine = running.machine
    if not machine.migratable:
        raise UsageError(
            f"a guest on {machine.name} cannot be saved", "QEMU cannot migrate all of its devices"
        )
    clock, past = running.clock(), running.past()
    running.monitor.save(directory / "state")
    (directory / "console.log").write_bytes(past.console)
    record = {
        "boot": asdict(running.boot),
        "records": [asdict(each) for each in past.records],
        "counted": past.counted,
        "clock": clock,
        "limit": running.limit,
    }
    (directory / "snapshot.json").write_text(json.dumps(record, default=str))
    return Snapshot(directory, running.boot, past, clock, running.limit)


def load(directory: Path) -> Snapshot:
    """A snapshot that was saved there. Raises UsageError for a directory without one."""
    try:
        record = json.loads((directory / "snapshot.json").read_text())
        console = (directory / "console.log").read_bytes()
        records = tuple(Record(**each) for each in record["records"])
        past = Past(console, records, record["counted"])
        boot = _boot(record["boot"])
        return Snapshot(directory, boot, past, record["clock"], record["limit"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{directory} has no snapshot of a guest: {error}") from None


def _boot(record: dict[str, Any]) -> Boot:
    paths = {name: record[name] and Path(record[name]) for name in ("image", "initrd", "dtb")}
    return Boot(_machine(record["machine"]), arguments=record["arguments"], **paths)


def _machine(record: dict[str, Any]) -> Machine:
    driver = record["iommu"]["driver"]
    (iommu,) = (each for each in IOMMUS.values() if each.driver == driver)
    return Machine(
        **record
        | {
            "iommu": iommu,
            "devices": tuple(_device(each) for each in record["devices"]),
            "overlays": tuple(record["overlays"]),
        }
    )


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
        snapshot.boot, directory, memory=snapshot.memory, on_record=on_record, past=snapshot.past
    ) as (running, console):
        running.monitor.load(snapshot.directory / "state")
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
    counted = running.past().counted
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

    return load(cache.entry("snapshot", key, f"the warm guest of {kernel.label}", make))


def _warm_up(running: Guest, commands: Sequence[str]) -> None:
    for command in commands:
        reply = running.run(command)
        if (reply.how, reply.number) != ("status", 0):
            said = reply.err.decode(errors="replace").strip()
            raise UsageError(f"the warm-up command {command!r} fails: {said}")


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
    if not machine.migratable:
        with guest.booted(
            kernel,
            machine,
            directory,
            arguments=arguments,
            kmod=kmod,
            limit=limit,
            on_record=on_record,
        ) as running:
            _warm_up(running, warm_up)
            yield running
        return
    taken = warm(kernel, machine, warm_up, arguments=arguments, kmod=kmod, directory=directory)
    with restored(taken, directory, limit=limit, on_record=on_record) as running:
        yield running
