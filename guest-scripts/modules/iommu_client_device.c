// SPDX-License-Identifier: GPL-2.0-only
/*
 * Create the platform devices of the clients' device-tree nodes, and destroy them. Sysfs
 * can remove a PCI device but not a platform device of the device tree, and the references
 * of its IOMMU group are released only when the device is destroyed.
 *
 * Loading creates the devices that are absent; unloading destroys all of them, including
 * those that the kernel created at boot. Writing 1 or 0 to the parameter "present" does the
 * same, in the context of the writing task.
 */
#include <linux/module.h>
#include <linux/of.h>
#include <linux/of_platform.h>
#include <linux/platform_device.h>

#define for_each_client(node) \
	for_each_compatible_node(node, NULL, "harness,iommu-client")

static void destroy_devices(void)
{
	struct platform_device *pdev;
	struct device_node *node;

	for_each_client(node) {
		pdev = of_find_device_by_node(node);
		if (!pdev)
			continue;
		of_platform_device_destroy(&pdev->dev, NULL);
		put_device(&pdev->dev);
	}
}

/* Do nothing if the device exists or its node is disabled. */
static int create_device(struct device_node *node)
{
	struct platform_device *pdev = of_find_device_by_node(node);

	if (pdev) {
		put_device(&pdev->dev);
		return 0;
	}
	if (!of_device_is_available(node))
		return 0;
	return of_platform_device_create(node, NULL, NULL) ? 0 : -ENODEV;
}

static int create_devices(void)
{
	struct device_node *node;
	int ret;

	for_each_client(node) {
		ret = create_device(node);
		if (ret) {
			of_node_put(node);
			destroy_devices();
			return ret;
		}
	}
	return 0;
}

static int set_present(const char *text, const struct kernel_param *param)
{
	bool present;
	int ret = kstrtobool(text, &present);

	if (ret)
		return ret;
	if (present)
		return create_devices();
	destroy_devices();
	return 0;
}

static const struct kernel_param_ops present_ops = { .set = set_present };
module_param_cb(present, &present_ops, NULL, 0200);
MODULE_PARM_DESC(present, "create the devices (1) or destroy them (0)");

static int __init iommu_client_device_init(void)
{
	return create_devices();
}
module_init(iommu_client_device_init);

static void __exit iommu_client_device_exit(void)
{
	destroy_devices();
}
module_exit(iommu_client_device_exit);

MODULE_DESCRIPTION("Creates and destroys the devices of the IOMMU clients");
MODULE_LICENSE("GPL");
