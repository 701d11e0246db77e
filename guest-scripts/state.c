// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel shows of modules, IOMMU groups and devices, in one pass.
 *
 * deferred NAME
 * module NAME STATE REFCOUNT HOLDER,HOLDER
 * group ID TYPE DEVICE,DEVICE
 * iommu NAME DEVICE,DEVICE
 * device BUS NAME DRIVER GROUP IOMMU FIRMWARE
 *
 * "-" stands for nothing, and "?" for a type that the kernel does not give
 * because a task that died holds the group's lock. A line "iommu" has the devices that
 * the IOMMU links to, and IOMMU in a device's the one that the device links to.
 * FIRMWARE is "iommu" where the device tree names an IOMMU for the device: "iommus" in
 * its own node or, for a PCI device, "iommu-map" in the host bridge's. Names with a space in them do not occur
 * on these buses; a blank is printed as "?" all the same.
 */
#include <ctype.h>
#include <dirent.h>
#include <endian.h>
#include <limits.h>
#include <poll.h>
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
/* For what takes microseconds when it comes at all. */
#define TYPE_TIMEOUT_MS 500
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

/*
 * One line of /proc/modules: NAME SIZE REFCOUNT HOLDER,HOLDER, STATE ADDRESS. Without
 * CONFIG_MODULE_UNLOAD there is no count: such modules are nobody's subject. One that
 * cannot be unloaded has "[permanent]," for its last holder.
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
	/* As initstate has it: Live, Loading, Unloading. */
	state = *state == 'L' ? state[1] == 'i' ? "live" : "coming" : "going";
	printf("module %s %s %s ", name, state, refcount);
	print_word(holders);
	putchar('\n');
}

/* All in one read: sysfs takes three for each module, and a look at built-in ones. */
static void print_modules(void)
{
	char line[1024];
	FILE *file = fopen(MODULES, "re");

	while (file && fgets(line, sizeof(line), file))
		print_module(line);
	if (file)
		fclose(file);
}

/*
 * Writes "TYPE\n" of each group, in order. Reading a type takes the group's
 * mutex (iommu_group_show_type), which a task that oopsed may hold for ever:
 * this runs in a process of its own, which then stays behind.
 */
static void write_types(int fd, char **names, int count)
{
	char path[PATH_MAX], type[64];

	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), GROUPS "/%s/type", names[i]);
		if (read_line(path, type, sizeof(type)))
			strcpy(type, "-");
		dprintf(fd, "%s\n", type);
	}
}

/*
 * The descriptor that the types come on. Nobody waits for the process: it may stay for
 * ever, and is init's when this one ends.
 */
static int start_types(char **names, int count)
{
	int ends[2];
	pid_t child;

	if (pipe(ends) || (child = fork()) < 0)
		return -1;
	if (child == 0) {
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		write_types(ends[1], names, count);
		_exit(0);
	}
	close(ends[1]);
	return ends[0];
}

/* As many types as come in time, a line each. */
static void read_types(int fd, char *types, size_t size)
{
	struct pollfd ready = { fd, POLLIN, 0 };
	size_t used = 0;
	ssize_t got;

	while (used < size - 1 && poll(&ready, 1, TYPE_TIMEOUT_MS) > 0) {
		got = read(fd, types + used, size - 1 - used);
		if (got <= 0)
			break;
		used += got;
	}
	types[used] = '\0';
}

static void print_groups(void)
{
	static char types[65536];
	char path[PATH_MAX], *type = types, *end;
	struct dirent **entries;
	int count = scandir(GROUPS, &entries, is_entry, alphasort);
	char **names;

	if (count <= 0)
		return;
	names = calloc(count, sizeof(*names));
	for (int i = 0; i < count; i++)
		names[i] = entries[i]->d_name;
	read_types(start_types(names, count), types, sizeof(types));
	for (int i = 0; i < count; i++) {
		printf("group ");
		print_word(names[i]);
		putchar(' ');
		/* After one that does not come there is no other. */
		end = strchr(type, '\n');
		if (end) {
			*end = '\0';
			print_word(type);
			type = end + 1;
		} else {
			putchar('?');
		}
		putchar(' ');
		snprintf(path, sizeof(path), GROUPS "/%s/devices", names[i]);
		print_names(path);
		putchar('\n');
	}
}

static void print_iommu(const char *directory, const char *name)
{
	char path[PATH_MAX];

	printf("iommu ");
	print_word(name);
	putchar(' ');
	snprintf(path, sizeof(path), "%s/%s/devices", directory, name);
	print_names(path);
	putchar('\n');
}

/*
 * Whether "iommu-map" has the requester ID of a PCI device: ranges of base, phandle,
 * IOMMU base and length (Documentation/devicetree/bindings/pci/pci-iommu.txt). QEMU
 * leaves a hole for a virtio-iommu, which is behind no IOMMU.
 */
static int maps_requester(const char *path, const char *name)
{
	unsigned int domain, bus, slot, function, id;
	uint32_t range[4];
	int found = 0;
	FILE *file;

	if (sscanf(name, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
		return 0;
	id = bus << 8 | slot << 3 | function;
	file = fopen(path, "re");
	while (file && fread(range, sizeof(range), 1, file) == 1)
		found |= id >= be32toh(range[0]) &&
			 id - be32toh(range[0]) < be32toh(range[3]);
	if (file)
		fclose(file);
	return found;
}

/* The host bridge's node is that of the nearest ancestor that has one. */
static int firmware_names_iommu(const char *directory, const char *name)
{
	char path[PATH_MAX], property[2 * PATH_MAX];
	char *slash;
	ssize_t n;

	snprintf(property, sizeof(property), "%s/%s/of_node/iommus", directory, name);
	if (!access(property, F_OK))
		return 1;
	if (!strstr(directory, "/pci/"))
		return 0;
	snprintf(property, sizeof(property), "%s/%s", directory, name);
	n = readlink(property, path, sizeof(path) - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	/* Relative to the directory, and ends at the "..". */
	while ((slash = strrchr(path, '/'))) {
		*slash = '\0';
		snprintf(property, sizeof(property), "%s/%s/of_node/iommu-map", directory, path);
		if (!access(property, F_OK))
			return maps_requester(property, name);
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
	putchar(' ');
	snprintf(path, sizeof(path), "%s/%s/iommu", directory, name);
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
	print_modules();
	print_groups();
	each(IOMMUS, print_iommu);
	each("/sys/bus/pci/devices", print_device);
	each("/sys/bus/platform/devices", print_device);
	return 0;
}
