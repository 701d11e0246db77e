// SPDX-License-Identifier: GPL-2.0-only
/*
 * failnth N write PATH TEXT	writes the text into a file
 * failnth N vfio WORDS...	the command vfio
 * failnth N sh COMMAND		a shell's command
 * failnth all ...		each N from 1 to the last, one after the other
 *
 * Runs it in a process of its own whose Nth allocation fails, counted from the moment
 * when all is ready. Prints "injected STATUS" when it made that many, and "passed STATUS"
 * when not: the kernel's own counter, read before the process is reaped, because some
 * failures leave no message (__GFP_NOWARN). STATUS is the process's, 128 and the signal
 * when one killed it. What it prints itself is thrown away.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

static void arm(int number)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", number);
	int fd = open("/proc/self/fail-nth", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, length) != length)
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

/* Whether the process made so many allocations; -1 when it could not be seen. */
static int fail(int number, int argc, char **argv)
{
	char path[64], left[32] = "";
	siginfo_t info;
	pid_t pid;
	int how;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		_exit(run(number, argc, argv));
	if (pid < 0 || waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
	if (read_line(path, left, sizeof(left)))
		return -1;
	waitpid(pid, &how, 0);
	printf("%s %d\n", atoi(left) ? "passed" : "injected",
	       WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how));
	return !atoi(left);
}

int failnth_main(int argc, char **argv)
{
	int injected, number = 0;

	if (argc < 4)
		return 2;
	if (strcmp(argv[1], "all"))
		return fail(atoi(argv[1]), argc - 2, argv + 2) < 0 ? 2 : 0;
	do
		injected = fail(++number, argc - 2, argv + 2);
	while (injected > 0);
	return injected < 0 ? 2 : 0;
}
