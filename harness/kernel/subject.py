# SPDX-License-Identifier: GPL-2.0-only
"""The parts of a kernel's tree that are under test. docs/architecture.md lists what else to replace
for a different subsystem.
"""

import re

# Fragments of kconfigs/ that are merged into every kernel, in this order; the other files
# there are variants.
FRAGMENTS = ("base", "iommu")

# The newest kernel with which the bundled scenarios, behaviours and known issues were compared.
NEWEST_TESTED = (7, 3)

# Files that a source tree must have to be tested.
REQUIRED_FILES = ("Makefile", "Kbuild", "arch/arm64/Kconfig", "drivers/iommu/iommu.c")

# The drivers under test.
DRIVERS = ("arm_smmu_v3", "arm_smmu", "virtio_iommu")

# The modules of a prebuilt kernel that guests may load, without dependencies.
MODULES = (
    *DRIVERS,
    *("e1000", "e1000e", "virtio_net", "virtio_blk", "nvme", "pci_stub"),
    *("vfio", "vfio_pci", "vfio_iommu_type1", "vfio_platform", "iommufd"),
)

# The source files from which behaviours are read: the life cycle of devices, and DMA mapping and
# isolation. They are kept with each kernel.
SOURCES = re.compile(
    r"drivers/(iommu|vfio)/.*\.[ch]"
    r"|drivers/(base|of|acpi|acpi/arm64|pci|pci/hotplug|virtio)/[^/]*\.[ch]"
    r"|arch/arm64/mm/dma-mapping\.c"
    r"|include/linux/[^/]*\.h"
)
