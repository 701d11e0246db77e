# SPDX-License-Identifier: GPL-2.0-only
"""Rules that every guest must satisfy at any time, and once all devices are removed.

A scenario asserts its own rule. The audit checks these rules after each scenario, and so finds
a reference leaked on a path that no scenario is written for.
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
    """What is wrong with the state of a guest on the machine: contradictions in sysfs, a
    reference count that is not one per device with a group (iommu_init_device gets it,
    iommu_deinit_device puts it), and a group without a default domain, which an owner of its
    DMA could not restore."""
    return [
        *(Finding("sysfs", each.name, each.rule, each.text) for each in contradictions(state)),
        *_refcount(machine, state),
        *_default_domains(state),
    ]


def _refcount(machine: Machine, state: State) -> Iterator[Finding]:
    driver = machine.iommu.driver
    count, grouped = state.refcount_if_loaded(driver), state.grouped
    if count is None and grouped:
        text = f"{driver} is not loaded, and devices are in a group: {_list(grouped)}"
        yield Finding("refcount", driver, "unloaded", text)
    elif count is not None and count != len(grouped):
        devices = f"{len(grouped)} devices are in a group: {_list(grouped)}"
        text = f"{driver} has refcount {count}, and {devices}"
        yield Finding("refcount", driver, str(count), text)


def _default_domains(state: State) -> Iterator[Finding]:
    for number, group in state.groups.items():
        if group.type == NO_DEFAULT_DOMAIN:
            devices = _list(list(group.devices))
            text = f"group {number} of {devices} has no default domain"
            yield Finding("default-domain", devices, "none", text)


def untranslated(state: State) -> list[Finding]:
    """The devices that are bound, but not behind the IOMMU that firmware describes."""
    return [
        Finding("translated", name, "no", f"{name} is bound untranslated")
        for name in state.untranslated
    ]


# arm_smmu_handle_event, or its counterpart in other versions, and viommu_fault_handler.
_FAULT = re.compile(
    r"(arm-smmu-v3|virtio_iommu) \S+: (?:event 0x[0-9a-f]+ received|.*fault from EP)"
)


def faults(log: Sequence[Record]) -> list[Finding]:
    """The first DMA fault that an IOMMU's driver has logged: a device used memory that was
    unmapped."""
    blocked = [(match[1], each.text) for each in log if (match := _FAULT.match(each.text))]
    return [Finding("dma-fault", driver, text=text) for driver, text in blocked[:1]]


# The lines that follow the first one of a fault (arm_smmu_dump_raw_event, arm_smmu_dump_event).
_FAULT_DETAIL = re.compile(r"arm-smmu-v3 \S+: (?:\t0x[0-9a-f]{16}$|event: |(?:un)?priv )")

# The prefixes of messages of IOMMU drivers and of the IOMMU core (dev_err, pr_fmt).
_DRIVERS = re.compile(r"(arm-smmu-v3|virtio_iommu|iommu|vfio-pci|vfio|iommufd)\b[ :]")
_ERROR = 3  # KERN_ERR


def errors(log: Sequence[Record], expected: Sequence[str]) -> list[Finding]:
    """The messages that IOMMU drivers and the IOMMU core logged at KERN_ERR or above, without
    repetitions, DMA faults and messages that match one of the ``expected`` patterns."""
    texts = dict.fromkeys(each.text for each in log if each.level <= _ERROR)
    return [
        Finding("driver-error", match[1], text=text)
        for text in texts
        if (match := _DRIVERS.match(text))
        and not _FAULT.match(text)
        and not _FAULT_DETAIL.match(text)
        and not any(re.search(pattern, text) for pattern in expected)
    ]


# The status of a command that SIGSEGV or SIGKILL has killed, as an oops does (die,
# arm64_force_sig_fault).
_BY_OOPS = {128 + signal.SIGKILL, 128 + signal.SIGSEGV}


def require_survival(step: Step) -> None:
    """Raises RuleViolation if a signal killed the step's shell or its last command, as an oops
    does."""
    killed = step.killed or step.status in _BY_OOPS
    finding.require(not killed, finding.KILLED, step.command)


def require_success(user: Step) -> None:
    """Raises RuleViolation if a user of VFIO or iommufd failed. The last line of its stderr is
    "IOCTL: ERRNO", or another message."""
    name, _, error = (user.err.splitlines() or [""])[-1].rpartition(": ")
    finding.require(user.status == 0, "user-call", name, error)


def leaks(state: State) -> list[Finding]:
    """The groups and IOMMUs that exist, for a guest without an IOMMU driver."""
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
    """Remove all devices of the guest, whose state is ``state``, unload the IOMMU's driver, and
    return what is wrong then. The devices' drivers stay loaded."""
    driver = guest.machine.iommu.driver
    if driver not in state.modules:
        return []
    clients.remove_all(guest, state)
    unloaded = guest.run(f"rmmod {driver}")
    bare = guest.state()
    count = bare.refcount_if_loaded(driver)
    if count is None:
        return leaks(bare)
    text = f"without any device {driver} has refcount {count}: {unloaded.err.strip()}"
    return [Finding("refcount-leak", driver, str(count), text)]


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"


def owned_groups(guest: Guest, *names: str) -> list[Finding]:
    """The devices whose group has an owner of its DMA: claiming the group fails
    (iommu_group_claim_dma_owner, by the guest module dma_owner). A claim that succeeds is
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
