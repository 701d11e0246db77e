# SPDX-License-Identifier: GPL-2.0-only
"""What a machine does with a kernel, from a real boot: does it come up, does the IOMMU's
driver load, does a NIC get a group, is the NIC's traffic translated?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import HarnessError
from harness.guest import launch, modules
from harness.guest.guest import Guest
from harness.guest.state import Device
from harness.iommu import traffic
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import splat
from harness.klog.record import Record
from harness.machine.device import NIC_DRIVERS
from harness.machine.topology import Machine

_DEVICES = "/sys/bus/pci/devices"


@dataclass(frozen=True, slots=True)
class Cell:
    """One kernel on one machine: seconds of ``boot`` to the first answer, whether the
    driver was ``loaded``, the NIC's ``group``, how many of its accesses were
    ``translated`` while it pinged; ``reason`` is why what is missing is missing."""

    kernel: str
    machine: str
    boot: float | None = None
    loaded: bool = False
    group: int | None = None
    translated: int = 0
    reason: str = ""

    @property
    def works(self) -> bool:
        return self.translated > 0 and not self.reason


def survey(spec: KernelSpec, kernel: Kernel, machine: Machine, directory: Path) -> Cell:
    """Boots a guest and looks; a guest that is lost on the way is a reason."""
    known = [Cell(str(spec), machine.name)]
    try:
        with launch.booted(kernel, machine, directory) as guest:
            for cell in _stages(known[0], kernel, guest):
                known.append(cell)  # noqa: PERF402  those before a failure too
    except HarnessError as error:
        return replace(known[-1], reason=str(error))
    return known[-1]


def _stages(cell: Cell, kernel: Kernel, guest: Guest) -> Iterator[Cell]:
    """The cell as far as it is known, after each stage."""
    cell = replace(cell, boot=guest.clock())
    yield cell
    loading = modules.load(guest, guest.machine.iommu.driver, check=False)
    cell = replace(cell, loaded=loading.status == 0)
    if not cell.loaded:
        yield replace(cell, reason=loading.err.strip())
        return
    models = [each.model for each in guest.machine.devices if each.model in NIC_DRIVERS]
    if not models:
        yield replace(cell, reason="it has no NIC to test with")
        return
    driver = NIC_DRIVERS[models[0]]
    binding = modules.load(guest, driver, check=False)
    nic = next((each for each in binding.after.devices.values() if _has_nic(guest, each)), None)
    if nic is None:
        yield replace(cell, reason=f"no {driver} is bound: {_last(binding.kmsg)}")
        return
    cell = replace(cell, group=nic.group)
    yield cell
    ping = traffic.ping(guest, nic.name)
    cell = replace(cell, translated=ping.translated)
    found = splat.find([entry.text for entry in guest.kmsg()])
    splats = [each.title for each in found if each.severity != "notice"]
    if nic.group is None:
        cell = replace(cell, reason=_no_group(kernel, guest.machine, nic))
    elif not ping.answered:
        cell = replace(cell, reason=f"the gateway does not answer: {ping.text.strip()}")
    elif splats:
        cell = replace(cell, reason=splats[0])
    yield cell


def _no_group(kernel: Kernel, machine: Machine, nic: Device) -> str:
    if machine.firmware == "acpi" and kernel.option("ACPI_VIOT") == "":
        return f"{nic.name} has no group: without CONFIG_ACPI_VIOT (5.14) nobody reads the VIOT"
    return f"{nic.name} is bound and has no group"


def _has_nic(guest: Guest, each: Device) -> bool:
    """Whether the PCI device, or the virtio device below it, has an interface."""
    found = f"ls -d {_DEVICES}/{each.name}/net {_DEVICES}/{each.name}/virtio*/net"
    return each.bus == "pci" and bool(each.driver) and bool(guest.run(found).out)


def _last(records: Sequence[Record]) -> str:
    return records[-1].text if records else "the kernel says nothing"
