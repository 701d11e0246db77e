// SPDX-License-Identifier: GPL-2.0-only
/*
 * A minimal user of VFIO.
 *
 * vfio viable GROUP		print whether the group is free of kernel drivers
 * vfio open group GROUP [DEVICE]	open the group, set up its container, map memory, open the
 *				device; check that mapping absent memory is refused, and so is
 *				leaving the container under an open device
 * vfio open remap GROUP [DEVICE]	as group, without leaving the container; unmap all memory
 *				and map it again, while no more than that may be locked
 * vfio open groups GROUP...	several groups in one container
 * vfio open compat GROUP [DEVICE]	a group, with an iommufd as its container
 * vfio open cdev DEVICE...	iommufd and the devices' character devices, in one address
 *				space; close all devices but the last again
 * vfio open move DEVICE...	move the devices to a second address space; then map what they
 *				had reserved in the first, and destroy the first
 * vfio open return DEVICE	attach the device to a page table that is the first of its
 *				address space, detach it, and attach it again, with its reserved
 *				regions
 * vfio open replace DEVICE	replace the page table of the address space with one allocated
 *				last; unmap all memory and map it again, while no more than that
 *				may be locked
 * vfio hold ...		as open, and keep it open in the background until killed
 * vfio interrupts ...		as open, and enable MSI on the device opened last; its MSI
 *				writes go through the IOMMU like any other DMA
 *
 * Nothing is undone at the end: the kernel must clean up after a user that exits.
 *
 * Prints a word on success, "hold" the PID to kill; prints "STEP: ERRNO" on failure. The
 * exit status is the errno, or 0.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../init/guest.h"

/* From include/uapi/linux/{vfio,iommufd}.h of 6.6; Debian 12's headers are older. */
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

struct detach_pt {
	uint32_t argsz, flags;
};
#define DETACH_PT	_IO(VFIO_TYPE, VFIO_BASE + 20)

struct ioas_alloc {
	uint32_t size, flags, out_ioas_id;
};
#define IOAS_ALLOC	_IO(VFIO_TYPE, 0x81)

struct iova_range {
	uint64_t start, last;
};

struct ioas_allow {
	uint32_t size, ioas_id, num_iovas, reserved;
	uint64_t allowed_iovas;
};
#define IOAS_ALLOW_IOVAS	_IO(VFIO_TYPE, 0x82)

struct ioas_map {
	uint32_t size, flags, ioas_id, reserved;
	uint64_t user_va, length, iova;
};
#define IOAS_MAP	_IO(VFIO_TYPE, 0x85)
#define IOAS_MAP_FLAGS	7	/* fixed IOVA, writeable, readable */

struct ioas_unmap {
	uint32_t size, ioas_id;
	uint64_t iova, length;
};
#define IOAS_UNMAP	_IO(VFIO_TYPE, 0x86)

/* Without the fields added after 6.6, which are optional. */
struct hwpt_alloc {
	uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved;
};
#define HWPT_ALLOC	_IO(VFIO_TYPE, 0x89)

struct destroy {
	uint32_t size, id;
};
#define DESTROY		_IO(VFIO_TYPE, 0x80)

#define CONTAINER	"/dev/vfio/vfio"
#define IOMMUFD		"/dev/iommu"

/*
 * The mapped memory consists of pages, not of a block, so that the page table has a last
 * level. It is outside the MSI windows, which must not be mapped; WINDOW_AT is inside the
 * window of both IOMMUs. HIGH_AT does not fit in 32 bits.
 */
#define PAGE		4096
#define MAPPED_BYTES	(16 * PAGE)
#define MAPPED_AT	0x100000
#define HIGH_AT		0x100100000
#define WINDOW_AT	0x8090000

/* The group and the device that were opened last. */
static int group_fd = -1;
static int device_fd = -1;

static char mapped[MAPPED_BYTES] __attribute__((aligned(PAGE)));

static int failed(const char *step)
{
	int error = errno;

	fprintf(stderr, "%s: %s\n", step, strerrorname_np(error));
	return error ? error : EINVAL;
}

/*
 * Allow this process to lock as much memory as it maps, and no more. iommufd charges
 * nothing to a process with CAP_IPC_LOCK: iopt_alloc_pages.
 */
static int limit_locked_memory(void)
{
	struct rlimit limit = { .rlim_cur = MAPPED_BYTES, .rlim_max = MAPPED_BYTES };
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (setrlimit(RLIMIT_MEMLOCK, &limit) || syscall(SYS_capget, &header, data))
		return failed("RLIMIT_MEMLOCK");
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
	return syscall(SYS_capset, &header, data) ? failed("CAP_IPC_LOCK") : 0;
}

static int open_group(const char *number)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/vfio/%s", number);
	return open(path, O_RDWR | O_CLOEXEC);
}

