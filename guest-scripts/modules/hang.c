// SPDX-License-Identifier: GPL-2.0-only
/* Loading it hangs its processor for ever, with interrupts off. */
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/processor.h>

static int __init hang_init(void)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
	return 0;
}
module_init(hang_init);

MODULE_DESCRIPTION("A processor that hangs");
MODULE_LICENSE("GPL");
