// SPDX-License-Identifier: GPL-2.0-only
/*
 * reseed: mix standard input into the kernel's random number generator, and reseed it.
 *
 * Without it, guests restored from one snapshot draw the same random numbers, and so
 * generate the same keys. Written bytes are used only at the next reseed, which
 * RNDRESEEDCRNG forces (drivers/char/random.c).
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
	    /* ENODATA: nothing has been drawn yet, so the first draw uses the seed. */
	    (!ioctl(fd, RNDRESEEDCRNG) || errno == ENODATA))
		return 0;
	perror("reseed");
	return 1;
}
