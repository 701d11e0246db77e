# SPDX-License-Identifier: GPL-2.0-only
"""What has to hold of any guest at any time, and when everything is given back.

A scenario asserts its own rule; these are everybody's, so that a reference that leaks
on a path nobody thought of is seen by whichever scenario goes that way.
"""

import re
import signal
from collections.abc import Iterator, Sequence

from harness.guest import modules
from harness.guest.guest import Guest, Step
from harness.guest.state import State
from harness.iommu import clients, finding
from harness.iommu.finding import Finding
from harness.iommu.groups import NO_DEFAULT_DOMAIN, contradictions
from harness.klog.record import Record
from harness.machine.topology import Machine


def findings(machine: Machine, state: State) -> list[Finding]:
    """What is wrong with the state of a guest on that machine: sysfs that contradicts
    itself, a reference count that is not one for each device with a group
    (iommu_init_device takes it, iommu_deinit_device puts it), and a group without a default
    domain, to which an owner of its DMA could not return it."""
    return [
        *(Finding("sysfs", each.name, each.rule, each.text) for each in contradictions(state)),
        *_refcount(machine, state),
        *_default_domains(state),
    ]


def _refcount(machine: Machine, state: State) -> Iterator[Finding]:
    driver = machine.iommu.driver
    count, grouped = state.refcount_if_loaded(driver), state.grouped
    if count is None and grouped:
        text = f"{driver} is not loaded, and {_list(grouped)} still in a group"
        yield Finding("refcount", driver, "unloaded", text)
    elif count is not None and count != len(grouped):
        text = f"{driver} has refcount {count}, with {len(grouped)} in a group: {_list(grouped)}"
        yield Finding("refcount", driver, str(count), text)


def _default_domains(state: State) -> Iterator[Finding]:
    for number, group in state.groups.items():
        if group.type == NO_DEFAULT_DOMAIN:
            devices = _list(list(group.devices))
            text = f"group {number} of {devices} has no default domain"
            yield Finding("default-domain", devices, "none", text)


def untranslated(state: State) -> list[Finding]:
    """Devices that are bound without the IOMMU that firmware gives them."""
    return [
        Finding("translated", name, "no", f"{name} is bound past its IOMMU")
        for name in state.untranslated
    ]


# arm_smmu_handle_event and its like of other versions; viommu_fault_handler.
_FAULT = re.compile(
    r"(arm-smmu-v3|virtio_iommu) \S+: (?:event 0x[0-9a-f]+ received|.*fault from EP)"
)


def faults(log: Sequence[Record]) -> list[Finding]:
    """The first DMA that the IOMMU has stopped, of those that its driver logs: a device
    went on with what was given back."""
    stopped = [(match[1], each.text) for each in log if (match := _FAULT.match(each.text))]
    return [Finding("dma-fault", driver, text=text) for driver, text in stopped[:1]]


# The lines below a fault's first one (arm_smmu_dump_raw_event, arm_smmu_dump_event).
_FAULT_DETAIL = re.compile(r"arm-smmu-v3 \S+: (?:\t0x[0-9a-f]{16}$|event: |(?:un)?priv )")

# How the messages of IOMMUs' drivers and of their core begin (dev_err, pr_fmt).
_DRIVERS = re.compile(r"(arm-smmu-v3|virtio_iommu|iommu|vfio-pci|vfio|iommufd)\b[ :]")
_ERROR = 3  # KERN_ERR


def errors(log: Sequence[Record], expected: Sequence[str]) -> list[Finding]:
    """What IOMMUs' drivers and their core log as an error or worse, each message once, but
    for DMA faults and where one of the ``expected`` patterns is found."""
    texts = dict.fromkeys(each.text for each in log if each.level <= _ERROR)
    return [
        Finding("driver-error", match[1], text=text)
        for text in texts
        if (match := _DRIVERS.match(text))
        and not _FAULT.match(text)
        and not _FAULT_DETAIL.match(text)
        and not any(re.search(pattern, text) for pattern in expected)
    ]


# What a shell says of a command that SIGSEGV or SIGKILL has ended (die, arm64_force_sig_fault).
_BY_OOPS = {128 + signal.SIGKILL, 128 + signal.SIGSEGV}


def require_survival(step: Step) -> None:
    """Raises RuleViolation where a signal has ended the step's shell, or its last command: an oops
    does that."""
    killed = step.killed or step.status in _BY_OOPS
    finding.require(not killed, finding.KILLED, step.command)


def require_success(user: Step) -> None:
    """Raises RuleViolation where a user of VFIO or iommufd is refused: its last words are
    "IOCTL: ERRNO", or what was wrong."""
    name, _, error = (user.err.splitlines() or [""])[-1].rpartition(": ")
    finding.require(user.status == 0, "user-call", name, error)


def leaks(state: State) -> list[Finding]:
    """What is there of groups and IOMMUs without a driver of theirs."""
    groups = (
        Finding("group-leak", _list(list(group.devices)), text=f"group {number} leaked")
        for number, group in state.groups.items()
    )
    return [
        *groups,
        *(
            Finding("iommu-leak", name, text=f"IOMMU {name} is still registered")
            for name in state.iommus
        ),
    ]


def teardown(guest: Guest, state: State) -> list[Finding]:
    """Takes away all devices of the guest, which shows ``state``, their drivers still
    loaded, and unloads the IOMMU's; what is wrong then."""
    driver = guest.machine.iommu.driver
    if driver not in state.modules:
        return []
    clients.remove_all(guest, state)
    unloaded = guest.run(f"rmmod {driver}")
    bare = guest.state()
    count = bare.refcount_if_loaded(driver)
    if count is None:
        return leaks(bare)
    said = unloaded.err.strip()
    text = f"with no device left {driver} has refcount {count}: {said}"
    return [Finding("refcount-leak", driver, str(count), text)]


def _list(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


def owned_groups(guest: Guest, *names: str) -> list[Finding]:
    """Which of the devices' groups still have an owner of their DMA, and what a claim is refused
    with (iommu_group_claim_dma_owner, by the guest module dma_owner); one that is granted
    is given back."""
    refused = {name: _claim_refused(guest, name) for name in names}
    return [
        Finding("owner", name, why, f"the group of {name} has an owner: {why}")
        for name, why in refused.items()
        if why
    ]


def _claim_refused(guest: Guest, name: str) -> str:
    claim = modules.load(guest, "dma_owner", check=False, device=name)
    if claim.status != 0:
        return claim.err.strip()
    return modules.unload(guest, "dma_owner", check=False).err.strip()
