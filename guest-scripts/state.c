// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel shows of modules, IOMMU groups and devices, in one pass.
 *
 * deferred NAME
 * module NAME STATE REFCOUNT HOLDER,HOLDER
 * group ID TYPE DEVICE,DEVICE
 * device BUS NAME DRIVER GROUP FIRMWARE
 *
 * "-" stands for nothing. FIRMWARE is "iommu" where the device tree names an
 * IOMMU for the device: "iommus" in its own node or, for a PCI device,
 * "iommu-map" in the host bridge's. Names with a space in them do not occur
 * on these buses; a blank is printed as "?" all the same.
 */
#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define MODULES	"/sys/module"
#define GROUPS	"/sys/kernel/iommu_groups"
/* debugfs; absent where the kernel has none. */
#define DEFERRED "/sys/kernel/debug/devices_deferred"

int read_line(const char *path, char *line, size_t size)
{
	FILE *file = fopen(path, "re");
	char *got;

	if (!file)
		return -1;
	got = fgets(line, size, file);
	fclose(file);
	if (!got)
		return -1;
	line[strcspn(line, "\n")] = '\0';
	return 0;
}

static void print_word(const char *text)
{
	if (!*text)
		putchar('-');
	for (; *text; text++)
		putchar(isspace((unsigned char)*text) ? '?' : *text);
}

static int is_entry(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* Calls back for each name in a directory, sorted; a missing one is empty. */
static int each(const char *directory, void (*visit)(const char *, const char *))
{
	struct dirent **names;
	int count = scandir(directory, &names, is_entry, alphasort);

	for (int i = 0; i < count; i++) {
		visit(directory, names[i]->d_name);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	return count > 0 ? count : 0;
}

static int listed;

static void print_listed(const char *directory, const char *name)
{
	(void)directory;
	if (listed++)
		putchar(',');
	print_word(name);
}

static void print_names(const char *directory)
{
	listed = 0;
	if (!each(directory, print_listed))
		putchar('-');
}

/* The last part of where a link points to, or "-". */
static void print_link(const char *path)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	char *slash;

	if (n < 0) {
		putchar('-');
		return;
	}
	target[n] = '\0';
	slash = strrchr(target, '/');
	print_word(slash ? slash + 1 : target);
}

static void print_module(const char *directory, const char *name)
{
	char path[PATH_MAX], state[64], refcount[64];

	/* Built-in modules have no initstate. */
	snprintf(path, sizeof(path), "%s/%s/initstate", directory, name);
	if (read_line(path, state, sizeof(state)))
		return;
	snprintf(path, sizeof(path), "%s/%s/refcnt", directory, name);
	if (read_line(path, refcount, sizeof(refcount)))
		return;
	printf("module ");
	print_word(name);
	printf(" %s %s ", state, refcount);
	snprintf(path, sizeof(path), "%s/%s/holders", directory, name);
	print_names(path);
	putchar('\n');
}

static void print_group(const char *directory, const char *name)
{
	char path[PATH_MAX], type[64];

	snprintf(path, sizeof(path), "%s/%s/type", directory, name);
	if (read_line(path, type, sizeof(type)))
		strcpy(type, "-");
	printf("group ");
	print_word(name);
	putchar(' ');
	print_word(type);
	putchar(' ');
	snprintf(path, sizeof(path), "%s/%s/devices", directory, name);
	print_names(path);
	putchar('\n');
}

/* The host bridge's node is that of the nearest ancestor that has one. */
static int firmware_names_iommu(const char *directory, const char *name)
{
	char path[PATH_MAX], real[PATH_MAX], property[PATH_MAX + 32];
	char *slash;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	if (!realpath(path, real))
		return 0;
	snprintf(property, sizeof(property), "%s/of_node/iommus", real);
	if (!access(property, F_OK))
		return 1;
	if (!strstr(directory, "/pci/"))
		return 0;
	while ((slash = strrchr(real, '/')) && slash != real) {
		*slash = '\0';
		snprintf(property, sizeof(property), "%s/of_node/iommu-map", real);
		if (!access(property, F_OK))
			return 1;
	}
	return 0;
}

static void print_device(const char *directory, const char *name)
{
	char path[PATH_MAX];

	printf("device %s ", strstr(directory, "/pci/") ? "pci" : "platform");
	print_word(name);
	putchar(' ');
	snprintf(path, sizeof(path), "%s/%s/driver", directory, name);
	print_link(path);
	putchar(' ');
	snprintf(path, sizeof(path), "%s/%s/iommu_group", directory, name);
	print_link(path);
	puts(firmware_names_iommu(directory, name) ? " iommu" : " -");
}

/* "NAME\treason", a line each. */
static void print_deferred(void)
{
	char line[1024];
	FILE *file = fopen(DEFERRED, "re");

	if (!file)
		return;
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\t\n")] = '\0';
		printf("deferred ");
		print_word(line);
		putchar('\n');
	}
	fclose(file);
}

int state_main(void)
{
	print_deferred();
	each(MODULES, print_module);
	each(GROUPS, print_group);
	each("/sys/bus/pci/devices", print_device);
	each("/sys/bus/platform/devices", print_device);
	return 0;
}
