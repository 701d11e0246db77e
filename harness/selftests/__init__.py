# SPDX-License-Identifier: GPL-2.0-only
"""Run the kernel's own IOMMU tests in guests: kselftest programs and KUnit modules."""
