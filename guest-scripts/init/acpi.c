// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PCI devices for which ACPI names an IOMMU: by the Virtual I/O Translation table
 * (VIOT, ACPI 6.5, 5.2.34) or the I/O Remapping table (IORT, Arm DEN 0049E). Only the first
 * PCI segment is read, and only tables of up to 4 KiB, which QEMU's are.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "guest.h"

#define TABLES "/sys/firmware/acpi/tables/"

/* Node types. */
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

/* A little-endian value; bytes beyond the table's end read as 0. */
static uint32_t read_le(const struct table *table, size_t offset, unsigned int width)
{
	uint32_t value = 0;

	while (width--)
		value = value << 8 |
			(offset + width < table->size ? table->bytes[offset + width] : 0);
	return value;
}

/* QEMU's PCI range includes the IOMMU itself, which is behind none (viot_dev_iommu_init). */
static bool is_behind(const struct table *viot, size_t iommu, unsigned int requester)
{
	return read_le(viot, iommu, 1) != VIOT_VIRTIO_PCI ||
	       read_le(viot, iommu + 6, 2) != requester;
}

static bool viot_names(const struct table *viot, unsigned int requester)
{
	unsigned int count = read_le(viot, 36, 2);
	size_t node = read_le(viot, 38, 2);

	for (; count--; node += read_le(viot, node + 2, 2))
		if (read_le(viot, node, 1) == VIOT_PCI_RANGE &&
		    requester >= read_le(viot, node + 12, 2) &&
		    requester <= read_le(viot, node + 14, 2) &&
		    is_behind(viot, read_le(viot, node + 16, 2), requester))
			return true;
	return false;
}

/* Whether an ID mapping covers the requester and leads to an SMMU; others lead to the ITS. */
static bool maps(const struct table *iort, size_t mapping, unsigned int requester)
{
	uint32_t first = read_le(iort, mapping, 4);

	return requester >= first && requester - first <= read_le(iort, mapping + 4, 4) &&
	       read_le(iort, read_le(iort, mapping + 12, 4), 1) == IORT_SMMUV3;
}

static bool iort_names(const struct table *iort, unsigned int requester)
{
	unsigned int count = read_le(iort, 36, 4);
	size_t node = read_le(iort, 40, 4);

	for (; count--; node += read_le(iort, node + 1, 2)) {
		unsigned int mappings = read_le(iort, node + 8, 4);
		size_t mapping = node + read_le(iort, node + 12, 4);

		if (read_le(iort, node, 1) != IORT_ROOT_COMPLEX)
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
