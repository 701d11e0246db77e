// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of a guest, and the relay between its shell and the host, in the protocol of
 * which harness/machine/frames.py (PROTOCOL) has the other end and the version.
 *
 * The shell ("agent") runs one command at a time. This process hands it the
 * commands that the host sends, and sends back what the command wrote, what
 * the kernel logged meanwhile, and how it ended. It is not the shell itself:
 * a write to sysfs that oopses kills the process that made it, and PID 1 must
 * survive that for the guest to go on.
 *
 * Host to guest:   R <a> <b> <length>\n<length bytes of shell>
 *                  S <a> <b> 0\n             print the state (state.c)
 *                  P <a> <b> 0\n             only answer
 *                  Q <a> <b> 1\n<letter>     sysrq: what the kernel logs for it comes first
 *                  I <signal> 0 0\n          to the command under way, no answer
 * Guest to host:   O<length>\n<bytes>        standard output
 *                  E<length>\n<bytes>        standard error
 *                  S<length>\n<bytes>        the state
 *                  K<length>\n<bytes>        one record, as /dev/kmsg gives it
 *                  D <b><a> <how> <number> <records> <clock>\n  the command is done
 *
 * <how> is "status" (the number is $?), "exited" (the shell itself ended with
 * that status) or "killed" (the shell died of that signal). The nonce comes
 * back with its halves swapped, so no echo of the request can pass for an end.
 *
 * Everything a command wrote and the kernel logged before the command ended is
 * sent before its D; <records> counts the K frames sent since boot, by which
 * the host knows when it has read them all on their own channel. <clock> is the
 * guest's, CLOCK_MONOTONIC in microseconds.
 *
 * Channels are virtio-serial ports and not hvc consoles: QEMU drops what a
 * console writes while the host's socket is full (hw/char/virtio-console.c,
 * flush_buf), a port is throttled instead; and hvc sends 16 bytes a kick.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <dirent.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"

#define PROLOGUE	". /harness/agent\n"
#define CHUNK		65536
/* Of what one read of /dev/kmsg gives: PRINTK_MESSAGE_MAX and its dictionary. */
#define RECORD_MAX	16384
/* For what takes microseconds when it comes at all. */
#define TYPES_MS	500
/* klogctl(2): set the level below which a message reaches the console. */
#define SYSLOG_ACTION_CONSOLE_LEVEL 8

/* Two halves of an answer's nonce. */
#define NONCE_MAX	64

struct agent {
	pid_t pid;
	int commands;	/* the script that the shell runs, written as we go */
	int status;	/* the shell writes $? here, a line a command */
};

/*
 * The state is printed by a process of its own: the shell may have its output redirected
 * or shared with the background, and a read of sysfs may block or oops. It stays, because
 * a fork costs more than the look.
 */
struct looker {
	pid_t pid;	/* 0 when there is none */
	int requests;
	int out;	/* -1 when there is none */
	volatile int *phase;
	char nonce[NONCE_MAX];	/* of the look under way, "" when idle */
	long long deadline;	/* of the types, in ms; 0 until it is at them */
};

struct relay {
	int command;	/* channel of R, O, E and D */
	int kmsg_out;	/* channel of K */
	bool single;	/* both on the kernel's own console */
	int kmsg;
	unsigned long records;	/* K frames sent */
	int signals;
	int out[2], err[2];
	struct agent agent;
	struct looker looker;
	char nonce[NONCE_MAX];	/* of the command under way, "" when idle */
};

static char buffer[CHUNK];

static void die(const char *what)
{
	/* PID 1 exiting panics the kernel: the host sees this line first. */
	dprintf(STDERR_FILENO, "harness: init: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t n = write(fd, data, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPIPE)
			return;	/* the shell has died: on_agent_end reports it */
		if (n < 0)
			die("write to the host");
		data += n;
		length -= n;
	}
}

/*
 * On a shared console no message but an emergency may land inside a frame.
 * An oops turns the console verbose again (oops_enter), hence at every frame.
 */
static void quieten(const struct relay *relay)
{
	if (relay->single)
		klogctl(SYSLOG_ACTION_CONSOLE_LEVEL, NULL, 1);
}

static void send_frame(const struct relay *relay, int fd, char kind,
		       const char *data, size_t length)
{
	static char frame[CHUNK + 32];
	int head = sprintf(frame, "%c%zu\n", kind, length);

	quieten(relay);
	memcpy(frame + head, data, length);
	write_all(fd, frame, head + length);
}

static int open_port(const char *wanted)
{
	char path[512], name[128];
	struct dirent *entry;
	DIR *ports = opendir("/sys/class/virtio-ports");
	int fd = -1;

	if (!ports)
		return -1;
	while (fd < 0 && (entry = readdir(ports))) {
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
			 entry->d_name);
		if (read_line(path, name, sizeof(name)) || strcmp(name, wanted))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	closedir(ports);
	return fd;
}

