// SPDX-License-Identifier: GPL-2.0-only
/*
 * reseed: standard input into the kernel's random numbers, at once.
 *
 * Guests restored from one snapshot would all draw the same ones, keys among them. A
 * write alone is used only when the kernel next reseeds (drivers/char/random.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../init/guest.h"

int reseed_main(void)
{
	char seed[256];
	ssize_t n = read(STDIN_FILENO, seed, sizeof(seed));
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	if (n > 0 && fd >= 0 && write(fd, seed, n) == n &&
	    /* ENODATA: nothing has been drawn yet, so the first draw has it. */
	    (!ioctl(fd, RNDRESEEDCRNG) || errno == ENODATA))
		return 0;
	perror("reseed");
	return 1;
}
