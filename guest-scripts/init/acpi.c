// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which PCI devices ACPI names an IOMMU for: the Virtual I/O Translation table (ACPI 6.5,
 * 5.2.34), or the I/O Remapping table (Arm DEN 0049E). Those of the first segment, and of
 * QEMU's tables, which are small.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "guest.h"

#define TABLES "/sys/firmware/acpi/tables/"

/* Types of nodes. */
enum { VIOT_PCI_RANGE = 1, VIOT_VIRTIO_PCI = 3 };
enum { IORT_ROOT_COMPLEX = 2, IORT_SMMUV3 = 4 };
#define IORT_MAPPING 20

struct table {
	unsigned char bytes[4096];
	size_t size;
};

static bool load(struct table *table, const char *path)
{
	FILE *file = fopen(path, "re");

	if (!file)
		return false;
	table->size = fread(table->bytes, 1, sizeof(table->bytes), file);
	fclose(file);
	return true;
}

/* Little-endian, and 0 beyond the end. */
static uint32_t at(const struct table *table, size_t offset, unsigned int width)
{
	uint32_t value = 0;

	while (width--)
		value = value << 8 |
			(offset + width < table->size ? table->bytes[offset + width] : 0);
	return value;
}

/* QEMU's range has the IOMMU too, which is behind none (viot_dev_iommu_init). */
static bool is_behind(const struct table *viot, size_t iommu, unsigned int requester)
{
	return at(viot, iommu, 1) != VIOT_VIRTIO_PCI || at(viot, iommu + 6, 2) != requester;
}

static bool viot_names(const struct table *viot, unsigned int requester)
{
	unsigned int count = at(viot, 36, 2);
	size_t node = at(viot, 38, 2);

	for (; count--; node += at(viot, node + 2, 2))
		if (at(viot, node, 1) == VIOT_PCI_RANGE &&
		    requester >= at(viot, node + 12, 2) &&
		    requester <= at(viot, node + 14, 2) &&
		    is_behind(viot, at(viot, node + 16, 2), requester))
			return true;
	return false;
}

/* Whether an ID mapping of a root complex leads to an SMMU; others lead to the ITS. */
static bool maps(const struct table *iort, size_t mapping, unsigned int requester)
{
	uint32_t first = at(iort, mapping, 4);

	return requester >= first && requester - first <= at(iort, mapping + 4, 4) &&
	       at(iort, at(iort, mapping + 12, 4), 1) == IORT_SMMUV3;
}

static bool iort_names(const struct table *iort, unsigned int requester)
{
	unsigned int count = at(iort, 36, 4);
	size_t node = at(iort, 40, 4);

	for (; count--; node += at(iort, node + 1, 2)) {
		unsigned int mappings = at(iort, node + 8, 4);
		size_t mapping = node + at(iort, node + 12, 4);

		if (at(iort, node, 1) != IORT_ROOT_COMPLEX)
			continue;
		for (; mappings--; mapping += IORT_MAPPING)
			if (maps(iort, mapping, requester))
				return true;
	}
	return false;
}

bool acpi_names_iommu(unsigned int requester)
{
	struct table table;

	if (load(&table, TABLES "VIOT"))
		return viot_names(&table, requester);
	return load(&table, TABLES "IORT") && iort_names(&table, requester);
}