/* Ports are added by a work item after the driver's probe: wait for them. */
static int wait_port(const char *name)
{
	for (int tries = 0; tries < 20000; tries++) {
		int fd = open_port(name);

		if (fd >= 0)
			return fd;
		usleep(500);
	}
	errno = ENODEV;
	die(name);
	return -1;
}

static int open_console(const char *name)
{
	char path[64];
	struct termios raw;
	int fd;

	snprintf(path, sizeof(path), "/dev/%s", name);
	fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || tcgetattr(fd, &raw))
		die(path);
	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
	return fd;
}

/* The kernel hands "harness_console=NAME" to init's environment. */
static void open_channels(struct relay *relay)
{
	const char *console = getenv("harness_console");

	relay->single = console != NULL;
	if (relay->single) {
		relay->command = relay->kmsg_out = open_console(console);
		return;
	}
	relay->command = wait_port("harness.command");
	relay->kmsg_out = wait_port("harness.kmsg");
}

/* Sources may stand where targets go: out of the way first, then into place. */
static void move_fds(int *from, const int *to, int count)
{
	for (int i = 0; i < count; i++)
		from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 20);
	for (int i = 0; i < count; i++)
		dup2(from[i], to[i]);
}

static void start_agent(struct relay *relay)
{
	int commands[2], status[2];
	sigset_t none;

	if (pipe2(commands, O_CLOEXEC) || pipe2(status, O_CLOEXEC))
		die("pipe");
	/* Not fork: copying this process's page tables costs a boot milliseconds. */
	relay->agent.pid = vfork();
	if (relay->agent.pid < 0)
		die("vfork");
	if (relay->agent.pid == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		move_fds((int[]){ open("/dev/null", O_RDONLY | O_CLOEXEC), relay->out[1],
				  relay->err[1], commands[0], status[1] },
			 (int[]){ STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO,
				  AGENT_COMMAND_FD, AGENT_STATUS_FD }, 5);
		execl("/bin/busybox", "sh", "/proc/self/fd/8", NULL);
		_exit(127);
	}
	close(commands[0]);
	close(status[1]);
	fcntl(status[0], F_SETFL, O_NONBLOCK);
	relay->agent.commands = commands[1];
	write_all(commands[1], PROLOGUE, strlen(PROLOGUE));
	relay->agent.status = status[0];
}

static void drain(const struct relay *relay, int fd, char kind)
{
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		send_frame(relay, relay->command, kind, buffer, n);
}

/* Many records at boot: as many frames as fit are sent in one write. */
static void drain_kmsg(struct relay *relay)
{
	static char frames[CHUNK];
	size_t used = 0;
	ssize_t n;

	for (;;) {
		n = read(relay->kmsg, buffer, RECORD_MAX);
		/* EPIPE: records were overwritten; their numbers show it. */
		if (n < 0 && (errno == EPIPE || errno == EINTR))
			continue;
		if (used && (n <= 0 || used + n + 16 > sizeof(frames))) {
			quieten(relay);
			write_all(relay->kmsg_out, frames, used);
			used = 0;
		}
		if (n <= 0)
			return;
		used += sprintf(frames + used, "K%zd\n", n);
		memcpy(frames + used, buffer, n);
		used += n;
		relay->records++;
	}
}

static void done(struct relay *relay, char *nonce, const char *how, int number)
{
	struct timespec now;
	char line[128];
	int length;

	drain(relay, relay->out[0], 'O');
	drain(relay, relay->err[0], 'E');
	drain_kmsg(relay);
	quieten(relay);
	clock_gettime(CLOCK_MONOTONIC, &now);
	length = snprintf(line, sizeof(line), "D %s %s %d %lu %lld\n",
			  nonce, how, number, relay->records,
			  now.tv_sec * 1000000LL + now.tv_nsec / 1000);
	write_all(relay->command, line, length);
	*nonce = '\0';
}

/* More of the request; a port gives what the host sent in one piece. */
static size_t receive(const struct relay *relay, char *data, size_t size)
{
	ssize_t n;

	do {
		n = read(relay->command, data, size);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			die("read from the host");
	} while (n <= 0);
	return n;
}

/* A piece of a command, as it stands between single quotes. */
static void write_quoted(int fd, const char *data, size_t length)
{
	while (length) {
		const char *quote = memchr(data, '\'', length);
		size_t plain = quote ? (size_t)(quote - data) : length;

		write_all(fd, data, plain);
		data += plain;
		length -= plain;
		if (!quote)
			break;
		write_all(fd, "'\\''", 4);
		data++;
		length--;
	}
}

