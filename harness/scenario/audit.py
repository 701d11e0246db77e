# SPDX-License-Identifier: GPL-2.0-only
"""What has to hold of any guest at any time, and when everything is given back.

A scenario asserts its own rule; these are everybody's, so that a reference that leaks
on a path nobody thought of is seen by whichever scenario goes that way.
"""

import re
from collections.abc import Iterator, Sequence

from harness.guest import clients, modules
from harness.guest.guest import Guest
from harness.guest.state import NO_DEFAULT_DOMAIN, State, contradictions
from harness.klog.record import Record
from harness.machine.topology import Machine


def findings(machine: Machine, state: State) -> list[str]:
    """What is wrong with the state of a guest on that machine: sysfs that contradicts
    itself, a reference count that is not one for each device with a group
    (iommu_init_device takes it, iommu_deinit_device puts it), and a group without a default
    domain, which nobody who owns its DMA could give it back to."""
    return [*contradictions(state), *_refcount(machine, state), *_default_domains(state)]


def _refcount(machine: Machine, state: State) -> Iterator[str]:
    driver = machine.iommu.driver
    count, grouped = state.refcount(driver), state.grouped
    if count is None and grouped:
        yield f"{driver} is not loaded, and {_list(grouped)} still in a group"
    elif count is not None and count != len(grouped):
        yield f"{driver} has refcount {count}, with {len(grouped)} in a group: {_list(grouped)}"


def _default_domains(state: State) -> Iterator[str]:
    for number, group in state.groups.items():
        if group.type == NO_DEFAULT_DOMAIN:
            yield f"group {number} of {_list(list(group.devices))} has no default domain"


# arm_smmu_handle_event and its like of other versions; viommu_fault_handler.
_FAULT = re.compile(
    r"arm-smmu-v3 \S+: event 0x[0-9a-f]+ received|virtio_iommu \S+: .*fault from EP"
)


def faults(log: Sequence[Record]) -> list[str]:
    """The first DMA that the IOMMU has stopped, of those that its driver tells of: somebody
    went on with what he had given back."""
    stopped = [entry.text for entry in log if _FAULT.match(entry.text)]
    return stopped[:1]


def give_back(guest: Guest, state: State) -> list[str]:
    """Takes away all devices of the guest, which shows ``state``, their drivers still
    loaded, and unloads the IOMMU's; what is wrong then."""
    driver = guest.machine.iommu.driver
    if driver not in state.modules:
        return []
    clients.remove_all(guest, state)
    unloaded = guest.run(f"rmmod {driver}")
    bare = guest.state()
    left = [
        f"with no device left there is group {number} of {_list(list(group.devices))}"
        for number, group in bare.groups.items()
    ]
    count = bare.refcount(driver)
    if count is not None:
        said = unloaded.err.decode(errors="replace").strip()
        left.append(f"with no device left {driver} has refcount {count}: {said}")
    elif bare.iommus:
        left.append(f"without {driver} there is IOMMU {_list(list(bare.iommus))}")
    return left


def _list(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


def owners(guest: Guest, *names: str) -> list[str]:
    """Which of the devices' groups somebody still has the DMA of, and what a claim is refused
    with (iommu_group_claim_dma_owner, by the guest module dma_owner); one that is granted
    is given back."""
    refused = {name: _claim_refused(guest, name) for name in names}
    return [f"somebody owns the group of {name}: {why}" for name, why in refused.items() if why]


def _claim_refused(guest: Guest, name: str) -> str:
    claim = modules.load(guest, "dma_owner", device=name)
    if claim.status != 0:
        return claim.err.strip()
    return modules.unload(guest, "dma_owner").err.strip()