static int viable(const char *number)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };

	group_fd = open_group(number);
	if (group_fd < 0)
		return failed("open group");
	if (ioctl(group_fd, VFIO_GROUP_GET_STATUS, &status))
		return failed("VFIO_GROUP_GET_STATUS");
	puts(status.flags & VFIO_GROUP_FLAGS_VIABLE ? "viable" : "not viable");
	return 0;
}

static int set_container(const char *number, int container)
{
	group_fd = open_group(number);
	if (group_fd < 0)
		return failed("open group");
	if (ioctl(group_fd, VFIO_GROUP_SET_CONTAINER, &container))
		return failed("VFIO_GROUP_SET_CONTAINER");
	return 0;
}

static int map_dma(int container)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)mapped,
		.iova = MAPPED_AT,
		.size = MAPPED_BYTES,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map) ? failed("VFIO_IOMMU_MAP_DMA") : 0;
}

static int unmap_dma(int container)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = MAPPED_AT,
		.size = MAPPED_BYTES,
	};

	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap))
		return failed("VFIO_IOMMU_UNMAP_DMA");
	if (unmap.size == MAPPED_BYTES)
		return 0;
	fprintf(stderr, "VFIO_IOMMU_UNMAP_DMA: unmapped %llu bytes\n", unmap.size);
	return EPROTO;
}

static int set_iommu(int container)
{
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return failed("VFIO_SET_IOMMU");
	return map_dma(container);
}

/*
 * Map absent memory twice: refused both times, since the first attempt must not occupy the
 * IOVA. An iommufd pins memory only once a device is attached.
 */
static int check_absent_memory(int container)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.iova = HIGH_AT,
		.size = PAGE,
	};

	for (int i = 0; i < 2; i++) {
		if (!ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) {
			fprintf(stderr, "VFIO_IOMMU_MAP_DMA: mapped absent memory\n");
			return EPROTO;
		}
		if (errno != EFAULT)
			return failed("VFIO_IOMMU_MAP_DMA of absent memory");
	}
	return 0;
}

/* In the order of Documentation/driver-api/vfio.rst. */
static int open_in_group(int container, int count, char **operands)
{
	int status = set_container(operands[0], container);

	if (!status)
		status = set_iommu(container);
	if (status || count < 2)
		return status;
	device_fd = ioctl(group_fd, VFIO_GROUP_GET_DEVICE_FD, operands[1]);
	return device_fd < 0 ? failed("VFIO_GROUP_GET_DEVICE_FD") : check_absent_memory(container);
}

static int use_group(int container, int count, char **operands)
{
	int status = open_in_group(container, count, operands);

	if (!status && device_fd >= 0 && !ioctl(group_fd, VFIO_GROUP_UNSET_CONTAINER)) {
		fprintf(stderr, "VFIO_GROUP_UNSET_CONTAINER: left under an open device\n");
		return EPROTO;
	}
	return status;
}

static int remap(int container, int count, char **operands)
{
	int status = limit_locked_memory();

	if (!status)
		status = open_in_group(container, count, operands);
	if (!status)
		status = unmap_dma(container);
	return status ? status : map_dma(container);
}

/* The first group joins before the IOMMU of the container is set, the others after that. */
static int use_groups(int container, int count, char **numbers)
{
	int status = open_in_group(container, 1, numbers);

	for (int i = 1; i < count && !status; i++)
		status = set_container(numbers[i], container);
	return status;
}

/* /dev/vfio/devices/vfioN, for the PCI device of that name. */
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

/* An address space (IOAS) of an iommufd. */
struct space {
	int iommufd;
	uint32_t id;
};

static int try_map(const struct space *space, uint64_t iova, uint64_t length)
{
	struct ioas_map map = {
		.size = sizeof(map),
		.flags = IOAS_MAP_FLAGS,
		.ioas_id = space->id,
		.user_va = (uintptr_t)mapped,
		.length = length,
		.iova = iova,
	};

	return ioctl(space->iommufd, IOAS_MAP, &map);
}

static int map_into(const struct space *space, uint64_t iova, uint64_t length)
{
	return try_map(space, iova, length) ? failed("IOMMU_IOAS_MAP") : 0;
}

static int unmap_from(const struct space *space, uint64_t iova, uint64_t length)
{
	struct ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = space->id,
		.iova = iova,
		.length = length,
	};

	return ioctl(space->iommufd, IOAS_UNMAP, &unmap) ? failed("IOMMU_IOAS_UNMAP") : 0;
}

/*
 * The MSI window is reserved while a device is attached to the address space: it can be
 * neither mapped nor set as the only allowed range.
 */
