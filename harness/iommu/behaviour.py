# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernels, by name: scenarios say what they depend on, and never
compare versions themselves. Each behaviour says what in the source decides it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.errors import UsageError, did_you_mean
from harness.iommu import probe
from harness.iommu.probe import Evidence, Examined, Sign
from harness.iommu.version import Versions

_CORE = "drivers/iommu/iommu.c"
_SMMU = "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c"
_VIRTIO = "drivers/iommu/virtio-iommu.c"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """``name`` is how users write it, ``what`` the kernel does, ``source`` the function or
    commit that makes it so, and ``signs`` what in the source decides it. ``since`` is the first
    release that shows it, or the first that was seen to, of 5.10, 6.1, 6.12 and 7.2; it
    decides where neither the source nor its history can."""

    name: str
    since: Versions
    what: str
    source: str
    signs: tuple[Sign, ...]
    commit: str = ""

    def evidence(self, examined: Examined) -> Evidence:
        """Whether the kernel shows it."""
        return probe.evidence(examined, self.signs, self.commit, self.since)


def _behaviour(
    name: str, since: str, what: str, source: str, *signs: Sign, commit: str = ""
) -> Behaviour:
    return Behaviour(name, Versions(tuple(since.split())), what, source, signs, commit)


GROUPS_AT_REGISTRATION = _behaviour(
    "groups-at-iommu-registration",
    "6.15",
    "devices get groups when their IOMMU registers or they are added, not when a driver binds",
    "bcb81ac6ae3c",
    Sign(_CORE, r"dma_configure\(dev\)", "iommu_init_device __iommu_probe_device"),
    commit="bcb81ac6ae3c",
)
UNBIND_UNPINS = _behaviour(
    "unbind-unpins",
    "",
    "a platform device leaves its group when its driver goes",
    "RFC: platform_dma_cleanup calls iommu_release_device",
    Sign("drivers/base/platform.c", r"\biommu_release_device\("),
)
CLIENTS_WAIT = _behaviour(
    "clients-wait-for-their-iommu",
    "6.1",
    "a driver is deferred until its device's IOMMU is there; before, it binds without",
    "driver_deferred_probe_timeout",
    Sign(option="DRIVER_DEFERRED_PROBE_TIMEOUT", code="[1-9][0-9]*"),
    Sign("drivers/base/dd.c", r"\bdriver_deferred_probe_timeout = [1-9]"),
)
UNREGISTERING_REMOVES_GROUPS = _behaviour(
    "unregistering-removes-groups",
    "6.1",
    "an IOMMU that unregisters takes its devices out of their groups",
    "remove_iommu_group",
    Sign(_CORE, r"\bremove_iommu_group\b", "iommu_device_unregister"),
)
LATE_BIND_WARNS = _behaviour(
    "late-bind-warns",
    "6.15",
    "a device whose IOMMU came after its driver is warned of when it is bound again",
    "bcb81ac6ae3c",
    Sign(_CORE, r"dev->driver\)\s*\w*WARN", "__iommu_probe_device"),
    commit="bcb81ac6ae3c",
)
FORCE_WARNS = _behaviour(
    "force-warns",
    "6.5",
    "a group that is removed while its DMA has an owner is warned of",
    "__iommu_group_free_device",
    Sign(_CORE, r"WARN_ON\(group->owner_cnt", "__iommu_group_free_device"),
    Sign(_CORE, r"\b__iommu_group_free_device\("),
)
FIRST_ATTACH_WARNS = _behaviour(
    "first-attach-warns",
    "6.5",
    "a driver that fails the first attach of a group, if only for memory, is warned of",
    "iommu_setup_default_domain",
    Sign(_CORE, r"MUST_SUCCEED\);\s*if \(WARN_ON\(ret\)\)", "iommu_setup_default_domain"),
    Sign(_CORE, r"\biommu_setup_default_domain\("),
)
ALIASES_ARE_REFUSED = _behaviour(
    "stream-aliases-are-refused",
    "6.1",
    "the second device of a stream ID gets no group",
    "arm_smmu_insert_master",
    Sign(_SMMU, r"\brb_\w+\(", "arm_smmu_insert_master"),
    Sign(_SMMU, r"\barm_smmu_insert_master\("),
)
ACS_BEFORE_GROUPS = _behaviour(
    "acs-before-groups",
    "7.2",
    "ACS is on before a root port's devices get their groups",
    "c41e2fb67e26",
    Sign("drivers/pci/pci-driver.c", r"\bpci_enable_acs\(", "pci_dma_configure"),
    commit="c41e2fb67e26",
)
BIND_SAYS_BUSY = _behaviour(
    "bind-says-busy",
    "6.1",
    "binding a bound device gives EBUSY, and ENODEV before",
    "bind_store",
    Sign("drivers/base/bus.c", r"dev->driver == NULL|!dev->driver\b", "bind_store", shown=False),
)
FIRMWARE_RESERVES = _behaviour(
    "firmware-reserves-regions",
    "6.3",
    "an IOMMU heeds the regions that a device tree reserves for a device",
    "of_iommu_get_resv_regions, a5bf3cfce8cb",
    Sign(
        "drivers/iommu/dma-iommu.c",
        r"\bof_iommu_get_resv_regions\(",
        symbol="of_iommu_get_resv_regions",
    ),
    commit="a5bf3cfce8cb",
)
DIRECT_IS_NOBODYS = _behaviour(
    "direct-regions-have-no-owner",
    "6.6",
    "a device with a region that has to stay mapped is not for users",
    "__iommu_device_set_domain, a48ce36e2786",
    Sign(_CORE, r"\brequire_direct\b"),
    commit="a48ce36e2786",
)
TYPE_CAN_BE_SET = _behaviour(
    "group-type-can-be-set",
    "5.11",
    "a group's default domain can be changed at run time",
    "iommu_group_store_type, Documentation/ABI/testing/sysfs-kernel-iommu_groups",
    Sign(_CORE, r"\biommu_group_store_type\(", symbol="iommu_group_store_type"),
)
TYPE_OF_ANY_GROUP = _behaviour(
    "type-of-any-group-can-be-set",
    "6.12",
    "the default domain of a group with several devices can be changed too",
    "iommu_group_store_type",
    Sign(_CORE, r"group_device_count\(group\) != 1", "iommu_group_store_type", shown=False),
    Sign(_CORE, r"\biommu_group_store_type\("),
)
TYPE_SAYS_PERMISSION = _behaviour(
    "set-type-says-permission",
    "6.12",
    "setting the type of a group in use gives EPERM, and EBUSY before",
    "iommu_group_store_type",
    Sign(_CORE, r"-EPERM\b", "iommu_group_store_type"),
    Sign(_CORE, r"\biommu_group_store_type\("),
)
VIRTIO_IDENTITY = _behaviour(
    "virtio-identity",
    "5.17",
    "a virtio-iommu has identity domains, where the device can bypass",
    "viommu_domain_finalise, VIRTIO_IOMMU_F_BYPASS_CONFIG",
    Sign(_VIRTIO, r"\bVIRTIO_IOMMU_F_BYPASS_CONFIG\b"),
)
VIRTIO_FLUSH_QUEUE = _behaviour(
    "virtio-flush-queue",
    "6.9",
    "a virtio-iommu's mappings can be flushed lazily",
    "viommu_capable, IOMMU_CAP_DEFERRED_FLUSH",
    Sign(_VIRTIO, r"\bIOMMU_CAP_DEFERRED_FLUSH\b"),
)
GROUP_IDS_ARE_LOWEST = _behaviour(
    "group-ids-are-the-lowest-free",
    "5.10",
    "a new group gets the lowest ID that no group has",
    "iommu_group_alloc, an IDA",
    Sign(_CORE, r"\bida_(?:simple_get|alloc)\(&iommu_group_ida\b", "iommu_group_alloc"),
)
DMA_OWNERSHIP = _behaviour(
    "dma-ownership",
    "5.19",
    "a group's DMA has one owner: kernel drivers, or a user",
    "512881eacfa7",
    Sign(
        _CORE,
        r"\biommu_device_use_default_domain\(",
        symbol="iommu_device_use_default_domain",
    ),
    commit="512881eacfa7",
)

TABLE = {each.name: each for each in tuple(globals().values()) if isinstance(each, Behaviour)}


def claims(texts: Iterable[str]) -> dict[str, bool]:
    """From NAME and no-NAME, as a user writes them: the behaviours that kernels have, or
    (False) have not, whatever their source says. Raises UsageError for other names."""
    shown = {}
    for text in texts:
        name = text.removeprefix("no-")
        if name not in TABLE:
            hint = did_you_mean(name, TABLE, "see iommu-harness behaviours")
            raise UsageError(f"no such behaviour: {name!r}", hint)
        shown[name] = name == text
    return shown


def table(examined: Examined, claimed: Mapping[str, bool]) -> dict[str, Evidence]:
    """Of every behaviour, by name, whether the kernel shows it."""
    return {name: _evidence(each, examined, claimed) for name, each in TABLE.items()}


def _evidence(each: Behaviour, examined: Examined, claimed: Mapping[str, bool]) -> Evidence:
    if each.name in claimed:
        return Evidence(claimed[each.name], "user", "--behaviour says so")
    return each.evidence(examined)
