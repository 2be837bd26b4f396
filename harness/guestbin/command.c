// SPDX-License-Identifier: Apache-2.0
/*
 * km-command TIMEOUT_MS LIMIT_BYTES: run the guest's one command to its end.
 *
 * The command is the script /.kernel-matrix/command, its standard input the file beside it. What it
 * wrote is kept apart, both streams together up to LIMIT_BYTES, and printed once it has ended: all of
 * stdout, all of stderr, then one line of exactly TRAILER_BYTES:
 *
 *	km-command STATUS TIMED_OUT STDOUT_BYTES STDERR_BYTES LOST_BYTES
 *
 * The agent's own capture waits until every holder of the pipes has closed them; a server that a
 * test script leaves in the background would keep it waiting. This ends with the command, as a
 * container does, and what the command left running is killed: its process group, and orphans that
 * left the group. At TIMEOUT_MS the command itself is killed too; what it wrote is still told.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DIRECTORY	"/.kernel-matrix"
#define TRAILER_BYTES	80

struct stream {
	int fd;
	char *data;
	size_t len, room;
};

static size_t limit, kept;
static unsigned long long lost;

static void die(const char *what)
{
	perror(what);
	exit(127);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void keep(struct stream *stream, const char *data, size_t len)
{
	size_t room = limit - kept;

	if (len > room) {
		lost += len - room;
		len = room;
	}
	if (stream->len + len > stream->room) {
		stream->room = (stream->len + len) * 2;
		stream->data = realloc(stream->data, stream->room);
		if (!stream->data)
			die("memory");
	}
	for (size_t i = 0; i < len; i++)
		stream->data[stream->len + i] = data[i];
	stream->len += len;
	kept += len;
}

/*
 * What is in the pipe now; its end closes our side. Bounded, for a command may fill the pipe as fast
 * as we empty it and its deadline has to be looked at; more than any pipe holds (1 MiB).
 */
static void drain(struct stream *stream)
{
	static char chunk[65536];

	for (int reads = 0; stream->fd >= 0 && reads < 64; reads++) {
		ssize_t got = read(stream->fd, chunk, sizeof(chunk));

		if (got > 0) {
			keep(stream, chunk, got);
		} else if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
			return;
		} else {
			close(stream->fd);
			stream->fd = -1;
		}
	}
}

static int open_pipe(struct stream *stream)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe");
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	stream->fd = ends[0];
	return ends[1];
}

static pid_t start(int out, int err, const sigset_t *mask)
{
	char *argv[] = { "/bin/sh", DIRECTORY "/command", NULL };
	pid_t pid = fork();
	int in;

	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	setsid();
	sigprocmask(SIG_SETMASK, mask, NULL);
	in = open(DIRECTORY "/stdin", O_RDONLY);
	if (in < 0)
		in = open("/dev/null", O_RDONLY);
	if (in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		die("command's files");
	if (in > 2)
		close(in);
	execv(argv[0], argv);
	die(argv[0]);
	return 0;
}

/* A daemon that has left the group is our child by now: we are the reaper of orphans. */
static int kill_children(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int killed = 0;

	while (proc && (entry = readdir(proc))) {
		int pid = atoi(entry->d_name), parent = 0;
		char path[64], line[512], *end;
		FILE *stat;

		if (pid <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		stat = fopen(path, "re");
		if (!stat)
			continue;
		/* its name, in parentheses, may hold anything but a line's end */
		end = fgets(line, sizeof(line), stat) ? strrchr(line, ')') : NULL;
		if (end && sscanf(end + 1, " %*c %d", &parent) == 1 && parent == getpid())
			killed += !kill(pid, SIGKILL);
		fclose(stat);
	}
	if (proc)
		closedir(proc);
	return killed;
}

/* Children of what we kill become ours in turn; one that cannot die is waited for a while. */
static void kill_rest(pid_t group)
{
	kill(-group, SIGKILL);
	for (int i = 0; i < 50 && kill_children(); i++) {
		usleep(10000);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static void tell(const struct stream *stream)
{
	if (stream->len && fwrite(stream->data, 1, stream->len, stdout) != stream->len)
		die("answer");
}

int main(int argc, char **argv)
{
	struct stream out = { -1 }, err = { -1 };
	int out_end, err_end, status = 0, timed_out = 0;
	sigset_t child, before;
	long long deadline;
	char trailer[TRAILER_BYTES + 1];
	struct pollfd polled[3];
	pid_t pid, ended;

	if (argc != 3) {
		fprintf(stderr, "usage: %s TIMEOUT_MS LIMIT_BYTES\n", argv[0]);
		return 2;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	deadline = now_ms() + atoll(argv[1]);
	limit = strtoull(argv[2], NULL, 10);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &before);
	polled[0].fd = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
	if (polled[0].fd < 0)
		die("signalfd");
	out_end = open_pipe(&out);
	err_end = open_pipe(&err);
	pid = start(out_end, err_end, &before);
	close(out_end);
	close(err_end);
	while (!(ended = waitpid(pid, &status, WNOHANG))) {
		struct signalfd_siginfo told;
		long long left = deadline - now_ms();

		if (left <= 0 && !timed_out) {
			timed_out = 1;
			kill(-pid, SIGKILL);
		}
		polled[1].fd = out.fd;
		polled[2].fd = err.fd;
		for (int i = 0; i < 3; i++)
			polled[i].events = POLLIN;
		poll(polled, 3, left > 1000 ? 1000 : left > 0 ? left : 100);
		while (read(polled[0].fd, &told, sizeof(told)) > 0)
			;
		drain(&out);
		drain(&err);
	}
	if (ended < 0)
		die("wait");
	kill_rest(pid);
	drain(&out);
	drain(&err);
	tell(&out);
	tell(&err);
	snprintf(trailer, sizeof(trailer), "km-command %d %d %zu %zu %llu",
		 WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status), timed_out,
		 out.len, err.len, lost);
	printf("%-*s\n", TRAILER_BYTES - 1, trailer);
	return fflush(stdout) ? 1 : 0;
}
