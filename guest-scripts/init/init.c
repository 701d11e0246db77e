// SPDX-License-Identifier: GPL-2.0-only
/*
 * PID 1 of a guest, the relay between its shell and the host. harness/machine/frames.py
 * is the host's end of the protocol and has its version (PROTOCOL).
 *
 * The shell ("agent") runs one command at a time. PID 1 passes it the commands that the
 * host sends, and sends back the output of each, the kernel log meanwhile, and its status.
 * PID 1 is not the shell itself: a write to sysfs that oopses kills the process that made
 * it, and PID 1 must survive that for the guest to continue.
 *
 * Host to guest:   R <a> <b> <length>\n<length bytes of shell>
 *                  S <a> <b> 0\n             print the state (state.c)
 *                  P <a> <b> 0\n             ping: only answer
 *                  Q <a> <b> 1\n<letter>     sysrq; its kernel log precedes the answer
 *                  I <signal> 0 0\n          signal the running command; no answer
 * Guest to host:   O<length>\n<bytes>        standard output
 *                  E<length>\n<bytes>        standard error
 *                  S<length>\n<bytes>        the state
 *                  K<length>\n<bytes>        one record of /dev/kmsg
 *                  D <b><a> <how> <number> <records> <clock>\n  the command is done
 *
 * <how> is "status" (<number> is $?), "exited" (the shell itself exited with that status)
 * or "killed" (that signal killed the shell). The answer has the halves of the nonce
 * swapped, so an echo of the request cannot be taken for the answer.
 *
 * Everything that the command wrote and the kernel logged before the command ended is sent
 * before its D. <records> counts the K frames sent since boot: with it the host knows when
 * it has read all of them from their own channel. <clock> is the guest's CLOCK_MONOTONIC
 * in microseconds.
 *
 * Channels are virtio-serial ports and not hvc consoles: QEMU drops the output of a console
 * while the host's socket is full (hw/char/virtio-console.c, flush_buf) but throttles a
 * port; and hvc sends 16 bytes per kick.
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
/* The maximum that one read of /dev/kmsg returns: PRINTK_MESSAGE_MAX and its dictionary. */
#define RECORD_MAX	16384
/* Reading the types takes microseconds, unless a group's mutex is never released. */
#define TYPES_TIMEOUT_MS	500
/* klogctl(2): set the console_loglevel. */
#define SYSLOG_ACTION_CONSOLE_LEVEL 8

/* The two halves of an answer's nonce. */
#define NONCE_MAX	64

struct agent {
	pid_t pid;
	int commands;	/* the script that the shell reads, written command by command */
	int status;	/* the shell writes $? here, a line per command */
};

/*
 * A separate process reads the state: the shell's output may be redirected or shared with
 * background jobs, and a read of sysfs may block or oops. The process is kept, because a
 * fork costs more than reading the state.
 */
struct state_reader {
	pid_t pid;	/* 0 if there is none */
	int requests;
	int out;	/* -1 if there is none */
	volatile int *phase;
	char nonce[NONCE_MAX];	/* of the pending request, "" when idle */
	long long deadline;	/* for the types, in ms; 0 in earlier phases */
};

struct relay {
	int command;	/* channel of R, O, E and D */
	int kmsg_out;	/* channel of K */
	bool shared;	/* both are the kernel's own console */
	int kmsg;
	unsigned long records;	/* K frames sent */
	int signals;
	int out[2], err[2];
	struct agent agent;
	struct state_reader reader;
	char nonce[NONCE_MAX];	/* of the running command, "" when idle */
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
			return;	/* the shell died: on_agent_end reports it */
		if (n < 0)
			die("write to the host");
		data += n;
		length -= n;
	}
}

/*
 * On a shared console only emergency messages may interrupt a frame. Done before every
 * frame, because an oops makes the console verbose again (oops_enter).
 */
static void silence_console(const struct relay *relay)
{
	if (relay->shared)
		klogctl(SYSLOG_ACTION_CONSOLE_LEVEL, NULL, 1);
}

