// SPDX-License-Identifier: GPL-2.0-only
/*
 * A user of VFIO, as small as one can be.
 *
 * vfio viable GROUP		is the group free of kernel drivers?
 * vfio open group GROUP [DEVICE]	open, set the container up, map memory, take the device; ask
 *				for memory that is not there, and to leave under the device
 * vfio open remap GROUP [DEVICE]	as group, without asking to leave; unmap all and map it anew,
 *				with no more memory to be locked than that
 * vfio open groups GROUP...	several groups in one container
 * vfio open compat GROUP [DEVICE]	a group, with an iommufd for its container
 * vfio open cdev DEVICE...	with iommufd and the devices' own files, in one address
 *				space; all but the last of them are closed again
 * vfio open move DEVICE...	the same devices move to a second address space; what they had
 *				reserved in the first can be mapped, and it is destroyed
 * vfio open return DEVICE	a page table that is made first gets the device, loses it and
 *				gets it back, with what the device reserves
 * vfio open replace DEVICE	a page table that is made last gets the device, which leaves one
 *				that the address space had before; all is mapped anew, with no
 *				more memory to be locked than that
 * vfio hold ...		as open, and keep it in the background until killed
 * vfio interrupts ...		as open, and have the device that was taken last send its
 *				interrupts (MSI), which go through its IOMMU like all it writes
 *
 * Nothing is undone at the end: what a user forgets is the kernel's to undo.
 *
 * What succeeds prints a word, for "hold" the process to kill; what fails prints
 * "STEP: ERRNO". The exit status is the errno, 0 without one.
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
#define IOAS_MAP_FLAGS	7	/* at a fixed address, writeable, readable */

struct ioas_unmap {
	uint32_t size, ioas_id;
	uint64_t iova, length;
};
#define IOAS_UNMAP	_IO(VFIO_TYPE, 0x86)

/* Without what came after 6.6, which is optional. */
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
 * What a user maps: pages, and not a block, so that there is a table of the last level.
 * Nowhere near the windows of interrupts, which nobody may map: WINDOW_AT is in
 * that of either IOMMU. HIGH_AT takes more than 32 bits.
 */
#define PAGE		4096
#define MAPPED_BYTES	(16 * PAGE)
#define MAPPED_AT	0x100000
#define HIGH_AT		0x100100000
#define WINDOW_AT	0x8090000

/* The group and the device that were taken last. */
static int group = -1;
static int taken = -1;

static char mapped[MAPPED_BYTES] __attribute__((aligned(PAGE)));

static int failed(const char *step)
{
	int error = errno;

	fprintf(stderr, "%s: %s\n", step, strerrorname_np(error));
	return error ? error : EINVAL;
}

/*
 * From now on we may lock what is mapped and no more. Whoever may lock any amount
 * (CAP_IPC_LOCK) is not charged by iommufd at all: iopt_alloc_pages.
 */
static int charge_us(void)
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

	group = open_group(number);
	if (group < 0)
		return failed("open group");
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		return failed("VFIO_GROUP_GET_STATUS");
	puts(status.flags & VFIO_GROUP_FLAGS_VIABLE ? "viable" : "not viable");
	return 0;
}

static int join(const char *number, int container)
{
	group = open_group(number);
	if (group < 0)
		return failed("open group");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
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
	fprintf(stderr, "VFIO_IOMMU_UNMAP_DMA: of %llu bytes\n", unmap.size);
	return EPROTO;
}

static int set_up(int container)
{
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return failed("VFIO_SET_IOMMU");
	return map_dma(container);
}

/*
 * Twice memory that is not there: refused, and the first time takes no room from the second.
 * An iommufd looks at it only once a device needs it.
 */
static int ask_for_no_memory(int container)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.iova = HIGH_AT,
		.size = PAGE,
	};

	for (int i = 0; i < 2; i++) {
		if (!ioctl(container, VFIO_IOMMU_MAP_DMA, &map)) {
			fprintf(stderr, "VFIO_IOMMU_MAP_DMA: of nothing\n");
			return EPROTO;
		}
		if (errno != EFAULT)
			return failed("VFIO_IOMMU_MAP_DMA of nothing");
	}
	return 0;
}

/* In the order of Documentation/driver-api/vfio.rst. */
static int take_group(int container, int count, char **what)
{
	int status = join(what[0], container);

	if (!status)
		status = set_up(container);
	if (status || count < 2)
		return status;
	taken = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, what[1]);
	return taken < 0 ? failed("VFIO_GROUP_GET_DEVICE_FD") : ask_for_no_memory(container);
}

