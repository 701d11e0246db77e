# SPDX-License-Identifier: GPL-2.0-only
"""What of a kernel's tree the harness is about. To test another subsystem, replace these and
harness.iommu.
"""

import re

# Fragments of kconfigs/ that are merged into every kernel, in this order; the other files
# there are variants.
FRAGMENTS = ("base", "iommu")

# A directory without these files is no source tree of a kernel that can be tested.
REQUIRED_FILES = ("Makefile", "Kbuild", "arch/arm64/Kconfig", "drivers/iommu/iommu.c")

# The drivers under test.
DRIVERS = ("arm_smmu_v3", "arm_smmu", "virtio_iommu")

# All modules of a prebuilt kernel that a guest may load, beside what they depend on.
MODULES = (
    *DRIVERS,
    *("e1000", "e1000e", "virtio_net", "virtio_blk", "nvme", "pci_stub"),
    *("vfio", "vfio_pci", "vfio_iommu_type1", "vfio_platform", "iommufd"),
)

# The sources that decide how a kernel behaves: the device life cycle, and what maps and
# isolates devices. They are kept with each kernel.
SOURCES = re.compile(
    r"drivers/(iommu|vfio)/.*\.[ch]"
    r"|drivers/(base|of|acpi|acpi/arm64|pci|pci/hotplug|virtio)/[^/]*\.[ch]"
    r"|arch/arm64/mm/dma-mapping\.c"
    r"|include/linux/[^/]*\.h"
)
