// SPDX-License-Identifier: GPL-2.0-only
/*
 * A user of VFIO, as small as one can be.
 *
 * vfio viable GROUP		is the group free of kernel drivers?
 * vfio open group GROUP [DEVICE]	open, set the container up, take the device
 * vfio open cdev DEVICE	the same with iommufd and the device's own file
 * vfio hold ...		as open, and keep it in the background until killed
 *
 * What succeeds prints a word, for "hold" the process to kill; what fails prints
 * "STEP: ERRNO". The exit status is the errno, 0 without one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"

/* Younger than the headers of Debian 12: include/uapi/linux/{vfio,iommufd}.h of 6.6. */
struct bind_iommufd {
	uint32_t argsz, flags;
	int32_t iommufd;
	uint32_t out_devid;
};
#define BIND_IOMMUFD	_IO(VFIO_TYPE, VFIO_BASE + 18)

struct attach_pt {
	uint32_t argsz, flags, pt_id;
};
#define ATTACH_PT	_IO(VFIO_TYPE, VFIO_BASE + 19)

struct ioas_alloc {
	uint32_t size, flags, out_ioas_id;
};
#define IOAS_ALLOC	_IO(VFIO_TYPE, 0x81)

static int failed(const char *step)
{
	int error = errno;

	fprintf(stderr, "%s: %s\n", step, strerrorname_np(error));
	return error ? error : EINVAL;
}

static int open_group(const char *group)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/vfio/%s", group);
	return open(path, O_RDWR | O_CLOEXEC);
}

static int viable(const char *number)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int group = open_group(number);

	if (group < 0)
		return failed("open group");
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		return failed("VFIO_GROUP_GET_STATUS");
	puts(status.flags & VFIO_GROUP_FLAGS_VIABLE ? "viable" : "not viable");
	return 0;
}

/* In the order of Documentation/driver-api/vfio.rst. */
static int take_group(const char *number, const char *device)
{
	int container, group;

	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0)
		return failed("open container");
	group = open_group(number);
	if (group < 0)
		return failed("open group");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		return failed("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return failed("VFIO_SET_IOMMU");
	if (device && ioctl(group, VFIO_GROUP_GET_DEVICE_FD, device) < 0)
		return failed("VFIO_GROUP_GET_DEVICE_FD");
	return 0;
}

/* /dev/vfio/devices/vfioN, by the name that sysfs gives the device. */
static int open_cdev(const char *device)
{
	char path[512];
	struct dirent *entry;
	DIR *names;
	int fd = -1;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", device);
	names = opendir(path);
	if (!names)
		return -1;
	errno = ENOENT;
	while (fd < 0 && (entry = readdir(names))) {
		if (strncmp(entry->d_name, "vfio", 4))
			continue;
		snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	closedir(names);
	return fd;
}

static int take_cdev(const char *device)
{
	struct ioas_alloc ioas = { .size = sizeof(ioas) };
	struct bind_iommufd bind = { .argsz = sizeof(bind) };
	struct attach_pt attach = { .argsz = sizeof(attach) };
	int fd = open_cdev(device);

	if (fd < 0)
		return failed("open cdev");
	bind.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (bind.iommufd < 0)
		return failed("open /dev/iommu");
	if (ioctl(fd, BIND_IOMMUFD, &bind))
		return failed("VFIO_DEVICE_BIND_IOMMUFD");
	if (ioctl(bind.iommufd, IOAS_ALLOC, &ioas))
		return failed("IOMMU_IOAS_ALLOC");
	attach.pt_id = ioas.out_ioas_id;
	if (ioctl(fd, ATTACH_PT, &attach))
		return failed("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	return 0;
}

static int take(int argc, char **argv)
{
	if (argc >= 2 && !strcmp(argv[0], "group"))
		return take_group(argv[1], argc > 2 ? argv[2] : NULL);
	if (argc == 2 && !strcmp(argv[0], "cdev"))
		return take_cdev(argv[1]);
	fprintf(stderr, "vfio: group GROUP [DEVICE] or cdev DEVICE\n");
	return EINVAL;
}

/* The child takes it, and keeps what it has opened; its status comes by the pipe. */
static int hold(int argc, char **argv)
{
	int ends[2], status = EPIPE;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) || (pid = fork()) < 0)
		return failed("fork");
	if (pid == 0) {
		setsid();
		status = take(argc, argv);
		fflush(NULL);
		for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
			close(fd);
		if (write(ends[1], &status, sizeof(status)) < 0 || status)
			_exit(status);
		for (;;)
			pause();
	}
	close(ends[1]);
	if (read(ends[0], &status, sizeof(status)) != sizeof(status))
		return EPIPE;
	if (!status)
		printf("%d\n", pid);
	return status;
}

int vfio_main(int argc, char **argv)
{
	int status;

	if (argc == 3 && !strcmp(argv[1], "viable"))
		return viable(argv[2]);
	if (argc > 2 && !strcmp(argv[1], "hold"))
		return hold(argc - 2, argv + 2);
	if (argc > 2 && !strcmp(argv[1], "open")) {
		status = take(argc - 2, argv + 2);
		if (!status)
			puts("open");
		return status;
	}
	fprintf(stderr, "vfio: viable, open or hold\n");
	return EINVAL;
}
