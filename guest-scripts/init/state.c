// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state: modules, IOMMU groups and devices as the kernel shows them, in one pass.
 *
 * deferred NAME
 * module NAME STATE REFCOUNT HOLDER,HOLDER
 * group ID DEVICE,DEVICE
 * iommu NAME DEVICE,DEVICE
 * device BUS NAME DRIVER GROUP IOMMU FIRMWARE
 * type GROUP TYPE
 *
 * "-" stands for an empty field; a blank in a name, which does not occur on these buses, is
 * printed as "?". The types are last: reading one takes the group's mutex
 * (iommu_group_show_type), which a task that oopsed may hold forever; init.c has the timeout
 * (TYPES_TIMEOUT_MS). A line "iommu" lists the devices that the IOMMU links to; IOMMU in a
 * line "device" is the one that the device links to. FIRMWARE is "iommu" if the firmware
 * names an IOMMU for the device: a device tree by "iommus" in the device's node or, for a
 * PCI device, by "iommu-map" in the host bridge's node; ACPI by the tables that acpi.c reads.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <endian.h>
#include <limits.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define MODULES	"/proc/modules"
#define GROUPS	"/sys/kernel/iommu_groups"
#define IOMMUS	"/sys/class/iommu"
/* Absent if the kernel has no debugfs. */
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

/* Call visit for each name in a directory, sorted; an absent directory is empty. */
static int for_each_entry(const char *directory, void (*visit)(const char *, const char *))
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

static int printed_names;

static void print_name(const char *directory, const char *name)
{
	(void)directory;
	if (printed_names++)
		putchar(',');
	print_word(name);
}

static void print_names(const char *directory)
{
	printed_names = 0;
	if (!for_each_entry(directory, print_name))
		putchar('-');
}

/* The last part of a symlink's target, or "-" if there is no such symlink. */
static void print_link(int directory, const char *name)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(directory, name, target, sizeof(target) - 1);
	char *slash;

	if (n < 0) {
		putchar('-');
		return;
	}
	target[n] = '\0';
	slash = strrchr(target, '/');
	print_word(slash ? slash + 1 : target);
}

/*
 * One line of /proc/modules: NAME SIZE REFCOUNT HOLDER,HOLDER, STATE ADDRESS. Without
 * CONFIG_MODULE_UNLOAD there is no refcount, and the module is skipped. The last holder of
 * a module that cannot be unloaded is "[permanent],".
 */
static void print_module(char *line)
{
	char *name = strtok(line, " "), *refcount, *holders, *state, *mark;

	strtok(NULL, " ");
	refcount = strtok(NULL, " ");
	holders = strtok(NULL, " ");
	state = strtok(NULL, " ");
	if (!state || !strcmp(refcount, "-"))
		return;
	mark = strstr(holders, "[permanent]");
	if (mark)
		*mark = '\0';
	if (!strcmp(holders, "-"))
		*holders = '\0';
	else if (*holders)
		holders[strlen(holders) - 1] = '\0';
	/* The words of /sys/module/NAME/initstate, for Live, Loading and Unloading. */
	state = *state == 'L' ? state[1] == 'i' ? "live" : "coming" : "going";
	printf("module %s %s %s ", name, state, refcount);
	print_word(holders);
	putchar('\n');
}

/* One file for all: sysfs has three files per module, and built-in modules too. */
static void print_modules(void)
{
	char line[1024];
	FILE *file = fopen(MODULES, "re");

	while (file && fgets(line, sizeof(line), file))
		print_module(line);
	if (file)
		fclose(file);
}

static void print_with_devices(const char *kind, const char *directory, const char *name)
{
	char path[PATH_MAX];

	printf("%s ", kind);
	print_word(name);
	putchar(' ');
	snprintf(path, sizeof(path), "%s/%s/devices", directory, name);
	print_names(path);
	putchar('\n');
}

static void print_group(const char *directory, const char *name)
{
	print_with_devices("group", directory, name);
}

static void print_iommu(const char *directory, const char *name)
{
	print_with_devices("iommu", directory, name);
}

static void print_type(const char *directory, const char *name)
{
	char path[PATH_MAX], type[64];

	snprintf(path, sizeof(path), "%s/%s/type", directory, name);
	if (read_line(path, type, sizeof(type)))
		*type = '\0';
	printf("type ");
	print_word(name);
	putchar(' ');
	print_word(type);
	putchar('\n');
	/* Reading the next type may block. */
	fflush(stdout);
}

/*
 * Whether "iommu-map" covers the requester ID of a PCI device: ranges of base, phandle,
 * IOMMU base and length (Documentation/devicetree/bindings/pci/pci-iommu.txt). QEMU leaves
 * out the virtio-iommu itself, which is behind no IOMMU.
 */
static int maps_requester(const char *path, unsigned int id)
{
	uint32_t range[4];
	int found = 0;
	FILE *file = fopen(path, "re");

	while (file && fread(range, sizeof(range), 1, file) == 1)
		found |= id >= be32toh(range[0]) &&
			 id - be32toh(range[0]) < be32toh(range[3]);
	if (file)
		fclose(file);
	return found;
}

/* The host bridge is the nearest ancestor with a node that has "iommu-map"; ACPI has none. */
static int bridge_maps(const char *bus, const char *name)
{
	unsigned int domain, number, slot, function, id;
	char path[PATH_MAX], property[2 * PATH_MAX];
	char *slash;
	ssize_t n;

	if (sscanf(name, "%x:%x:%x.%x", &domain, &number, &slot, &function) != 4)
		return 0;
	id = number << 8 | slot << 3 | function;
	snprintf(property, sizeof(property), "%s/%s", bus, name);
	n = readlink(property, path, sizeof(path) - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	/* The target is relative to the directory; the walk ends at its "..". */
	while ((slash = strrchr(path, '/'))) {
		*slash = '\0';
		snprintf(property, sizeof(property), "%s/%s/of_node/iommu-map", bus, path);
		if (!access(property, F_OK))
			return maps_requester(property, id);
	}
	return acpi_names_iommu(id);
}

/* Resolve the device's path once, and its links relative to that. */
static void print_device(const char *bus, const char *name)
{
	bool pci = strstr(bus, "/pci/");
	char path[PATH_MAX];
	int device;

	snprintf(path, sizeof(path), "%s/%s", bus, name);
	device = open(path, O_PATH | O_CLOEXEC);
	printf("device %s ", pci ? "pci" : "platform");
	print_word(name);
	putchar(' ');
	print_link(device, "driver");
	putchar(' ');
	print_link(device, "iommu_group");
	putchar(' ');
	print_link(device, "iommu");
	puts(!faccessat(device, "of_node/iommus", F_OK, 0) || (pci && bridge_maps(bus, name)) ?
	     " iommu" : " -");
	close(device);
}

/* Each line is "NAME\treason". */
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

/* Everything but the types. */
static void print_untyped(void)
{
	print_deferred();
	print_modules();
	for_each_entry(GROUPS, print_group);
	for_each_entry(IOMMUS, print_iommu);
	for_each_entry("/sys/bus/pci/devices", print_device);
	for_each_entry("/sys/bus/platform/devices", print_device);
}

void state_main(int requests, volatile int *phase)
{
	char request;

	while (read(requests, &request, 1) == 1) {
		*phase = STATE_READING;
		print_untyped();
		*phase = STATE_TYPES;
		fflush(stdout);
		for_each_entry(GROUPS, print_type);
		putchar(STATE_END);
		fflush(stdout);
	}
}