/*
 * The shell reads its script from a pipe: one eval a command, which costs no
 * fork and no file; "command" keeps a syntax error from ending the shell.
 */
static void run_command(struct relay *relay, const char *data, size_t got,
			size_t length)
{
	/* harness_last sets $? to what the last command left; see the agent. */
	static const char before[] = "harness_last; command eval '";
	static const char after[] =
		"'\nharness_status=$?; echo $harness_status >&9\n";
	int fd = relay->agent.commands;

	write_all(fd, before, sizeof(before) - 1);
	for (;;) {
		write_quoted(fd, data, got);
		length -= got;
		if (!length)
			break;
		data = buffer;
		got = receive(relay, buffer,
			      length < sizeof(buffer) ? length : sizeof(buffer));
	}
	write_all(fd, after, sizeof(after) - 1);
}

static void start_looker(struct looker *looker)
{
	int requests[2], out[2];

	if (pipe2(requests, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		die("pipe");
	looker->phase = mmap(NULL, sizeof(*looker->phase), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (looker->phase == MAP_FAILED)
		die("mmap");
	looker->pid = fork();
	if (looker->pid < 0)
		die("fork");
	if (looker->pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		/* What PID 1 has open is its own. */
		for (int fd = STDERR_FILENO + 1; fd < 64; fd++)
			if (fd != requests[0])
				close(fd);
		state_main(requests[0], looker->phase);
		_exit(0);
	}
	close(requests[0]);
	close(out[1]);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	looker->requests = requests[1];
	looker->out = out[0];
}

/* One that is stuck stays behind. */
static void forget_looker(struct looker *looker)
{
	close(looker->requests);
	close(looker->out);
	munmap((void *)looker->phase, sizeof(*looker->phase));
	*looker = (struct looker){ .out = -1 };
}

/* The host asks again only when it has given the last look up. */
static void ask_looker(struct relay *relay, const char *nonce)
{
	struct looker *looker = &relay->looker;

	if (looker->nonce[0])
		forget_looker(looker);
	if (!looker->pid)
		start_looker(looker);
	*looker->phase = STATE_LOOKING;
	looker->deadline = 0;
	strcpy(looker->nonce, nonce);
	write_all(looker->requests, "S", 1);
}

static void on_state(struct relay *relay)
{
	bool over = false;
	ssize_t n;

	while ((n = read(relay->looker.out, buffer, sizeof(buffer))) > 0) {
		over = buffer[n - 1] == STATE_END;
		send_frame(relay, relay->command, 'S', buffer, n - over);
	}
	if (!over)
		return;
	done(relay, relay->looker.nonce, "status", 0);
}

/* It died, or the types do not come. Without those a state is one all the same. */
static void on_looker_end(struct relay *relay, int signal)
{
	bool whole = *relay->looker.phase == STATE_TYPES;

	on_state(relay);
	if (relay->looker.nonce[0])
		done(relay, relay->looker.nonce, whole ? "status" : "killed", whole ? 0 : signal);
	forget_looker(&relay->looker);
}

/* One letter, from here: the shell may be what hangs. */
static void sysrq(const char *letter)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, letter, 1) < 0)
		dprintf(STDERR_FILENO, "harness: init: sysrq: %s\n", strerror(errno));
	close(fd);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* How long poll may wait: for the types no longer than is left, whatever else happens. */
static int patience(struct looker *looker)
{
	if (!looker->nonce[0] || *looker->phase != STATE_TYPES)
		return -1;
	if (!looker->deadline)
		looker->deadline = now_ms() + TYPES_MS;
	return looker->deadline > now_ms() ? looker->deadline - now_ms() : 0;
}

/*
 * Takes the request whose line ends before payload, and returns how much of the used bytes
 * it was. What is no request is noise on a shared console.
 */
static size_t on_request(struct relay *relay, char *request, size_t used, char *payload)
{
	char kind, a[32], b[32], nonce[NONCE_MAX];
	size_t length, line = payload - request, rest = used - line;

	payload[-1] = '\0';
	if (sscanf(request, "%c %31s %31s %zu", &kind, a, b, &length) != 4)
		return line;
	snprintf(nonce, sizeof(nonce), "%s%s", b, a);
	switch (kind) {
	case 'I':
		if (relay->nonce[0] && relay->agent.pid)
			kill(-relay->agent.pid, atoi(a));
		return line;
	case 'R':
		strcpy(relay->nonce, nonce);
		rest = rest < length ? rest : length;
		run_command(relay, payload, rest, length);
		return line + rest;
	case 'S':
		ask_looker(relay, nonce);
		return line;
	case 'Q':
		if (!rest || !length)
			return line;
		sysrq(payload);
		done(relay, nonce, "status", 0);
		return line + 1;
	case 'P':
		done(relay, nonce, "status", 0);
		return line;
	default:
		return line;
	}
}

/*
 * One, as a rule. A host that had no answer for long asks again, and a guest that comes
 * back reads all that from a console in one piece.
 */
static void on_requests(struct relay *relay)
{
	static char requests[4096];
	static size_t used;
	size_t taken;
	char *end;

	used += receive(relay, requests + used, sizeof(requests) - 1 - used);
	requests[used] = '\0';
	while ((end = memchr(requests, '\n', used))) {
		taken = on_request(relay, requests, used, end + 1);
		used -= taken;
		memmove(requests, requests + taken, used);
	}
	if (used == sizeof(requests) - 1)
		used = 0;
}

static void on_status(struct relay *relay)
{
	char line[32];
	ssize_t n = read(relay->agent.status, line, sizeof(line) - 1);

	if (n <= 0 || !relay->nonce[0])
		return;
	line[n] = '\0';
	done(relay, relay->nonce, "status", atoi(line));
}

static void on_agent_end(struct relay *relay, int how)
{
	close(relay->agent.commands);
	close(relay->agent.status);
	relay->agent.pid = 0;
	if (relay->nonce[0])
		done(relay, relay->nonce, WIFSIGNALED(how) ? "killed" : "exited",
		     WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
	start_agent(relay);
}

static void on_signal(struct relay *relay)
{
	struct signalfd_siginfo info;
	pid_t pid;
	int how;

	if (read(relay->signals, &info, sizeof(info)) < 0)
		return;
	while ((pid = waitpid(-1, &how, WNOHANG)) > 0)
		if (pid == relay->agent.pid)
			on_agent_end(relay, how);
		else if (pid == relay->looker.pid)
			on_looker_end(relay, WTERMSIG(how));
}

static void serve(struct relay *relay)
{
	for (;;) {
		struct pollfd fds[] = {
			{ relay->command, POLLIN, 0 },
			{ relay->out[0], POLLIN, 0 },
			{ relay->err[0], POLLIN, 0 },
			{ relay->agent.status, POLLIN, 0 },
			{ relay->kmsg, POLLIN, 0 },
			{ relay->signals, POLLIN, 0 },
			{ relay->looker.out, POLLIN, 0 },
		};
		int left = patience(&relay->looker);

		if (poll(fds, sizeof(fds) / sizeof(fds[0]), left) < 0)
			continue;
		if (fds[1].revents)
			drain(relay, relay->out[0], 'O');
		if (fds[2].revents)
			drain(relay, relay->err[0], 'E');
		if (fds[4].revents)
			drain_kmsg(relay);
		if (fds[6].revents & POLLIN)
			on_state(relay);
		else if (left == 0)
			on_looker_end(relay, 0);
		if (fds[3].revents & POLLIN)
			on_status(relay);
		if (fds[5].revents)
			on_signal(relay);
		if (fds[0].revents & POLLIN)
			on_requests(relay);
		else if (fds[0].revents & POLLHUP)
			usleep(500);	/* the host has not opened the port yet */
	}
}

static void mount_all(void)
{
	static const char *const table[][2] = {
		{ "proc", "/proc" },
		{ "sysfs", "/sys" },
		{ "devtmpfs", "/dev" },
		{ "debugfs", "/sys/kernel/debug" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (mount(table[i][0], table[i][1], table[i][0], 0, NULL))
			die(table[i][1]);
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

int main(int argc, char **argv)
{
	struct relay relay = { .looker.out = -1 };
	const char *name;
	sigset_t child;

	/* One static program under several names: each would bring its own libc. */
	name = strrchr(argv[0], '/');
	name = name ? name + 1 : argv[0];
	if (!strcmp(name, "failnth"))
		return failnth_main(argc, argv);
	if (!strcmp(name, "reseed"))
		return reseed_main();
	if (!strcmp(name, "vfio"))
		return vfio_main(argc, argv);
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "dumb", 1);
	mount_all();
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	relay.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	relay.kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (relay.signals < 0 || relay.kmsg < 0)
		die("/dev/kmsg");
	if (pipe2(relay.out, O_CLOEXEC) || pipe2(relay.err, O_CLOEXEC))
		die("pipe");
	fcntl(relay.out[0], F_SETFL, O_NONBLOCK);
	fcntl(relay.err[0], F_SETFL, O_NONBLOCK);
	/* The shell starts while the ports are still being added. */
	start_agent(&relay);
	open_channels(&relay);

	snprintf(relay.nonce, sizeof(relay.nonce), "ready");
	done(&relay, relay.nonce, "status", 0);
	start_looker(&relay.looker);
	serve(&relay);
}
