// SPDX-License-Identifier: GPL-2.0-only
/*
 * failnth N write PATH TEXT	writes the text into a file
 * failnth N vfio WORDS...	the command vfio
 * failnth N sh COMMAND		a shell's command
 * failnth all ...		each N from 1 to the last, one after the other
 *
 * Runs it in a process of its own whose Nth allocation fails, counted from the moment
 * when all is ready until it has done what it was asked for: what it holds is let go
 * without failures. Prints "injected STATUS" when it made that many, and "passed STATUS"
 * when not: the kernel's own counter, because some failures leave no message
 * (__GFP_NOWARN). STATUS is the process's, 128 and the signal when one killed it. What it
 * prints itself is thrown away.
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

/* The process's own fail-nth, and what was left of it when it ended; -1 before that. */
static int counter = -1;
static volatile int *left;

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

	/* It came to an end before it was ready: nothing was injected. */
	if (counter < 0) {
		*left = 1;
		return;
	}
	/* Neither allocates. */
	if (pread(counter, text, sizeof(text) - 1, 0) <= 0)
		_exit(127);
	*left = atoi(text);
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

	/* The shell tells by its own count. */
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

/* What is left of the count of a process that has not told: a shell, or one that died. */
static int left_of(pid_t pid)
{
	char path[64], text[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
	return read_line(path, text, sizeof(text)) ? -1 : atoi(text);
}

/* Whether the process made so many allocations; -1 when it could not be seen. */
static int fail(int number, int argc, char **argv)
{
	siginfo_t info;
	int how, status;
	pid_t pid;

	fflush(NULL);
	*left = -1;
	pid = fork();
	if (pid == 0) {
		status = run(number, argc, argv);
		disarm();
		_exit(status);
	}
	if (pid < 0 || waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
		return -1;
	if (*left < 0)
		*left = left_of(pid);
	waitpid(pid, &how, 0);
	printf("%s %d\n", *left ? "passed" : "injected",
	       WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how));
	return *left < 0 ? -1 : !*left;
}

int failnth_main(int argc, char **argv)
{
	int injected, number = 0;

	left = mmap(NULL, sizeof(*left), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc < 4 || left == MAP_FAILED)
		return 2;
	if (strcmp(argv[1], "all"))
		return fail(atoi(argv[1]), argc - 2, argv + 2) < 0 ? 2 : 0;
	do
		injected = fail(++number, argc - 2, argv + 2);
	while (injected > 0);
	return injected < 0 ? 2 : 0;
}
