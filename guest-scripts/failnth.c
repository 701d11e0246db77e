// SPDX-License-Identifier: GPL-2.0-only
/*
 * failnth N COMMAND: a shell's command whose own Nth allocation fails.
 *
 * Prints "injected" when the shell, or the program that it became with exec, made that
 * many, and "passed" when not: the kernel's own counter, read before the process is
 * reaped, because some failures leave no message (__GFP_NOWARN). The exit status is the
 * command's, 128 and the signal when one killed it.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

int failnth_main(int argc, char **argv)
{
	char path[64], script[65536], left[32] = "";
	siginfo_t info;
	pid_t pid;
	int how;

	if (argc != 3)
		return 2;
	/* Counted from here: what the shell allocates to start is not the subject. */
	snprintf(script, sizeof(script), "echo %d > /proc/self/fail-nth\n%s",
		 atoi(argv[1]), argv[2]);
	pid = fork();
	if (pid == 0) {
		execl("/bin/busybox", "sh", "-c", script, NULL);
		_exit(127);
	}
	if (pid < 0 || waitid(P_PID, pid, &info, WEXITED | WNOWAIT))
		return 2;
	snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
	if (read_line(path, left, sizeof(left)))
		return 2;
	puts(atoi(left) ? "passed" : "injected");
	waitpid(pid, &how, 0);
	return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
}
