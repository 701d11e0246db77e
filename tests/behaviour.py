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
