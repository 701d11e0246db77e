// SPDX-License-Identifier: GPL-2.0-only
/*
 * A platform driver that does nothing but bind: what it takes for the driver
 * core to configure DMA for a device (platform_dma_configure), and no more.
 *
 * probe_error=ERRNO: every probe fails, after DMA has been configured.
 * Module parameter async_probe, of every module: it probes in a task of its own.
 */
#include <linux/mod_devicetable.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static int probe_error;
module_param(probe_error, int, 0644);
MODULE_PARM_DESC(probe_error, "errno that each probe fails with");

static int iommu_client_probe(struct platform_device *pdev)
{
	if (probe_error)
		return -probe_error;
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