static int check_reserved_window(const struct space *space)
{
	struct iova_range window = { .start = WINDOW_AT, .last = WINDOW_AT + PAGE - 1 };
	struct ioas_allow allow = {
		.size = sizeof(allow),
		.ioas_id = space->id,
		.num_iovas = 1,
		.allowed_iovas = (uintptr_t)&window,
	};

	if (!try_map(space, WINDOW_AT, PAGE)) {
		fprintf(stderr, "IOMMU_IOAS_MAP: mapped a reserved window\n");
		return EPROTO;
	}
	if (!ioctl(space->iommufd, IOAS_ALLOW_IOVAS, &allow)) {
		fprintf(stderr, "IOMMU_IOAS_ALLOW_IOVAS: allowed a reserved window\n");
		return EPROTO;
	}
	return errno == EADDRINUSE ? 0 : failed("IOMMU_IOAS_ALLOW_IOVAS");
}

static int alloc_space(int iommufd, struct space *space)
{
	struct ioas_alloc ioas = { .size = sizeof(ioas) };

	if (ioctl(iommufd, IOAS_ALLOC, &ioas))
		return failed("IOMMU_IOAS_ALLOC");
	*space = (struct space){ .iommufd = iommufd, .id = ioas.out_ioas_id };
	return map_into(space, MAPPED_AT, MAPPED_BYTES);
}

/* Allocate a page table of an absent object: refused, and no reference is kept. */
static int check_absent_object(int iommufd, uint32_t device)
{
	struct hwpt_alloc alloc = { .size = sizeof(alloc), .dev_id = device, .pt_id = ~0u };

	if (ioctl(iommufd, HWPT_ALLOC, &alloc) && errno == EINVAL)
		return 0;
	fprintf(stderr, "IOMMU_HWPT_ALLOC: of an absent object is not EINVAL\n");
	return EPROTO;
}

static int bind_cdev(int iommufd, const char *device, int *fd, uint32_t *id)
{
	struct bind_iommufd bind = { .argsz = sizeof(bind) };

	*fd = open_cdev(device);
	if (*fd < 0)
		return failed("open cdev");
	/* A descriptor that is not an iommufd is refused, and changes nothing. */
	bind.iommufd = *fd;
	if (!ioctl(*fd, BIND_IOMMUFD, &bind)) {
		fprintf(stderr, "VFIO_DEVICE_BIND_IOMMUFD: bound to no iommufd\n");
		return EPROTO;
	}
	/* A device that may not be bound at all fails with another errno, before this check. */
	bind.iommufd = iommufd;
	if (errno != EBADFD || ioctl(*fd, BIND_IOMMUFD, &bind))
		return failed("VFIO_DEVICE_BIND_IOMMUFD");
	*id = bind.out_devid;
	device_fd = *fd;
	/* A second bind is refused, and the first one stays. */
	if (!ioctl(*fd, BIND_IOMMUFD, &bind) || errno != EINVAL) {
		fprintf(stderr, "VFIO_DEVICE_BIND_IOMMUFD: bound a second time\n");
		return EPROTO;
	}
	return check_absent_object(iommufd, *id);
}

