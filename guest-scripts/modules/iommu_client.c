// SPDX-License-Identifier: GPL-2.0-only
/*
 * A platform driver that only binds, which makes the driver core configure DMA for a
 * device (platform_dma_configure).
 *
 * probe_error=ERRNO: every probe fails, after DMA has been configured.
 * buffer=BYTES: each device has a coherent DMA buffer of that size while it is bound.
 * fill=1: each probe maps all pages of one last-level page table, one by one, and unmaps
 * them at once.
 * lookup=IOVA: each probe logs the physical address to which the device's domain maps IOVA.
 * block_remove=1: remove logs "waiting in remove" and returns when this is 0 again.
 * Like every module it accepts async_probe, to probe in another task.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/mod_devicetable.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/version.h>

static int probe_error;
module_param(probe_error, int, 0644);
MODULE_PARM_DESC(probe_error, "errno with which each probe fails");

static ulong buffer;
module_param(buffer, ulong, 0644);
MODULE_PARM_DESC(buffer, "size of the DMA buffer of each device, in bytes");

static bool fill;
module_param(fill, bool, 0644);
MODULE_PARM_DESC(fill, "map pages in each probe and unmap them as one block");

static ulong lookup;
module_param(lookup, ulong, 0644);
MODULE_PARM_DESC(lookup, "IOVA whose mapping each probe logs");

static bool block_remove;
module_param(block_remove, bool, 0644);
MODULE_PARM_DESC(block_remove, "do not return from remove while this is set");

/* Low addresses: dma-iommu allocates IOVAs from the top. */
#define TABLE_BYTES	(PAGE_SIZE * (PAGE_SIZE / sizeof(u64)))
#define TABLE_AT	TABLE_BYTES

static int map_page(struct iommu_domain *domain, ulong iova, struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	return iommu_map(domain, iova, page_to_phys(page), PAGE_SIZE, IOMMU_READ, GFP_KERNEL);
#else
	return iommu_map(domain, iova, page_to_phys(page), PAGE_SIZE, IOMMU_READ);
#endif
}

static int fill_table(struct device *dev)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);
	struct page *page = alloc_page(GFP_KERNEL);
	int error = domain && page ? 0 : -ENOMEM;
	ulong done = 0;

	while (!error && done < TABLE_BYTES) {
		error = map_page(domain, TABLE_AT + done, page);
		done += error ? 0 : PAGE_SIZE;
	}
	if (done && iommu_unmap(domain, TABLE_AT, done) != done && !error)
		error = -EIO;
	if (!error && iommu_iova_to_phys(domain, TABLE_AT))
		error = -EEXIST;
	if (page)
		__free_page(page);
	return error;
}

static void log_mapping(struct device *dev)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);
	phys_addr_t phys = domain ? iommu_iova_to_phys(domain, lookup) : 0;

	dev_info(dev, "%#lx is mapped to %pap\n", lookup, &phys);
}

static int iommu_client_probe(struct platform_device *pdev)
{
	dma_addr_t address;
	int error;

	if (probe_error)
		return -probe_error;
	error = fill ? fill_table(&pdev->dev) : 0;
	if (error)
		return error;
	if (buffer && !dmam_alloc_coherent(&pdev->dev, buffer, &address, GFP_KERNEL))
		return -ENOMEM;
	if (lookup)
		log_mapping(&pdev->dev);
	dev_info(&pdev->dev, "bound\n");
	return 0;
}

static void wait_in_remove(struct device *dev)
{
	if (!READ_ONCE(block_remove))
		return;
	dev_info(dev, "waiting in remove\n");
	while (READ_ONCE(block_remove))
		usleep_range(500, 1000);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
static void iommu_client_remove(struct platform_device *pdev)
{
	wait_in_remove(&pdev->dev);
}
#else
static int iommu_client_remove(struct platform_device *pdev)
{
	wait_in_remove(&pdev->dev);
	return 0;
}
#endif

static const struct of_device_id iommu_client_match[] = {
	{ .compatible = "harness,iommu-client" },
	{ }
};
MODULE_DEVICE_TABLE(of, iommu_client_match);

static struct platform_driver iommu_client_driver = {
	.probe = iommu_client_probe,
	.remove = iommu_client_remove,
	.driver = {
		.name = KBUILD_MODNAME,
		.of_match_table = iommu_client_match,
	},
};
module_platform_driver(iommu_client_driver);

MODULE_DESCRIPTION("IOMMU client that only binds");
MODULE_LICENSE("GPL");