static void send_frame(const struct relay *relay, int fd, char kind,
		       const char *data, size_t length)
{
	static char frame[CHUNK + 32];
	int head = sprintf(frame, "%c%zu\n", kind, length);

	silence_console(relay);
	memcpy(frame + head, data, length);
	write_all(fd, frame, head + length);
}

static int open_port(const char *port)
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
		if (read_line(path, name, sizeof(name)) || strcmp(name, port))
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

/* The kernel passes "harness_console=NAME" of its command line in init's environment. */
static void open_channels(struct relay *relay)
{
	const char *console = getenv("harness_console");

	relay->shared = console != NULL;
	if (relay->shared) {
		relay->command = relay->kmsg_out = open_console(console);
		return;
	}
	relay->command = wait_port("harness.command");
	relay->kmsg_out = wait_port("harness.kmsg");
}

/* A source may have the number of a target: move all sources above first. */
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
	/* Not fork: copying this process's page tables would delay the boot by milliseconds. */
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

static void forward_output(const struct relay *relay, int fd, char kind)
{
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0)
		send_frame(relay, relay->command, kind, buffer, n);
}

/* Send as many frames as fit in one write: there are many records at boot. */
static void forward_kmsg(struct relay *relay)
{
	static char frames[CHUNK];
	size_t used = 0;
	ssize_t n;

	for (;;) {
		n = read(relay->kmsg, buffer, RECORD_MAX);
		/* EPIPE: records were overwritten; the gap in sequence numbers shows it. */
		if (n < 0 && (errno == EPIPE || errno == EINTR))
			continue;
		if (used && (n <= 0 || used + n + 16 > sizeof(frames))) {
			silence_console(relay);
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

static void send_done(struct relay *relay, char *nonce, const char *how, int number)
{
	struct timespec now;
	char line[128];
	int length;

	forward_output(relay, relay->out[0], 'O');
	forward_output(relay, relay->err[0], 'E');
	forward_kmsg(relay);
	silence_console(relay);
	clock_gettime(CLOCK_MONOTONIC, &now);
	length = snprintf(line, sizeof(line), "D %s %s %d %lu %lld\n",
			  nonce, how, number, relay->records,
			  now.tv_sec * 1000000LL + now.tv_nsec / 1000);
	write_all(relay->command, line, length);
	*nonce = '\0';
}

/* Read more of a request; a port returns what the host sent in one write. */
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

/* Write a piece of a command for use between single quotes. */
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
 * The shell reads its script from a pipe: one eval per command needs no fork and no file,
 * and "command" keeps a syntax error from ending the shell.
 */
static void run_command(struct relay *relay, const char *data, size_t got,
			size_t length)
{
	/* harness_last sets $? to the status of the previous command; see shell/agent. */
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

static void start_reader(struct state_reader *reader)
{
	int requests[2], out[2];

	if (pipe2(requests, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		die("pipe");
	reader->phase = mmap(NULL, sizeof(*reader->phase), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (reader->phase == MAP_FAILED)
		die("mmap");
	reader->pid = fork();
	if (reader->pid < 0)
		die("fork");
	if (reader->pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		/* Close the descriptors of PID 1. */
		for (int fd = STDERR_FILENO + 1; fd < 64; fd++)
			if (fd != requests[0])
				close(fd);
		state_main(requests[0], reader->phase);
		_exit(0);
	}
	close(requests[0]);
	close(out[1]);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	reader->requests = requests[1];
	reader->out = out[0];
}

/* A process that is stuck is left behind. */
static void abandon_reader(struct state_reader *reader)
{
	close(reader->requests);
	close(reader->out);
	munmap((void *)reader->phase, sizeof(*reader->phase));
	*reader = (struct state_reader){ .out = -1 };
}

/* A request while another is pending means that the host gave up waiting for that one. */
static void request_state(struct relay *relay, const char *nonce)
{
	struct state_reader *reader = &relay->reader;

	if (reader->nonce[0])
		abandon_reader(reader);
	if (!reader->pid)
		start_reader(reader);
	*reader->phase = STATE_READING;
	reader->deadline = 0;
	strcpy(reader->nonce, nonce);
	write_all(reader->requests, "S", 1);
}

static void on_state(struct relay *relay)
{
	bool complete = false;
	ssize_t n;

	while ((n = read(relay->reader.out, buffer, sizeof(buffer))) > 0) {
		complete = buffer[n - 1] == STATE_END;
		send_frame(relay, relay->command, 'S', buffer, n - complete);
	}
	if (!complete)
		return;
	send_done(relay, relay->reader.nonce, "status", 0);
}

/* The reader died, or reading the types timed out. A state without types is valid. */
static void on_reader_end(struct relay *relay, int signal)
{
	bool valid = *relay->reader.phase == STATE_TYPES;

	on_state(relay);
	if (relay->reader.nonce[0])
		send_done(relay, relay->reader.nonce, valid ? "status" : "killed", valid ? 0 : signal);
	abandon_reader(&relay->reader);
}

/* Trigger a sysrq from PID 1, since the shell may be what hangs. */
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

/* The timeout of poll in ms: the time until the deadline of the types, otherwise none. */
static int poll_timeout(struct state_reader *reader)
{
	if (!reader->nonce[0] || *reader->phase != STATE_TYPES)
		return -1;
	if (!reader->deadline)
		reader->deadline = now_ms() + TYPES_TIMEOUT_MS;
	return reader->deadline > now_ms() ? reader->deadline - now_ms() : 0;
}

/*
 * Handle the request whose line ends before payload; return how many of the used bytes it
 * consumed. A line that is no request is noise on a shared console, and skipped.
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
		request_state(relay, nonce);
		return line;
	case 'Q':
		if (!rest || !length)
			return line;
		sysrq(payload);
		send_done(relay, nonce, "status", 0);
		return line + 1;
	case 'P':
		send_done(relay, nonce, "status", 0);
		return line;
	default:
		return line;
	}
}

/*
 * Usually one request. A host without an answer repeats its request, and a guest that was
 * stalled then reads all of them from a console at once.
 */
static void on_requests(struct relay *relay)
{
	static char requests[4096];
	static size_t used;
	size_t consumed;
	char *end;

	used += receive(relay, requests + used, sizeof(requests) - 1 - used);
	requests[used] = '\0';
	while ((end = memchr(requests, '\n', used))) {
		consumed = on_request(relay, requests, used, end + 1);
		used -= consumed;
		memmove(requests, requests + consumed, used);
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
	send_done(relay, relay->nonce, "status", atoi(line));
}

static void on_agent_end(struct relay *relay, int wait_status)
{
	close(relay->agent.commands);
	close(relay->agent.status);
	relay->agent.pid = 0;
	if (relay->nonce[0])
		send_done(relay, relay->nonce, WIFSIGNALED(wait_status) ? "killed" : "exited",
			  WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) :
						     WEXITSTATUS(wait_status));
	start_agent(relay);
}

static void on_signal(struct relay *relay)
{
	struct signalfd_siginfo info;
	pid_t pid;
	int wait_status;

	if (read(relay->signals, &info, sizeof(info)) < 0)
		return;
	while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0)
		if (pid == relay->agent.pid)
			on_agent_end(relay, wait_status);
		else if (pid == relay->reader.pid)
			on_reader_end(relay, WTERMSIG(wait_status));
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
			{ relay->reader.out, POLLIN, 0 },
		};
		int timeout = poll_timeout(&relay->reader);

		if (poll(fds, sizeof(fds) / sizeof(fds[0]), timeout) < 0)
			continue;
		if (fds[1].revents)
			forward_output(relay, relay->out[0], 'O');
		if (fds[2].revents)
			forward_output(relay, relay->err[0], 'E');
		if (fds[4].revents)
			forward_kmsg(relay);
		if (fds[6].revents & POLLIN)
			on_state(relay);
		else if (timeout == 0)
			on_reader_end(relay, 0);
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
	struct relay relay = { .reader.out = -1 };
	const char *name;
	sigset_t child;

	/* One static program under several names, because each program would contain libc. */
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
	/* Start the shell while the ports are still being added. */
	start_agent(&relay);
	open_channels(&relay);

	snprintf(relay.nonce, sizeof(relay.nonce), "ready");
	send_done(&relay, relay.nonce, "status", 0);
	start_reader(&relay.reader);
	serve(&relay);
}
