// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the kernel shows of modules, IOMMU groups and devices, in one pass.
 *
 * deferred NAME
 * module NAME STATE REFCOUNT HOLDER,HOLDER
 * group ID TYPE DEVICE,DEVICE
 * device BUS NAME DRIVER GROUP FIRMWARE
 *
 * "-" stands for nothing, and "?" for a type that the kernel does not give
 * because a task that died holds the group's lock. FIRMWARE is "iommu" where the device tree names an
 * IOMMU for the device: "iommus" in its own node or, for a PCI device,
 * "iommu-map" in the host bridge's. Names with a space in them do not occur
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
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define MODULES	"/sys/module"
#define GROUPS	"/sys/kernel/iommu_groups"
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

/* The descriptor that the types come on. Twice forked: nobody waits for it. */
static int start_types(char **names, int count)
{
	int ends[2];
	pid_t child;

	if (pipe(ends) || (child = fork()) < 0)
		return -1;
	if (child == 0) {
		if (fork() == 0) {
			close(STDOUT_FILENO);
			close(STDERR_FILENO);
			write_types(ends[1], names, count);
		}
		_exit(0);
	}
	close(ends[1]);
	waitpid(child, NULL, 0);
	return ends[0];
}

/* The next type, or "?" where the kernel does not give it. */
static void read_type(int fd, char *type, size_t size)
{
	struct pollfd ready = { fd, POLLIN, 0 };
	size_t used = 0;

	while (used < size - 1) {
		if (poll(&ready, 1, TYPE_TIMEOUT_MS) <= 0 ||
		    read(fd, type + used, 1) <= 0) {
			strcpy(type, "?");
			return;
		}
		if (type[used] == '\n')
			break;
		used++;
	}
	type[used] = '\0';
}

static void print_groups(void)
{
	char path[PATH_MAX], type[64] = "";
	struct dirent **entries;
	int count = scandir(GROUPS, &entries, is_entry, alphasort);
	char **names;
	int fd;

	if (count <= 0)
		return;
	names = calloc(count, sizeof(*names));
	for (int i = 0; i < count; i++)
		names[i] = entries[i]->d_name;
	fd = start_types(names, count);
	for (int i = 0; i < count; i++) {
		/* After one that does not come there will be no other. */
		if (strcmp(type, "?"))
			read_type(fd, type, sizeof(type));
		printf("group ");
		print_word(names[i]);
		putchar(' ');
		print_word(type);
		putchar(' ');
		snprintf(path, sizeof(path), GROUPS "/%s/devices", names[i]);
		print_names(path);
		putchar('\n');
	}
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
	print_groups();
	each("/sys/bus/pci/devices", print_device);
	each("/sys/bus/platform/devices", print_device);
	return 0;
}
