# SPDX-License-Identifier: GPL-2.0-only
"""Smoke-test a kernel on a machine: check that it boots, that the IOMMU driver loads, that a NIC
gets a group, and that the NIC's traffic is translated."""

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
class SmokeResult:
    """The result for one kernel on one machine.

    ``boot`` is the guest's clock at its first reply, in seconds. ``loaded`` is whether the IOMMU
    driver loaded. ``group`` is the NIC's group. ``translated`` is the number of the NIC's accesses
    that the IOMMU translated during a ping. ``reason`` is why the test failed."""

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


def smoke_test(spec: KernelSpec, kernel: Kernel, machine: Machine, directory: Path) -> SmokeResult:
    """Boot a guest, run all stages, and return the result. An error becomes the result's reason."""
    known = [SmokeResult(str(spec), machine.label)]
    try:
        with launch.booted(kernel, machine, directory) as guest:
            for result in _stages(known[0], kernel, guest):
                known.append(result)  # noqa: PERF402  keeps the stages before an error
    except HarnessError as error:
        return replace(known[-1], reason=str(error))
    return known[-1]


def _stages(result: SmokeResult, kernel: Kernel, guest: Guest) -> Iterator[SmokeResult]:
    """Yield the result after each stage."""
    result = replace(result, boot=guest.clock())
    yield result
    loading = modules.load(guest, guest.machine.iommu.driver, check=False)
    result = replace(result, loaded=loading.status == 0)
    if not result.loaded:
        yield replace(result, reason=loading.err.strip())
        return
    models = [each.model for each in guest.machine.devices if each.model in NIC_DRIVERS]
    if not models:
        yield replace(result, reason="the machine has no NIC")
        return
    driver = NIC_DRIVERS[models[0]]
    binding = modules.load(guest, driver, check=False)
    nic = next((each for each in binding.after.devices.values() if _has_nic(guest, each)), None)
    if nic is None:
        yield replace(result, reason=f"{driver} did not bind a NIC: {_last(binding.kmsg)}")
        return
    result = replace(result, group=nic.group)
    yield result
    ping = traffic.ping(guest, nic.name)
    result = replace(result, translated=ping.translated)
    found = splat.find([entry.text for entry in guest.kmsg()])
    splats = [each.title for each in found if each.severity != "notice"]
    if nic.group is None:
        result = replace(result, reason=_no_group(kernel, guest.machine, nic))
    elif not ping.answered:
        result = replace(result, reason=f"the gateway does not answer: {ping.text.strip()}")
    elif splats:
        result = replace(result, reason=splats[0])
    yield result


def _no_group(kernel: Kernel, machine: Machine, nic: Device) -> str:
    if machine.firmware == "acpi" and kernel.option("ACPI_VIOT") == "":
        return (
            f"{nic.name} has no group: without CONFIG_ACPI_VIOT (since 5.14) the kernel ignores"
            " the VIOT"
        )
    return f"{nic.name} is bound but has no group"


def _has_nic(guest: Guest, each: Device) -> bool:
    """Whether the device is a bound PCI device that has a network interface, possibly through its
    virtio device."""
    found = f"ls -d {_DEVICES}/{each.name}/net {_DEVICES}/{each.name}/virtio*/net"
    return each.bus == "pci" and bool(each.driver) and bool(guest.run(found).out)


def _last(records: Sequence[Record]) -> str:
    return records[-1].text if records else "the kernel logged nothing"
