# SPDX-License-Identifier: GPL-2.0-only
"""A patch that plants a bug, for tests of mutants."""

PATCH = """\
The reference is not put.
{head}

---
--- a/drivers/iommu/iommu.c
+++ b/drivers/iommu/iommu.c
@@ -1,3 +1,2 @@ static void iommu_deinit_device(struct device *dev)
 \t/* Release */
-\tmodule_put(ops->owner);
 \tdev_iommu_free(dev);
"""
