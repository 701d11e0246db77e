# SPDX-License-Identifier: GPL-2.0-only
"""Rules that every guest must satisfy, at any time and after all its devices are removed.

A scenario checks its own rule. The audit checks these rules after each scenario, and so finds a
reference that leaks on a path that no scenario covers.
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
    """Check the state of a guest on the machine.

    sysfs must not contradict itself. The IOMMU driver must have one reference for each device
    with a group (iommu_init_device gets it, iommu_deinit_device puts it). Each group must have a
    default domain, which is attached again when an owner releases the group's DMA."""
    return [
        *(Finding("sysfs", each.name, each.rule, each.text) for each in contradictions(state)),
        *_refcount(machine, state),
        *_default_domains(state),
    ]


def _refcount(machine: Machine, state: State) -> Iterator[Finding]:
    driver = machine.iommu.driver
    count, grouped = state.refcount_if_loaded(driver), state.grouped
    if count is None and grouped:
        text = f"{driver} is not loaded, but devices have a group: {_list(grouped)}"
        yield Finding("refcount", driver, "unloaded", text)
    elif count is not None and count != len(grouped):
        text = (
            f"{driver} has refcount {count}, but the number of devices with a group is"
            f" {len(grouped)}: {_list(grouped)}"
        )
        yield Finding("refcount", driver, str(count), text)


def _default_domains(state: State) -> Iterator[Finding]:
    for number, group in state.groups.items():
        if group.type == NO_DEFAULT_DOMAIN:
            devices = _list(list(group.devices))
            text = f"group {number} ({devices}) has no default domain"
            yield Finding("default-domain", devices, "none", text)


def untranslated(state: State) -> list[Finding]:
    """Find bound devices that are not behind the IOMMU that firmware describes."""
    return [
        Finding("translated", name, "no", f"{name} is bound untranslated")
        for name in state.untranslated
    ]


# The messages of arm_smmu_handle_event, or its counterpart in other versions, and of
# viommu_fault_handler.
_FAULT = re.compile(
    r"(arm-smmu-v3|virtio_iommu) \S+: (?:event 0x[0-9a-f]+ received|.*fault from EP)"
)


def faults(log: Sequence[Record]) -> list[Finding]:
    """Find the first DMA fault that an IOMMU driver has logged, which means that a device accessed
    memory that was not mapped."""
    blocked = [(match[1], each.text) for each in log if (match := _FAULT.match(each.text))]
    return [Finding("dma-fault", driver, text=text) for driver, text in blocked[:1]]


# The lines that follow the first line of a fault (arm_smmu_dump_raw_event, arm_smmu_dump_event).
_FAULT_DETAIL = re.compile(r"arm-smmu-v3 \S+: (?:\t0x[0-9a-f]{16}$|event: |(?:un)?priv )")

# The prefixes of messages of IOMMU drivers and of the IOMMU core (dev_err, pr_fmt).
_DRIVERS = re.compile(r"(arm-smmu-v3|virtio_iommu|iommu|vfio-pci|vfio|iommufd)\b[ :]")
_ERROR = 3  # KERN_ERR


def errors(log: Sequence[Record], expected: Sequence[str]) -> list[Finding]:
    """Find messages that IOMMU drivers and the IOMMU core logged at KERN_ERR or above, without
    duplicates. DMA faults and messages that match one of the ``expected`` patterns do not count."""
    texts = dict.fromkeys(each.text for each in log if each.level <= _ERROR)
    return [
        Finding("driver-error", match[1], text=text)
        for text in texts
        if (match := _DRIVERS.match(text))
        and not _FAULT.match(text)
        and not _FAULT_DETAIL.match(text)
        and not any(re.search(pattern, text) for pattern in expected)
    ]


# The status of a command that SIGSEGV or SIGKILL killed, which is how an oops kills one (die,
# arm64_force_sig_fault).
_BY_OOPS = {128 + signal.SIGKILL, 128 + signal.SIGSEGV}


def require_survival(step: Step) -> None:
    """Raise RuleViolation if a signal killed the step's shell or its last command, which is also
    how an oops ends them."""
    killed = step.killed or step.status in _BY_OOPS
    finding.require(not killed, finding.KILLED, step.command)


def require_success(user: Step) -> None:
    """Raise RuleViolation if the step, a user of VFIO or iommufd, failed. The last line of its
    stderr, usually "IOCTL: ERRNO", has the subject and the value of the finding."""
    name, _, error = (user.err.splitlines() or [""])[-1].rpartition(": ")
    finding.require(user.status == 0, "user-call", name, error)


def leaks(state: State) -> list[Finding]:
    """Find groups and IOMMUs that still exist after the IOMMU driver was unloaded."""
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
    """Remove all devices of the guest, unload the IOMMU driver, and find leaks. ``state`` is the
    guest's current state. The drivers of the devices stay loaded."""
    driver = guest.machine.iommu.driver
    if driver not in state.modules:
        return []
    clients.remove_all(guest, state)
    unloaded = guest.run(f"rmmod {driver}")
    bare = guest.state()
    count = bare.refcount_if_loaded(driver)
    if count is None:
        return leaks(bare)
    text = f"{driver} has refcount {count} after all devices were removed: {unloaded.err.strip()}"
    return [Finding("refcount-leak", driver, str(count), text)]


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"


def owned_groups(guest: Guest, *names: str) -> list[Finding]:
    """Find devices in groups whose DMA has an owner, so that it cannot be claimed
    (iommu_group_claim_dma_owner, which the guest module dma_owner calls). A claim that succeeds is
    released."""
    errors = {name: _claim_error(guest, name) for name in names}
    return [
        Finding("owner", name, error, f"the group of {name} has an owner: {error}")
        for name, error in errors.items()
        if error
    ]


def _claim_error(guest: Guest, name: str) -> str:
    claim = modules.load(guest, "dma_owner", check=False, device=name)
    if claim.status != 0:
        return claim.err.strip()
    return modules.unload(guest, "dma_owner", check=False).err.strip()
