// SPDX-License-Identifier: GPL-2.0-only
/*
 * Make an e1000 or e1000e without a driver do DMA to memory that is not mapped for it.
 *
 * modprobe stray_dma device=0000:00:01.0 programs the NIC with the physical address of a
 * ring of one descriptor. The NIC fetches the descriptor and writes a "done" bit back. The
 * parameter "reached" is Y if that write reached memory: nothing translated the DMA. It is
 * N if the DMA was blocked.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *device;
module_param(device, charp, 0444);
MODULE_PARM_DESC(device, "name of a PCI device");

static bool reached;
module_param(reached, bool, 0444);
MODULE_PARM_DESC(reached, "whether the DMA reached memory");

/* Registers and descriptors that both NICs have: 82574 datasheet, 10.2 and 7.2. */
enum { TCTL = 0x400, TDBAL = 0x3800, TDBAH = 0x3804, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818 };
#define TCTL_EN		BIT(1)
#define RING_BYTES	128
/* A context descriptor, which sends nothing, with its status to be written back. */
#define CONTEXT_REPORTED	(BIT(29) | BIT(27))
#define DONE		BIT(0)

struct descriptor {
	__le64 context;
	__le32 command, status;
};

static void transmit(void __iomem *registers, phys_addr_t ring)
{
	writel(0, registers + TCTL);
	writel(lower_32_bits(ring), registers + TDBAL);
	writel(upper_32_bits(ring), registers + TDBAH);
	writel(RING_BYTES, registers + TDLEN);
	writel(0, registers + TDH);
	writel(0, registers + TDT);
	writel(TCTL_EN, registers + TCTL);
	/* QEMU does the DMA before this write returns. */
	writel(1, registers + TDT);
	writel(0, registers + TCTL);
}

static int send_untranslated(struct pci_dev *pdev)
{
	struct descriptor *ring = (void *)get_zeroed_page(GFP_KERNEL);
	void __iomem *registers = pci_iomap(pdev, 0, 0);
	int ret = -ENOMEM;

	if (ring && registers) {
		ring->command = cpu_to_le32(CONTEXT_REPORTED);
		pci_set_master(pdev);
		transmit(registers, virt_to_phys(ring));
		pci_clear_master(pdev);
		reached = le32_to_cpu(READ_ONCE(ring->status)) & DONE;
		ret = 0;
	}
	if (registers)
		pci_iounmap(pdev, registers);
	free_page((unsigned long)ring);
	return ret;
}

static int __init stray_dma_init(void)
{
	struct device *dev = device ? bus_find_device_by_name(&pci_bus_type, NULL, device) : NULL;
	int ret;

	if (!dev)
		return -ENODEV;
	device_lock(dev);
	ret = dev->driver ? -EBUSY : pci_enable_device_mem(to_pci_dev(dev));
	if (!ret) {
		ret = send_untranslated(to_pci_dev(dev));
		pci_disable_device(to_pci_dev(dev));
	}
	device_unlock(dev);
	put_device(dev);
	return ret;
}

static void __exit stray_dma_exit(void)
{
}

module_init(stray_dma_init);
module_exit(stray_dma_exit);

MODULE_DESCRIPTION("DMA of a device without a driver");
MODULE_LICENSE("GPL");
