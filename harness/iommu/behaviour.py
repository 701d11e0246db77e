# SPDX-License-Identifier: GPL-2.0-only
"""Differences between kernels, by name. A scenario names the behaviours that it depends on, and
never compares versions. The signs of a behaviour decide by a kernel's source whether it has it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from harness.errors import UsageError, did_you_mean
from harness.iommu import evidence
from harness.iommu.evidence import Evidence, ExaminedKernel, Sign
from harness.iommu.version import Versions

_CORE = "drivers/iommu/iommu.c"
_SMMU = "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c"
_VIRTIO = "drivers/iommu/virtio-iommu.c"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A difference between kernels that is not a bug.

    ``summary`` states what a kernel with the behaviour does. ``source`` is the function or commit
    that implements it. ``signs`` decide by a kernel's source whether it has the behaviour, and
    otherwise ``commit`` decides by its history. ``since`` decides if neither does: it is the
    first release with the behaviour, or the first of 5.10, 6.1, 6.12 and 7.2 that was observed
    with it."""

    name: str
    since: Versions
    summary: str
    source: str
    signs: tuple[Sign, ...]
    commit: str = ""

    def evidence(self, examined: ExaminedKernel) -> Evidence:
        """Return the evidence for or against the kernel having the behaviour."""
        return evidence.decide(examined, self.signs, self.commit, self.since)


def _behaviour(
    name: str, since: str, summary: str, source: str, *signs: Sign, commit: str = ""
) -> Behaviour:
    return Behaviour(name, Versions(tuple(since.split())), summary, source, signs, commit)