/* Twice: replacing a page table with itself must change nothing, references included. */
static int attach(int fd, uint32_t table)
{
	for (int i = 0; i < 2; i++) {
		struct attach_pt attach = { .argsz = sizeof(attach), .pt_id = table };

		if (ioctl(fd, ATTACH_PT, &attach))
			return failed("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	}
	return 0;
}

/* A page table that the user allocates stays when the device is detached from it. */
static int attach_new_page_table(const struct space *space, int fd, uint32_t device,
				 uint32_t *table)
{
	struct hwpt_alloc alloc = { .size = sizeof(alloc), .dev_id = device, .pt_id = space->id };

	if (ioctl(space->iommufd, HWPT_ALLOC, &alloc))
		return failed("IOMMU_HWPT_ALLOC");
	*table = alloc.out_hwpt_id;
	return attach(fd, *table);
}

static int attach_all(const struct space *space, int count, char **devices, int *fds)
{
	int status = 0;
	uint32_t id;

	for (int i = 0; i < count && !status; i++) {
		status = bind_cdev(space->iommufd, devices[i], &fds[i], &id);
		if (!status)
			status = attach(fds[i], space->id);
	}
	return status;
}

static int use_cdevs(int iommufd, int count, char **devices)
{
	struct space space;
	int fds[count], status = alloc_space(iommufd, &space);

	if (!status)
		status = attach_all(&space, count, devices, fds);
	for (int i = 0; i < count - 1 && !status; i++)
		close(fds[i]);
	return status;
}

static int move_cdevs(int iommufd, int count, char **devices)
{
	struct space first, second;
	struct destroy destroy = { .size = sizeof(destroy) };
	int fds[count], status = alloc_space(iommufd, &first);

	if (!status)
		status = attach_all(&first, count, devices, fds);
	if (!status)
		status = check_reserved_window(&first);
	if (!status)
		status = alloc_space(iommufd, &second);
	for (int i = 0; i < count && !status; i++)
		status = attach(fds[i], second.id);
	if (!status)
		status = map_into(&first, WINDOW_AT, PAGE);
	destroy.id = first.id;
	if (!status && ioctl(iommufd, DESTROY, &destroy))
		status = failed("IOMMU_DESTROY");
	return status;
}

static int replace_page_table(int iommufd, int count __attribute__((unused)), char **device)
{
	struct space space;
	uint32_t id, table;
	int fd, status = limit_locked_memory();

	if (!status)
		status = alloc_space(iommufd, &space);
	if (!status)
		status = bind_cdev(iommufd, *device, &fd, &id);
	if (!status)
		status = attach(fd, space.id);
	if (!status)
		status = attach_new_page_table(&space, fd, id, &table);
	if (!status)
		status = check_reserved_window(&space);
	if (!status)
		status = unmap_from(&space, MAPPED_AT, MAPPED_BYTES);
	return status ? status : map_into(&space, MAPPED_AT, MAPPED_BYTES);
}

static int return_cdev(int iommufd, int count __attribute__((unused)), char **device)
{
	struct space space;
	struct detach_pt detach = { .argsz = sizeof(detach) };
	uint32_t id, table;
	int fd, status = alloc_space(iommufd, &space);

	if (!status)
		status = map_into(&space, HIGH_AT, PAGE);
	if (!status)
		status = bind_cdev(iommufd, *device, &fd, &id);
	if (!status)
		status = attach_new_page_table(&space, fd, id, &table);
	if (!status)
		status = check_reserved_window(&space);
	if (!status && ioctl(fd, DETACH_PT, &detach))
		status = failed("VFIO_DEVICE_DETACH_IOMMUFD_PT");
	return status ? status : attach(fd, table);
}

/* The modes of open and hold: operands, the file to open, the maximum number of operands. */
static const struct mode {
	const char *name, *usage, *path;
	int max_operands;
	int (*run)(int fd, int count, char **operands);
} modes[] = {
	{ "group", "GROUP [DEVICE]", CONTAINER, 2, use_group },
	{ "remap", "GROUP [DEVICE]", CONTAINER, 2, remap },
	{ "groups", "GROUP...", CONTAINER, INT_MAX, use_groups },
	{ "compat", "GROUP [DEVICE]", IOMMUFD, 2, open_in_group },
	{ "cdev", "DEVICE...", IOMMUFD, INT_MAX, use_cdevs },
	{ "move", "DEVICE...", IOMMUFD, INT_MAX, move_cdevs },
	{ "return", "DEVICE", IOMMUFD, 1, return_cdev },
	{ "replace", "DEVICE", IOMMUFD, 1, replace_page_table },
};
#define MODES (sizeof(modes) / sizeof(*modes))

static int open_mode(int argc, char **argv)
{
	for (const struct mode *mode = modes; mode < modes + MODES; mode++) {
		int fd, count = argc - 1;
		char step[32];

		if (strcmp(mode->name, argv[0]) || count < 1 || count > mode->max_operands)
			continue;
		snprintf(step, sizeof(step), "open %s", mode->path);
		fd = open(mode->path, O_RDWR | O_CLOEXEC);
		return fd < 0 ? failed(step) : mode->run(fd, count, argv + 1);
	}
	for (const struct mode *mode = modes; mode < modes + MODES; mode++)
		fprintf(stderr, "vfio: %s %s\n", mode->name, mode->usage);
	return EINVAL;
}

static int interrupts(int argc, char **argv)
{
	int status = open_mode(argc, argv);
	struct {
		struct vfio_irq_set set;
		int32_t event;
	} irq = {
		.set = {
			.argsz = sizeof(irq),
			.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			.index = VFIO_PCI_MSI_IRQ_INDEX,
			.count = 1,
		},
	};

	if (status)
		return status;
	irq.event = eventfd(0, EFD_CLOEXEC);
	if (irq.event < 0)
		return failed("eventfd");
	return ioctl(device_fd, VFIO_DEVICE_SET_IRQS, &irq) ? failed("VFIO_DEVICE_SET_IRQS") : 0;
}

/* A child opens everything, reports its status through a pipe, and keeps everything open. */
static int hold(int argc, char **argv)
{
	int ends[2], status = EPIPE;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) || (pid = fork()) < 0)
		return failed("fork");
	if (pid == 0) {
		setsid();
		status = open_mode(argc, argv);
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
		status = open_mode(argc - 2, argv + 2);
		if (!status)
			puts("open");
		return status;
	}
	if (argc > 2 && !strcmp(argv[1], "interrupts"))
		return interrupts(argc - 2, argv + 2);
	fprintf(stderr, "vfio: viable, open, hold or interrupts\n");
	return EINVAL;
}
