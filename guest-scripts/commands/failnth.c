// SPDX-License-Identifier: GPL-2.0-only
/*
 * failnth N write PATH TEXT	write the text to a file
 * failnth N vfio WORDS...	run the command vfio
 * failnth N sh COMMAND		run a shell command
 * failnth all ...		the same for each N from 1 to the last
 *
 * Run the work in a child process in which the Nth allocation fails. The count starts
 * when the child is ready and ends when the work is done: the child releases what it holds
 * without failures. Prints "injected STATUS" if the child made at least N allocations,
 * "passed STATUS" otherwise. That is the kernel's own count, because some failures leave no
 * message (__GFP_NOWARN). STATUS is the child's exit status, or 128 and the number of the
 * signal that killed it. The child's own output is discarded.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../init/guest.h"

/* The child's own /proc/self/fail-nth, and what remained of N when it ended; -1 before. */
static int counter = -1;
static volatile int *remaining;

static void arm(int number)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", number);

	counter = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	if (counter < 0 || write(counter, text, length) != length)
		_exit(127);
}

static void disarm(void)
{
	char text[16] = "";

	/* The work ended before the count started: nothing was injected. */
	if (counter < 0) {
		*remaining = 1;
		return;
	}
	/* Neither call allocates. */
	if (pread(counter, text, sizeof(text) - 1, 0) <= 0)
		_exit(127);
	*remaining = atoi(text);
	if (pwrite(counter, "0", 1, 0) != 1)
		_exit(127);
}

static int write_text(int number, const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	arm(number);
	return write(fd, text, strlen(text)) < 0 ? errno : 0;
}

static int run_shell(int number, const char *command)
{
	char script[65536];

	/* The shell counts by its own fail-nth, which the parent reads: read_remaining. */
	snprintf(script, sizeof(script), "echo %d > /proc/self/fail-nth\n%s",
		 number, command);
	execl("/bin/busybox", "sh", "-c", script, NULL);
	return 127;
}

static int run(int number, int argc, char **argv)
{
	dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
	if (argc == 3 && !strcmp(argv[0], "write"))
		return write_text(number, argv[1], argv[2]);
	if (argc == 2 && !strcmp(argv[0], "sh"))
		return run_shell(number, argv[1]);
	if (!strcmp(argv[0], "vfio")) {
		arm(number);
		return vfio_main(argc, argv);
	}
	return 127;
}

/* The fail-nth of a zombie that did not store it: a shell, or a child that was killed. */
static int read_remaining(pid_t pid)
{
	char path[64], text[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
	return read_line(path, text, sizeof(text)) ? -1 : atoi(text);
}

/* Whether the child made at least that many allocations; -1 if that is not known. */
static int fail(int number, int argc, char **argv)
{
	siginfo_t info;
	int wait_status, status;
	pid_t pid;

	fflush(NULL);
	*remaining = -1;
	pid = fork();
	if (pid == 0) {
		status = run(number, argc, argv);
		disarm();
		_exit(status);
	}
	if (pid < 0 || waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
		return -1;
	if (*remaining < 0)
		*remaining = read_remaining(pid);
	waitpid(pid, &wait_status, 0);
	printf("%s %d\n", *remaining ? "passed" : "injected",
	       WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status));
	return *remaining < 0 ? -1 : !*remaining;
}

int failnth_main(int argc, char **argv)
{
	int injected, number = 0;

	remaining = mmap(NULL, sizeof(*remaining), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc < 4 || remaining == MAP_FAILED)
		return 2;
	if (strcmp(argv[1], "all"))
		return fail(atoi(argv[1]), argc - 2, argv + 2) < 0 ? 2 : 0;
	do
		injected = fail(++number, argc - 2, argv + 2);
	while (injected > 0);
	return injected < 0 ? 2 : 0;
}