GROUPS_AT_REGISTRATION = _behaviour(
    "groups-at-iommu-registration",
    "6.15",
    "a device gets a group when it is added or its IOMMU registers, not when a driver binds",
    "bcb81ac6ae3c",
    Sign(_CORE, r"dma_configure\(dev\)", "iommu_init_device __iommu_probe_device"),
    commit="bcb81ac6ae3c",
)
UNBIND_RELEASES_DEVICE = _behaviour(
    "unbind-releases-device",
    "",
    "unbinding a platform device removes it from its group and unpins its IOMMU's module",
    "RFC: platform_dma_cleanup calls iommu_release_device",
    Sign("drivers/base/platform.c", r"\biommu_release_device\("),
)
PROBE_DEFERRAL = _behaviour(
    "probe-deferral",
    "6.1",
    "a device's probe is deferred until its IOMMU registers; otherwise it would bind without "
    "translation",
    "driver_deferred_probe_timeout",
    Sign(option="DRIVER_DEFERRED_PROBE_TIMEOUT", code="[1-9][0-9]*"),
    Sign("drivers/base/dd.c", r"\bdriver_deferred_probe_timeout = [1-9]"),
)
UNREGISTERING_REMOVES_GROUPS = _behaviour(
    "unregistering-removes-groups",
    "6.1",
    "unregistering an IOMMU removes its devices from their groups",
    "remove_iommu_group",
    Sign(_CORE, r"\bremove_iommu_group\b", "iommu_device_unregister"),
)
LATE_PROBE_WARNS = _behaviour(
    "late-probe-warns",
    "6.15",
    "rebinding a device that was bound before its IOMMU registered raises a WARN",
    "bcb81ac6ae3c",
    Sign(_CORE, r"dev->driver\)\s*\w*WARN", "__iommu_probe_device"),
    commit="bcb81ac6ae3c",
)
OWNED_GROUP_REMOVAL_WARNS = _behaviour(
    "owned-group-removal-warns",
    "6.5",
    "removing a group whose DMA has an owner raises a WARN",
    "__iommu_group_free_device",
    Sign(_CORE, r"WARN_ON\(group->owner_cnt", "__iommu_group_free_device"),
    Sign(_CORE, r"\b__iommu_group_free_device\("),
)
FAILED_FIRST_ATTACH_WARNS = _behaviour(
    "failed-first-attach-warns",
    "6.5",
    "a failed first attach of a group raises a WARN, even if it fails for lack of memory",
    "iommu_setup_default_domain",
    Sign(_CORE, r"MUST_SUCCEED\);\s*if \(WARN_ON\(ret\)\)", "iommu_setup_default_domain"),
    Sign(_CORE, r"\biommu_setup_default_domain\("),
)
STREAM_ALIASES_REFUSED = _behaviour(
    "stream-aliases-refused",
    "6.1",
    "a second device with the same stream ID gets no group",
    "arm_smmu_insert_master",
    Sign(_SMMU, r"\brb_\w+\(", "arm_smmu_insert_master"),
    Sign(_SMMU, r"\barm_smmu_insert_master\("),
)
ACS_BEFORE_GROUPS = _behaviour(
    "acs-before-groups",
    "7.2",
    "ACS of a root port is enabled before the devices below it get groups",
    "c41e2fb67e26",
    Sign("drivers/pci/pci-driver.c", r"\bpci_enable_acs\(", "pci_dma_configure"),
    commit="c41e2fb67e26",
)
BIND_RETURNS_EBUSY = _behaviour(
    "bind-returns-ebusy",
    "6.1",
    "binding a bound device returns EBUSY, not ENODEV",
    "bind_store",
    Sign("drivers/base/bus.c", r"dev->driver == NULL|!dev->driver\b", "bind_store", shown=False),
)
DEVICETREE_RESERVED_REGIONS = _behaviour(
    "devicetree-reserved-regions",
    "6.3",
    "IOMMU drivers read the regions that a device tree reserves for a device",
    "of_iommu_get_resv_regions, a5bf3cfce8cb",
    Sign(
        "drivers/iommu/dma-iommu.c",
        r"\bof_iommu_get_resv_regions\(",
        symbol="of_iommu_get_resv_regions",
    ),
    commit="a5bf3cfce8cb",
)
DIRECT_REGIONS_BLOCK_USERS = _behaviour(
    "direct-regions-block-users",
    "6.6",
    "a device with a direct-mapped reserved region cannot be assigned to a user",
    "__iommu_device_set_domain, a48ce36e2786",
    Sign(_CORE, r"\brequire_direct\b"),
    commit="a48ce36e2786",
)
# A kernel without this file has no type to change, whatever its functions are called.
_TYPE_FILE = Sign(_CORE, r"\bIOMMU_GROUP_ATTR\(type\b", symbol="iommu_group_show_type")
GROUP_TYPE = _behaviour(
    "group-type",
    "5.10",
    "sysfs has the type of a group's default domain (/sys/kernel/iommu_groups/N/type)",
    "iommu_group_show_type, Documentation/ABI/testing/sysfs-kernel-iommu_groups",
    _TYPE_FILE,
)
GROUP_RESERVED_REGIONS = _behaviour(
    "group-reserved-regions",
    "5.10",
    "sysfs has the reserved regions of a group (/sys/kernel/iommu_groups/N/reserved_regions)",
    "iommu_group_show_resv_regions, Documentation/ABI/testing/sysfs-kernel-iommu_groups",
    Sign(_CORE, r"\bIOMMU_GROUP_ATTR\(reserved_regions\b", symbol="iommu_group_show_resv_regions"),
)
GROUP_TYPE_WRITABLE = _behaviour(
    "group-type-writable",
    "5.11",
    "the type of a group's default domain can be changed at run time",
    "iommu_group_store_type, Documentation/ABI/testing/sysfs-kernel-iommu_groups",
    replace(_TYPE_FILE, must=True),
    Sign(_CORE, r"\biommu_group_store_type\(", symbol="iommu_group_store_type"),
)
SHARED_GROUP_TYPE_WRITABLE = _behaviour(
    "shared-group-type-writable",
    "6.12",
    "the type of a group with several devices can be changed",
    "iommu_group_store_type",
    replace(_TYPE_FILE, must=True, symbol=""),
    Sign(_CORE, r"group_device_count\(group\) != 1", "iommu_group_store_type", shown=False),
    Sign(_CORE, r"\biommu_group_store_type\("),
)
TYPE_STORE_RETURNS_EPERM = _behaviour(
    "type-store-returns-eperm",
    "6.12",
    "changing the type of a group in use returns EPERM, not EBUSY",
    "iommu_group_store_type",
    Sign(_CORE, r"-EPERM\b", "iommu_group_store_type"),
    Sign(_CORE, r"\biommu_group_store_type\("),
)
VIRTIO_IOMMU_IDENTITY = _behaviour(
    "virtio-iommu-identity",
    "5.17",
    "virtio-iommu supports identity domains if the device supports bypass",
    "viommu_domain_finalise, VIRTIO_IOMMU_F_BYPASS_CONFIG",
    Sign(_VIRTIO, r"\bVIRTIO_IOMMU_F_BYPASS_CONFIG\b"),
)
VIRTIO_IOMMU_FLUSH_QUEUE = _behaviour(
    "virtio-iommu-flush-queue",
    "6.9",
    "virtio-iommu supports flush queues (DMA-FQ)",
    "viommu_capable, IOMMU_CAP_DEFERRED_FLUSH",
    Sign(_VIRTIO, r"\bIOMMU_CAP_DEFERRED_FLUSH\b"),
)
LOWEST_FREE_GROUP_ID = _behaviour(
    "lowest-free-group-id",
    "5.10",
    "a new group gets the lowest free ID",
    "iommu_group_alloc, an IDA",
    Sign(_CORE, r"\bida_(?:simple_get|alloc)\(&iommu_group_ida\b", "iommu_group_alloc"),
)
DMA_OWNERSHIP = _behaviour(
    "dma-ownership",
    "5.19",
    "the DMA of a group has one owner, either kernel drivers or a user",
    "512881eacfa7",
    Sign(
        _CORE,
        r"\biommu_device_use_default_domain\(",
        symbol="iommu_device_use_default_domain",
    ),
    commit="512881eacfa7",
)

