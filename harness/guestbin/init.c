// SPDX-License-Identifier: Apache-2.0
/*
 * PID 1 of the guest. Mounts what checks need, brings the loopback up and serves the host:
 * qemu-ga on the second serial port, or, with km.shell on the kernel command line, a shell on
 * the console. When the server ends, the guest powers off: a lost server is a lost guest, and the
 * host sees that at once because QEMU exits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* A file system a kernel does not have is not an error: the check that needs it says so. */
static const struct {
	const char *type, *target, *data;
} mounts[] = {
	{ "devtmpfs", "/dev", NULL },
	{ "proc", "/proc", NULL },
	{ "sysfs", "/sys", NULL },
	{ "devpts", "/dev/pts", NULL },
	{ "tmpfs", "/dev/shm", NULL },
	{ "tmpfs", "/tmp", "mode=1777" },
	{ "tmpfs", "/run", NULL },
	{ "bpf", "/sys/fs/bpf", NULL },
	{ "debugfs", "/sys/kernel/debug", NULL },
	{ "tracefs", "/sys/kernel/tracing", NULL },
	{ "cgroup2", "/sys/fs/cgroup", NULL },
};

/* Scripts write to /dev/stderr and substitute processes through /dev/fd; devtmpfs has neither. */
static void link_devices(void)
{
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

static void mount_all(void)
{
	for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
		mkdir(mounts[i].target, 0755);
		mount(mounts[i].type, mounts[i].target, mounts[i].type, 0, mounts[i].data);
	}
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		printf("km: loopback is down: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void console_as_stdio(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

/* The word after KEY on the kernel command line, or NULL. */
static const char *cmdline_value(const char *key)
{
	static char line[4096];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (fd >= 0)
		close(fd);
	if (got < 0)
		return NULL;
	line[got] = '\0';
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		if (!strncmp(word, key, strlen(key)))
			return word + strlen(key);
	return NULL;
}

/* Raw before the greeting: a cooked tty would echo the host's first bytes back to it. */
static void greet(const char *channel)
{
	static const char greeting[] = "\nkm: guest up\n";
	struct termios tty;
	int fd = open(channel, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0) {
		printf("km: no channel %s: %s\n", channel, strerror(errno));
		return;
	}
	if (!tcgetattr(fd, &tty)) {
		cfmakeraw(&tty);
		tcsetattr(fd, TCSANOW, &tty);
	}
	if (write(fd, greeting, sizeof(greeting) - 1) < 0)
		printf("km: channel %s: %s\n", channel, strerror(errno));
	close(fd);
}

static pid_t start(char *const argv[], int on_terminal)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	setsid();
	if (on_terminal)
		ioctl(0, TIOCSCTTY, 1);
	execv(argv[0], argv);
	printf("km: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/*
 * Through the kernel's log: a line there is whole, and comes after why the server was killed. What is
 * written to the console lands in the middle of what the kernel still has to print there.
 */
static void say_down(int status)
{
	char line[64] = "<4>"; /* KERN_WARNING: on the console at loglevel=5 */
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	snprintf(line + 3, sizeof(line) - 3, "km: guest down (server status %#x)\n", status);
	fflush(stdout);
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		fputs(line + 3, stdout);
}

int main(void)
{
	static char channel[64] = "/dev/ttyS1";
	char *agent[] = { "/usr/sbin/qemu-ga", "-m", "isa-serial", "-p", channel, "-t", "/run", NULL };
	char *shell[] = { "/bin/sh", "-l", NULL };
	struct rlimit files = { 65536, 65536 };
	const char *named, *terminal;
	pid_t server, ended;
	int status;

	mount_all();
	link_devices();
	console_as_stdio();
	setrlimit(RLIMIT_NOFILE, &files);
	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	loopback_up();
	sethostname("guest", 5);
	terminal = cmdline_value("km.shell");
	if (terminal) {
		setenv("TERM", *terminal == '=' ? terminal + 1 : "linux", 1);
		server = start(shell, 1);
	} else {
		named = cmdline_value("km.channel=");
		if (named)
			snprintf(channel, sizeof(channel), "/dev/%s", named);
		greet(channel);
		server = start(agent, 0);
	}
	while ((ended = wait(&status)) != server)
		if (ended < 0 && errno == ECHILD)
			break;
	say_down(status);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
