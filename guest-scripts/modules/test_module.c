// SPDX-License-Identifier: GPL-2.0-only
/*
 * iommu_client under the name "test_module", which reports use for a module that is not
 * public: lsmod, rmmod and /sys/module show that name.
 */
#include "iommu_client.c"