FAULT_INJECTION = _behaviour(
    "fault-injection",
    "5.10",
    "a task's allocations can be made to fail (/proc/PID/fail-nth)",
    "Documentation/fault-injection/fault-injection.rst",
    Sign(option="FAILSLAB", must=True),
    Sign(option="FAIL_PAGE_ALLOC", must=True),
    Sign(option="FAULT_INJECTION_DEBUG_FS", must=True),
    Sign(option="FAULT_INJECTION_STACKTRACE_FILTER"),
    Sign("mm/failslab.c", r"\bshould_fail", symbol="should_fail"),
)

TABLE = {each.name: each for each in tuple(globals().values()) if isinstance(each, Behaviour)}


def overrides(texts: Iterable[str]) -> dict[str, bool]:
    """Parse the behaviours that the user overrides: NAME is True and no-NAME is False, regardless
    of the kernel's source. Raises UsageError for an unknown name."""
    shown = {}
    for text in texts:
        name = text.removeprefix("no-")
        if name not in TABLE:
            hint = did_you_mean(name, TABLE, "see iommu-harness behaviours")
            raise UsageError(f"unknown behaviour {name!r}", hint)
        shown[name] = name == text
    return shown


def table(examined: ExaminedKernel, overridden: Mapping[str, bool]) -> dict[str, Evidence]:
    """The evidence for or against each behaviour, by name."""
    return {name: _evidence(each, examined, overridden) for name, each in TABLE.items()}


def _evidence(
    each: Behaviour, examined: ExaminedKernel, overridden: Mapping[str, bool]
) -> Evidence:
    if each.name in overridden:
        return Evidence(overridden[each.name], "user", "set by --behaviour")
    return each.evidence(examined)
