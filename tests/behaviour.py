# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernels, by name, so that a test says what it depends on."""

from dataclasses import dataclass

from harness.kernel.artifact import Kernel


@dataclass(frozen=True, slots=True)
class Behaviour:
    """``since`` is the first version seen with it, ``source`` the function or commit."""

    since: tuple[int, int]
    source: str

    def of(self, kernel: Kernel) -> bool:
        """Whether the kernel shows it, by its version."""
        major, minor = kernel.release.split("-")[0].split(".")[:2]
        return (int(major), int(minor)) >= self.since


# Devices get their groups when the IOMMU registers or they are added, and no longer
# when a driver binds.
GROUPS_AT_REGISTRATION = Behaviour((6, 15), "bcb81ac6ae3c")

# A driver whose device's IOMMU has none yet is deferred; 5.10 does not wait at all
# (deferred_probe_timeout is 0).
CLIENTS_WAIT = Behaviour((6, 1), "driver_deferred_probe_timeout")

# An IOMMU that unregisters takes its devices out of their groups; 5.10 leaves both.
UNREGISTERING_REMOVES_GROUPS = Behaviour((6, 1), "remove_iommu_group")

# Reading a group's type takes its mutex.
TYPE_TAKES_MUTEX = Behaviour((6, 12), "iommu_group_show_type")

# Two devices with one stream ID: the second gets no group. 5.10 has no such check, and
# its BUG_ON finds the stream table entry in use.
ALIASES_ARE_REFUSED = Behaviour((6, 1), "arm_smmu_insert_master, arm_smmu_write_strtab_ent")

# A stream ID that the SMMU lacks fails the registration of the SMMU.
OUT_OF_RANGE_FAILS_SMMU = GROUPS_AT_REGISTRATION

# ACS is enabled before a port's devices get their groups.
ACS_BEFORE_GROUPS = Behaviour((7, 2), "c41e2fb67e26")

# Binding a device that is bound: EBUSY, and ENODEV before.
BIND_SAYS_BUSY = Behaviour((6, 1), "bind_store")

# A group's default domain can be changed at run time, while its device is unbound.
TYPE_CAN_BE_SET = Behaviour((6, 1), "iommu_group_store_type")

# While it is bound the answer is EPERM, and EBUSY before.
TYPE_SAYS_PERMISSION = Behaviour((6, 12), "iommu_group_store_type")

# A group's DMA has an owner: the kernel's drivers, or one user of VFIO or within it.
DMA_OWNERSHIP = Behaviour((6, 1), "iommu_group_claim_dma_owner")
