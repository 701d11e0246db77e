// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reports speak of a "test_module" that nobody has: it is iommu_client under
 * that name, which lsmod, rmmod and /sys/module then show too.
 */
#include "iommu_client.c"
