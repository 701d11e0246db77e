# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernels, by name: scenarios say what they depend on, and never
compare versions themselves.
"""

import re
from dataclasses import dataclass

from harness.errors import UsageError

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Versions:
    """Kernels from a version on. "6.15" is that release of Linus's and all after it;
    "6.12.111" only the 6.12 stable releases from that one on, where a fix was carried
    back. No mark at all: no kernel yet."""

    marks: tuple[str, ...] = ()

    def include(self, release: str) -> bool:
        """Whether a kernel with such a ``uname -r`` is among them. One that tells no
        version is taken for the newest."""
        match = _RELEASE.match(release)
        if match is None:
            return any(mark.count(".") == 1 for mark in self.marks)
        own = tuple(int(part or 0) for part in match.groups())
        return any(_reached(own, mark) for mark in self.marks)


def _reached(own: tuple[int, ...], mark: str) -> bool:
    wanted = tuple(map(int, mark.split(".")))
    if len(wanted) == 3:
        return own[:2] == wanted[:2] and own >= wanted
    return own[:2] >= wanted


@dataclass(frozen=True, slots=True)
class Behaviour:
    """``name`` is how users write it, ``since`` the kernels that show it, ``what`` they
    do, and ``source`` the function or commit that makes it so. Where the release that a
    change came with is not known, ``since`` has the first that was seen to show it, of 5.10,
    6.1, 6.12 and 7.2."""

    name: str
    since: Versions
    what: str
    source: str

    @property
    def reason(self) -> str:
        """Why a kernel that does not show it cannot show a scenario."""
        since = ", ".join(self.since.marks) or "in no release yet"
        return f"{self.what} ({self.source}; {since})"


def _behaviour(name: str, since: str, what: str, source: str) -> Behaviour:
    return Behaviour(name, Versions(tuple(since.split())), what, source)


GROUPS_AT_REGISTRATION = _behaviour(
    "groups-at-iommu-registration",
    "6.15",
    "devices get groups when their IOMMU registers or they are added, not when a driver binds",
    "bcb81ac6ae3c",
)
UNBIND_UNPINS = _behaviour(
    "unbind-unpins",
    "",
    "a platform device leaves its group when its driver goes",
    "RFC: platform_dma_cleanup calls iommu_release_device",
)
CLIENTS_WAIT = _behaviour(
    "clients-wait-for-their-iommu",
    "6.1",
    "a driver is deferred until its device's IOMMU is there; before, it binds without",
    "driver_deferred_probe_timeout",
)
UNREGISTERING_REMOVES_GROUPS = _behaviour(
    "unregistering-removes-groups",
    "6.1",
    "an IOMMU that unregisters takes its devices out of their groups",
    "remove_iommu_group",
)
LATE_BIND_WARNS = _behaviour(
    "late-bind-warns",
    "6.15",
    "a device whose IOMMU came after its driver is warned of when it is bound again",
    "bcb81ac6ae3c",
)
FORCE_WARNS = _behaviour(
    "force-warns",
    "6.5",
    "a group that is removed while its DMA has an owner is warned of",
    "__iommu_group_free_device",
)
FIRST_ATTACH_WARNS = _behaviour(
    "first-attach-warns",
    "6.5",
    "a driver that fails the first attach of a group, if only for memory, is warned of",
    "iommu_setup_default_domain",
)
ALIASES_ARE_REFUSED = _behaviour(
    "stream-aliases-are-refused",
    "6.1",
    "the second device of a stream ID gets no group",
    "arm_smmu_insert_master",
)
ACS_BEFORE_GROUPS = _behaviour(
    "acs-before-groups",
    "7.2",
    "ACS is on before a root port's devices get their groups",
    "c41e2fb67e26",
)
BIND_SAYS_BUSY = _behaviour(
    "bind-says-busy",
    "6.1",
    "binding a bound device gives EBUSY, and ENODEV before",
    "bind_store",
)
FIRMWARE_RESERVES = _behaviour(
    "firmware-reserves-regions",
    "6.3",
    "an IOMMU heeds the regions that a device tree reserves for a device",
    "of_iommu_get_resv_regions, a5bf3cfce8cb",
)
DIRECT_IS_NOBODYS = _behaviour(
    "direct-regions-have-no-owner",
    "6.6",
    "a device with a region that has to stay mapped is not for users",
    "__iommu_device_set_domain, a48ce36e2786",
)
TYPE_CAN_BE_SET = _behaviour(
    "group-type-can-be-set",
    "5.11",
    "a group's default domain can be changed at run time",
    "iommu_group_store_type, Documentation/ABI/testing/sysfs-kernel-iommu_groups",
)
TYPE_OF_ANY_GROUP = _behaviour(
    "type-of-any-group-can-be-set",
    "6.12",
    "the default domain of a group with several devices can be changed too",
    "iommu_group_store_type",
)
TYPE_SAYS_PERMISSION = _behaviour(
    "set-type-says-permission",
    "6.12",
    "setting the type of a group in use gives EPERM, and EBUSY before",
    "iommu_group_store_type",
)
VIRTIO_IDENTITY = _behaviour(
    "virtio-identity",
    "5.17",
    "a virtio-iommu has identity domains, where the device can bypass",
    "viommu_domain_finalise, VIRTIO_IOMMU_F_BYPASS_CONFIG",
)
VIRTIO_FLUSH_QUEUE = _behaviour(
    "virtio-flush-queue",
    "6.9",
    "a virtio-iommu's mappings can be flushed lazily",
    "viommu_capable, IOMMU_CAP_DEFERRED_FLUSH",
)
DMA_OWNERSHIP = _behaviour(
    "dma-ownership",
    "5.19",
    "a group's DMA has one owner: kernel drivers, or a user",
    "512881eacfa7",
)

TABLE = {each.name: each for each in tuple(globals().values()) if isinstance(each, Behaviour)}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a user says of a kernel that its version does not tell: ``shown`` are the
    behaviours that it has, or (False) has not, by name."""

    shown: dict[str, bool]

    def show(self, behaviour: Behaviour, release: str) -> bool:
        """Whether a kernel of that release shows the behaviour."""
        return self.shown.get(behaviour.name, behaviour.since.include(release))


def claims(texts: list[str]) -> Claims:
    """From NAME and no-NAME, as a user writes them. Raises UsageError for other names."""
    shown = {}
    for text in texts:
        name = text.removeprefix("no-")
        if name not in TABLE:
            raise UsageError(f"no such behaviour: {name!r}", f"there are {', '.join(TABLE)}")
        shown[name] = name == text
    return Claims(shown)
