// SPDX-License-Identifier: GPL-2.0-only
/*
 * Claim the DMA ownership of a device's group while this module is loaded, as VFIO does
 * for its users (iommu_group_claim_dma_owner, since 5.19).
 *
 * modprobe dma_owner device=0000:00:01.0 fails with the errno of the claim.
 */
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/version.h>

static char *device;
module_param(device, charp, 0444);
MODULE_PARM_DESC(device, "name of a PCI or platform device");

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 19, 0)

static struct iommu_group *group;

static struct device *find_device(const char *name)
{
	struct device *dev = bus_find_device_by_name(&pci_bus_type, NULL, name);

	return dev ? dev : bus_find_device_by_name(&platform_bus_type, NULL, name);
}

static int __init dma_owner_init(void)
{
	struct device *dev;
	int ret;

	dev = device ? find_device(device) : NULL;
	if (!dev)
		return -ENODEV;
	group = iommu_group_get(dev);
	put_device(dev);
	if (!group)
		return -ENOENT;
	ret = iommu_group_claim_dma_owner(group, THIS_MODULE);
	if (ret)
		iommu_group_put(group);
	return ret;
}

static void __exit dma_owner_exit(void)
{
	iommu_group_release_dma_owner(group);
	iommu_group_put(group);
}

#else

static int __init dma_owner_init(void)
{
	return -EOPNOTSUPP;
}

static void __exit dma_owner_exit(void)
{
}

#endif

module_init(dma_owner_init);
module_exit(dma_owner_exit);

MODULE_DESCRIPTION("Owns the DMA of a group while loaded");
MODULE_LICENSE("GPL");
