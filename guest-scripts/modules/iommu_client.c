// SPDX-License-Identifier: GPL-2.0-only
/*
 * A platform driver that does nothing but bind: what it takes for the driver
 * core to configure DMA for a device (platform_dma_configure), and no more.
 */
#include <linux/mod_devicetable.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static int iommu_client_probe(struct platform_device *pdev)
{
	dev_info(&pdev->dev, "bound\n");
	return 0;
}

static const struct of_device_id iommu_client_match[] = {
	{ .compatible = "harness,iommu-client" },
	{ }
};
MODULE_DEVICE_TABLE(of, iommu_client_match);

static struct platform_driver iommu_client_driver = {
	.probe = iommu_client_probe,
	.driver = {
		.name = KBUILD_MODNAME,
		.of_match_table = iommu_client_match,
	},
};
module_platform_driver(iommu_client_driver);

MODULE_DESCRIPTION("Client of an IOMMU that only binds");
MODULE_LICENSE("GPL");