static int use_group(int container, int count, char **what)
{
	int status = take_group(container, count, what);

	if (!status && taken >= 0 && !ioctl(group, VFIO_GROUP_UNSET_CONTAINER)) {
		fprintf(stderr, "VFIO_GROUP_UNSET_CONTAINER: left under an open device\n");
		return EPROTO;
	}
	return status;
}

static int remap(int container, int count, char **what)
{
	int status = charge_us();

	if (!status)
		status = take_group(container, count, what);
	if (!status)
		status = unmap_dma(container);
	return status ? status : map_dma(container);
}

/* The first is there when the container is set up; those that come later find it in use. */
static int use_groups(int container, int count, char **numbers)
{
	int status = take_group(container, 1, numbers);

	for (int i = 1; i < count && !status; i++)
		status = join(numbers[i], container);
	return status;
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

/* An address space of an iommufd. */
struct space {
	int iommufd;
	uint32_t id;
};

static int try_to_map(const struct space *space, uint64_t iova, uint64_t length)
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
	return try_to_map(space, iova, length) ? failed("IOMMU_IOAS_MAP") : 0;
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
 * Where interrupts go, as long as a device of the address space has any: it can neither be
 * mapped nor be made all that may be mapped.
 */
static int ask_for_window(const struct space *space)
{
	struct iova_range window = { .start = WINDOW_AT, .last = WINDOW_AT + PAGE - 1 };
	struct ioas_allow allow = {
		.size = sizeof(allow),
		.ioas_id = space->id,
		.num_iovas = 1,
		.allowed_iovas = (uintptr_t)&window,
	};

	if (!try_to_map(space, WINDOW_AT, PAGE)) {
		fprintf(stderr, "IOMMU_IOAS_MAP: of a reserved window\n");
		return EPROTO;
	}
	if (!ioctl(space->iommufd, IOAS_ALLOW_IOVAS, &allow)) {
		fprintf(stderr, "IOMMU_IOAS_ALLOW_IOVAS: of a reserved window\n");
		return EPROTO;
	}
	return errno == EADDRINUSE ? 0 : failed("IOMMU_IOAS_ALLOW_IOVAS");
}

static int make_space(int iommufd, struct space *space)
{
	struct ioas_alloc ioas = { .size = sizeof(ioas) };

	if (ioctl(iommufd, IOAS_ALLOC, &ioas))
		return failed("IOMMU_IOAS_ALLOC");
	*space = (struct space){ .iommufd = iommufd, .id = ioas.out_ioas_id };
	return map_into(space, MAPPED_AT, MAPPED_BYTES);
}

/* A page table of an object that does not exist: refused, and nothing is kept for it. */
static int ask_for_nothing(int iommufd, uint32_t device)
{
	struct hwpt_alloc alloc = { .size = sizeof(alloc), .dev_id = device, .pt_id = ~0u };

	if (ioctl(iommufd, HWPT_ALLOC, &alloc) && errno == EINVAL)
		return 0;
	fprintf(stderr, "IOMMU_HWPT_ALLOC: of nothing is not EINVAL\n");
	return EPROTO;
}

static int bind_to(int iommufd, const char *device, int *fd, uint32_t *id)
{
	struct bind_iommufd bind = { .argsz = sizeof(bind) };

	*fd = open_cdev(device);
	if (*fd < 0)
		return failed("open cdev");
	/* To what is no iommufd: refused, and as if it had not been asked for. */
	bind.iommufd = *fd;
	if (!ioctl(*fd, BIND_IOMMUFD, &bind)) {
		fprintf(stderr, "VFIO_DEVICE_BIND_IOMMUFD: to what is none\n");
		return EPROTO;
	}
	/* Whoever may not have the device at all is told that first. */
	bind.iommufd = iommufd;
	if (errno != EBADFD || ioctl(*fd, BIND_IOMMUFD, &bind))
		return failed("VFIO_DEVICE_BIND_IOMMUFD");
	*id = bind.out_devid;
	taken = *fd;
	/* Once more: refused, and the first stays. */
	if (!ioctl(*fd, BIND_IOMMUFD, &bind) || errno != EINVAL) {
		fprintf(stderr, "VFIO_DEVICE_BIND_IOMMUFD: a second time\n");
		return EPROTO;
	}
	return ask_for_nothing(iommufd, *id);
}

/* Twice: to replace what is attached by the same has to change nothing, references included. */
static int attach(int fd, uint32_t table)
{
	for (int i = 0; i < 2; i++) {
		struct attach_pt attach = { .argsz = sizeof(attach), .pt_id = table };

		if (ioctl(fd, ATTACH_PT, &attach))
			return failed("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	}
	return 0;
}

/* A page table that the user makes, and keeps when the device leaves it. */
static int attach_to_new(const struct space *space, int fd, uint32_t device, uint32_t *table)
{
	struct hwpt_alloc alloc = { .size = sizeof(alloc), .dev_id = device, .pt_id = space->id };

	if (ioctl(space->iommufd, HWPT_ALLOC, &alloc))
		return failed("IOMMU_HWPT_ALLOC");
	*table = alloc.out_hwpt_id;
	return attach(fd, *table);
}

static int join_space(const struct space *space, int count, char **devices, int *fds)
{
	int status = 0;
	uint32_t id;

	for (int i = 0; i < count && !status; i++) {
		status = bind_to(space->iommufd, devices[i], &fds[i], &id);
		if (!status)
			status = attach(fds[i], space->id);
	}
	return status;
}

static int use_cdevs(int iommufd, int count, char **devices)
{
	struct space space;
	int fds[count], status = make_space(iommufd, &space);

	if (!status)
		status = join_space(&space, count, devices, fds);
	for (int i = 0; i < count - 1 && !status; i++)
		close(fds[i]);
	return status;
}

static int move_cdevs(int iommufd, int count, char **devices)
{
	struct space first, second;
	struct destroy destroy = { .size = sizeof(destroy) };
	int fds[count], status = make_space(iommufd, &first);

	if (!status)
		status = join_space(&first, count, devices, fds);
	if (!status)
		status = ask_for_window(&first);
	if (!status)
		status = make_space(iommufd, &second);
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
	int fd, status = charge_us();

	if (!status)
		status = make_space(iommufd, &space);
	if (!status)
		status = bind_to(iommufd, *device, &fd, &id);
	if (!status)
		status = attach(fd, space.id);
	if (!status)
		status = attach_to_new(&space, fd, id, &table);
	if (!status)
		status = ask_for_window(&space);
	if (!status)
		status = unmap_from(&space, MAPPED_AT, MAPPED_BYTES);
	return status ? status : map_into(&space, MAPPED_AT, MAPPED_BYTES);
}

static int return_cdev(int iommufd, int count __attribute__((unused)), char **device)
{
	struct space space;
	struct detach_pt detach = { .argsz = sizeof(detach) };
	uint32_t id, table;
	int fd, status = make_space(iommufd, &space);

	if (!status)
		status = map_into(&space, HIGH_AT, PAGE);
	if (!status)
		status = bind_to(iommufd, *device, &fd, &id);
	if (!status)
		status = attach_to_new(&space, fd, id, &table);
	if (!status)
		status = ask_for_window(&space);
	if (!status && ioctl(fd, DETACH_PT, &detach))
		status = failed("VFIO_DEVICE_DETACH_IOMMUFD_PT");
	return status ? status : attach(fd, table);
}

/* What each way takes, and how many of it at most, by what it opens. */
static const struct way {
	const char *name, *what, *opens;
	int most;
	int (*take)(int fd, int count, char **what);
} ways[] = {
	{ "group", "GROUP [DEVICE]", CONTAINER, 2, use_group },
	{ "remap", "GROUP [DEVICE]", CONTAINER, 2, remap },
	{ "groups", "GROUP...", CONTAINER, INT_MAX, use_groups },
	{ "compat", "GROUP [DEVICE]", IOMMUFD, 2, take_group },
	{ "cdev", "DEVICE...", IOMMUFD, INT_MAX, use_cdevs },
	{ "move", "DEVICE...", IOMMUFD, INT_MAX, move_cdevs },
	{ "return", "DEVICE", IOMMUFD, 1, return_cdev },
	{ "replace", "DEVICE", IOMMUFD, 1, replace_page_table },
};
#define WAYS (sizeof(ways) / sizeof(*ways))

static int take(int argc, char **argv)
{
	for (const struct way *way = ways; way < ways + WAYS; way++) {
		int fd, count = argc - 1;
		char step[32];

		if (strcmp(way->name, argv[0]) || count < 1 || count > way->most)
			continue;
		snprintf(step, sizeof(step), "open %s", way->opens);
		fd = open(way->opens, O_RDWR | O_CLOEXEC);
		return fd < 0 ? failed(step) : way->take(fd, count, argv + 1);
	}
	for (const struct way *way = ways; way < ways + WAYS; way++)
		fprintf(stderr, "vfio: %s %s\n", way->name, way->what);
	return EINVAL;
}

static int interrupts(int argc, char **argv)
{
	int status = take(argc, argv);
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
	return ioctl(taken, VFIO_DEVICE_SET_IRQS, &irq) ? failed("VFIO_DEVICE_SET_IRQS") : 0;
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
	if (argc > 2 && !strcmp(argv[1], "interrupts"))
		return interrupts(argc - 2, argv + 2);
	fprintf(stderr, "vfio: viable, open, hold or interrupts\n");
	return EINVAL;
}
