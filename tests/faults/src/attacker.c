// SPDX-License-Identifier: Apache-2.0
/*
 * Stands where the guest's agent stands and attacks the host: one attack for each word of
 * km.attack=WORD,WORD,… on the kernel command line. Each begins with the first guest-exec that the
 * host asks for and ends when the host writes a line without a request in it; then we greet again.
 * Between a greeting and the attack, synchronisation is answered as the agent would. A word that is
 * no attack is silence. As rdinit=, with attack_on=RELEASE on the command line (the kernel makes it
 * our environment), it leaves other kernels to their init.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <termios.h>
#include <unistd.h>

static int port;
static char request[1 << 16];
static char previous[64];	/* id of the last request that was answered */

static void say(const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(port, text, length);

		if (written <= 0)
			exit(1);
		text += written;
		length -= written;
	}
}

static void line(const char *text)
{
	say(text, strlen(text));
	say("\n", 1);
}

static int host_speaks(void)
{
	struct pollfd poller = { .fd = port, .events = POLLIN };

	return poll(&poller, 1, 0) > 0;
}

/* The host's next line, in `request`. */
static void listen_to_host(void)
{
	size_t used = 0;

	while (used < sizeof(request) - 1) {
		if (read(port, request + used, 1) != 1)
			exit(1);
		if (request[used++] == '\n')
			break;
	}
	request[used] = '\0';
}

/* What follows "id": in the request, as it stands there; the last one is the request's own. */
static const char *identity(void)
{
	static char id[64];
	char *at = request, *last = NULL;

	while ((at = strstr(at, "\"id\": ")))
		last = at += 6;
	if (!last)
		return "0";
	snprintf(id, sizeof(id), "%.*s", (int)strcspn(last, ",}\n"), last);
	return id;
}

/* "It ended, with status 0", as if `id` had asked; both a guest-exec's answer and its status's. */
static void success(const char *id)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "{\"return\": {\"pid\": 7, \"exited\": true, \"exitcode\": 0}, \"id\": %s}", id);
	line(text);
}

static void attack(const char *how)
{
	char block[4096];

	memset(block, 'A', sizeof(block));
	if (!strcmp(how, "replay")) {
		while (!host_speaks() && previous[0])
			success(previous), usleep(50000);
	} else if (!strcmp(how, "unasked")) {
		success("\"0123456789abcdef\"");
		success("null");
		success("[]");
		line("{\"return\": {\"pid\": 7, \"exited\": true, \"exitcode\": 0}}");
	} else if (!strcmp(how, "garbage")) {
		srand(7);
		for (size_t i = 0; i < sizeof(block); i++)
			block[i] = rand();
		for (int i = 0; i < 16; i++)
			say(block, sizeof(block));
	} else if (!strcmp(how, "nested")) {
		memset(block, '[', sizeof(block));
		for (int i = 0; i < 16; i++)
			say(block, sizeof(block));
		line("");
	} else if (!strcmp(how, "half")) {
		say("{\"return\": {\"pid\": 7, \"exited\": true, \"exitco", 47);
	} else if (!strcmp(how, "liar")) {	/* the right request, answers of the wrong shape */
		snprintf(block, sizeof(block), "{\"return\": {\"pid\": true}, \"id\": %s}", identity());
		line(block);
	} else if (!strcmp(how, "long")) {
		while (!host_speaks())
			say(block, sizeof(block));
	} else if (!strcmp(how, "flood")) {
		block[63] = '\n';
		while (!host_speaks())
			say(block, 64);
	} else if (!strcmp(how, "close")) {
		exit(0);
	}
}

static char *attacks(void)
{
	static char words[4096];
	int fd = open("/proc/cmdline", O_RDONLY);
	ssize_t got = read(fd, words, sizeof(words) - 1);
	char *found = strstr(words, "km.attack=");

	close(fd);
	if (got < 0 || !found)
		exit(1);
	found[strcspn(found, " \n")] = '\0';
	return found + strlen("km.attack=");
}

static void open_port(void)
{
	struct termios tty;

	if (getpid() == 1) {	/* as rdinit= */
		mkdir("/dev", 0755);
		mkdir("/proc", 0755);
		mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
		mount("proc", "/proc", "proc", 0, NULL);
	}
	port = open("/dev/ttyS1", O_RDWR | O_NOCTTY);
	if (port < 0)
		port = open("/dev/ttyAMA1", O_RDWR | O_NOCTTY);
	if (port < 0 || tcgetattr(port, &tty))
		exit(1);
	cfmakeraw(&tty);
	tcsetattr(port, TCSANOW, &tty);
}

static int for_another_kernel(void)
{
	const char *wanted = getenv("attack_on");
	struct utsname ours;

	return wanted && !uname(&ours) && strcmp(ours.release, wanted);
}

int main(int argc, char *argv[])
{
	char *rest;

	(void)argc;
	if (getpid() == 1 && for_another_kernel()) {
		execv("/init", argv);
		return 1;
	}
	open_port();
	rest = attacks();
	for (char *how = strsep(&rest, ","); how; how = strsep(&rest, ",")) {
		line("\nkm: guest up");
		for (listen_to_host(); !strstr(request, "guest-exec"); listen_to_host()) {
			char text[128];

			if (!strstr(request, "guest-sync"))
				continue;
			snprintf(previous, sizeof(previous), "%s", identity());
			snprintf(text, sizeof(text), "{\"return\": %s}", previous);
			line(text);
		}
		attack(how);
		snprintf(previous, sizeof(previous), "%s", identity());
		do	/* requests meanwhile are not answered */
			listen_to_host();
		while (strstr(request, "execute"));
		line("");
	}
	for (;;)
		pause();
}
