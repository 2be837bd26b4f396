// SPDX-License-Identifier: GPL-2.0-only
/* Many datagrams: a corpus from a file, or a flood. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "senddrv.h"

#define DATAGRAM_MAX 65536

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* "0a0b*20": two octets, then zeros up to 20. -1 when it is not that. */
static long decode(const char *text, unsigned char *data)
{
	unsigned long size = 0, total;
	char *end;

	while (hex_digit(text[0]) >= 0 && hex_digit(text[1]) >= 0 && size < DATAGRAM_MAX) {
		data[size++] = (unsigned char)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
		text += 2;
	}
	if (*text == '*') {
		total = strtoul(text + 1, &end, 10);
		if (*end || total < size || total > DATAGRAM_MAX)
			return -1;
		memset(data + size, 0, total - size);
		return (long)total;
	}
	return *text ? -1 : (long)size;
}

/* Name, class, status, type, class of the question, name on the wire, datagram; "-" for none. */
#define FIELDS 7

int run_corpus(const char *path)
{
	struct sockaddr_in dest = { .sin_family = AF_INET, .sin_port = htons(53),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	static char line[2 * DATAGRAM_MAX + 4096];
	static unsigned char data[DATAGRAM_MAX];
	FILE *file = fopen(path, "r");
	int fd = socket(AF_INET, SOCK_DGRAM, 0), number = 0, i;
	char *field[FIELDS], *rest;
	long size, sent;

	if (!file || fd < 0) {
		fprintf(stderr, "senddrv: cannot read '%s': %s\n", path, strerror(errno));
		return file ? 3 : 2;
	}
	while (fgets(line, sizeof(line), file)) {
		number++;
		if (line[0] == '#' || line[0] == '\n')
			continue;
		for (i = 0, rest = line; i < FIELDS; i++)
			field[i] = strsep(&rest, " \n");
		size = field[FIELDS - 1] ? decode(strcmp(field[6], "-") ? field[6] : "", data) : -1;
		if (size < 0) {
			fprintf(stderr, "senddrv: '%s' line %d: not a line of a corpus\n", path, number);
			return 2;
		}
		case_begin(field[0]);
		sent = sendto(fd, data, (size_t)size, 0, (void *)&dest, sizeof(dest));
		i = errno;
		if (strcmp(field[1], "event") == 0)
			case_datagram(field[2], field[3], field[4], field[5],
				      (unsigned)data[0] << 8 | data[1], (size_t)size);
		else
			case_class(field[1], 1);
		case_end(sent, i);
	}
	fclose(file);
	close(fd);
	return 0;
}

/*
 * What a flood of a given duration did when: hook hits in each stretch of CLOCK_MONOTONIC
 * (the clock of bpf_ktime_get_ns) from first_bin * BIN_NS on, all threads together. Only those
 * that were sent for certain between two readings of the clock in the same stretch.
 */
#define BIN_NS 10000000ULL
#define BINS_MORE 200   /* a flood that is kept from ending in time */
#define CLOCK_EVERY 8 /* sends: a stretch has hundreds, and loses those around its ends */

struct timeline {
	unsigned long long first_bin;
	unsigned long bins;
	unsigned *hits; /* NULL: a flood of a given count */
};

struct worker {
	const struct flood *flood;
	struct timeline *timeline;
	pthread_t thread;
	unsigned number;
	int cpu; /* -1: any */
	unsigned long long sent, unroutable, errors;
	/* Open until all threads have ended: a port that is free again may be the next one's. */
	int fd, server;
};

static unsigned long long clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (unsigned long long)now.tv_sec * 1000000000 + (unsigned long long)now.tv_nsec;
}

static double seconds(void)
{
	return (double)clock_ns() / 1e9;
}

static void sent_between(struct timeline *t, unsigned long long from_ns, unsigned long long to_ns,
			 unsigned hits)
{
	unsigned long long bin = from_ns / BIN_NS;

	if (bin == to_ns / BIN_NS && bin - t->first_bin < t->bins)
		__atomic_fetch_add(&t->hits[bin - t->first_bin], hits, __ATOMIC_RELAXED);
}

/* Where a flood goes. Nobody has a route to the documentation networks (RFC 5737, RFC 3849). */
union destination {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t destination_of(const struct flood *flood, union destination *to)
{
	in_port_t port = htons(flood->non_dns ? 9 : 53);

	memset(to, 0, sizeof(*to));
	if (flood->v6) {
		to->v6.sin6_family = AF_INET6;
		to->v6.sin6_port = port;
		inet_pton(AF_INET6, flood->unroutable ? "2001:db8::1" : "::1", &to->v6.sin6_addr);
		return sizeof(to->v6);
	}
	to->v4.sin_family = AF_INET;
	to->v4.sin_port = port;
	inet_pton(AF_INET, flood->unroutable ? "192.0.2.1" : "127.0.0.1", &to->v4.sin_addr);
	return sizeof(to->v4);
}

/* What a send to a place without a route fails with: no route, or no address of our own. */
static int is_unroutable(int error)
{
	return error == ENETUNREACH || error == EHOSTUNREACH || error == EADDRNOTAVAIL;
}

/* Asked by connecting, which sends nothing. 1, 0, or -1: could not ask. */
static int routable(const struct flood *flood)
{
	union destination to;
	socklen_t size = destination_of(flood, &to);
	int fd = socket(to.any.sa_family, SOCK_DGRAM, 0), error;

	if (fd < 0)
		return -1;
	error = connect(fd, &to.any, size) ? errno : 0;
	close(fd);
	return !error ? 1 : is_unroutable(error) ? 0 : -1;
}

/* Connected, but to where connecting fails. */
static int flood_socket(const struct flood *flood)
{
	union destination to;
	socklen_t size = destination_of(flood, &to);
	int fd = socket(to.any.sa_family, SOCK_DGRAM, 0);

	if (fd >= 0 && !flood->unroutable && connect(fd, &to.any, size)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Port 53 of the loopback, shared by the threads; -1 when somebody else has it. */
static int answering_socket(const struct flood *flood)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(53),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(53),
				   .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(flood->v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	if (flood->v6 ? bind(fd, (void *)&v6, sizeof(v6)) : bind(fd, (void *)&v4, sizeof(v4))) {
		perror("senddrv: bind to port 53");
		close(fd);
		return -1;
	}
	return fd;
}

static void count(struct worker *w, int ok)
{
	if (ok)
		w->sent++;
	else if (w->flood->unroutable && is_unroutable(errno))
		w->unroutable++;
	else
		w->errors++;
}

/*
 * "tT-NNNNNNNN.LABEL.test", type A: unique to thread and number once numbered, or the same
 * of all (number_at 0). The size.
 */
static size_t flood_query(unsigned char *data, const struct worker *w, size_t *number_at)
{
	char first[24];
	size_t label = strlen(run_label), at = 12;
	int n = snprintf(first, sizeof(first), "t%u-00000000",
			 w->flood->one_name ? 0 : w->number);

	memset(data, 0, 12);
	data[2] = 1;
	data[5] = 1;
	data[at++] = (unsigned char)n;
	memcpy(data + at, first, (size_t)n);
	at += (size_t)n;
	*number_at = w->flood->one_name ? 0 : at - 8;
	data[at++] = (unsigned char)label;
	memcpy(data + at, run_label, label);
	at += label;
	memcpy(data + at, "\4test\0\0\1\0\1", 10);
	return at + 10;
}

static void number_query(unsigned char *data, size_t number_at, unsigned long number)
{
	int i;

	data[0] = (unsigned char)(number >> 8);
	data[1] = (unsigned char)number;
	data[2] &= 0x7f;
	for (i = 7; number_at && i >= 0; i--, number >>= 4)
		data[number_at + (size_t)i] = (unsigned char)"0123456789abcdef"[number & 15];
}

static void *work(void *argument)
{
	struct worker *w = argument;
	const struct flood *f = w->flood;
	unsigned long long read_ns = 0, now_ns;
	unsigned since = 0; /* hits since read_ns */
	unsigned long share = f->count / f->threads + (w->number < f->count % f->threads);
	double rate = (double)f->rate / f->threads, start, due;
	union destination to;
	socklen_t to_size = f->unroutable ? destination_of(f, &to) : 0;
	const struct sockaddr *dest = f->unroutable ? &to.any : NULL;
	unsigned char data[QUERY_MAX];
	unsigned long turn = 0, turns = share * (1 + f->retries);
	size_t size, number_at;
	cpu_set_t set;
	struct sockaddr_storage local;
	socklen_t local_size = sizeof(local);

	if (w->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET((size_t)w->cpu, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	w->fd = flood_socket(f);
	if (w->fd < 0 || getsockname(w->fd, (void *)&local, &local_size))
		return NULL;
	if (f->answers) {
		w->server = answering_socket(f);
		if (w->server < 0)
			return NULL;
	}
	size = flood_query(data, w, &number_at);
	if (f->non_dns)
		memset(data, 0xff, size);
	start = seconds();
	while (!f->count || turn < turns) {
		if (f->duration_s && (turn % CLOCK_EVERY == 0 || f->rate)) {
			now_ns = clock_ns();
			sent_between(w->timeline, read_ns, now_ns, since);
			read_ns = now_ns;
			since = 0;
			if ((double)now_ns / 1e9 - start >= f->duration_s)
				break;
		}
		if (f->rate && turn % f->burst == 0) {
			due = start + (double)turn / rate - seconds();
			if (due > 0) {
				usleep((useconds_t)(due * 1e6));
				read_ns = f->duration_s ? clock_ns() : 0;
			}
		}
		if (!f->non_dns)
			number_query(data, number_at, f->count ? turn % share : turn);
		turn++;
		since += 1 + (unsigned)f->answers;
		/* A refused port makes the next send fail with what the last one met: try again. */
		count(w, sendto(w->fd, data, size, 0, dest, to_size) == (ssize_t)size);
		if (f->answers) {
			data[2] |= 0x80;
			count(w, sendto(w->server, data, size, 0, (void *)&local, local_size) == (ssize_t)size);
		}
	}
	return NULL;
}

/* "0,2-3" into cpus[]; the number of them, or -1. */
static int parse_cpus(const char *text, int *cpus, int max)
{
	long low, high;
	char *end;
	int n = 0;

	while (text && *text) {
		low = high = strtol(text, &end, 10);
		if (end == text)
			return -1;
		if (*end == '-') {
			text = end + 1;
			high = strtol(text, &end, 10);
			if (end == text)
				return -1;
		}
		for (; low <= high && n < max; low++)
			cpus[n++] = (int)low;
		if (*end && *end != ',')
			return -1;
		text = *end ? end + 1 : end;
	}
	return n;
}

/* From now on. -1: no memory. */
static int timeline_start(struct timeline *t, unsigned duration_s)
{
	t->first_bin = clock_ns() / BIN_NS;
	t->bins = duration_s * (1000000000 / BIN_NS) + BINS_MORE;
	t->hits = calloc(t->bins, sizeof(*t->hits));
	return t->hits ? 0 : -1;
}

static void timeline_write(struct json *json, const struct timeline *t)
{
	unsigned long bin, last = t->bins;

	while (last && !t->hits[last - 1])
		last--;
	json_u64(json, "bin_ns", BIN_NS);
	json_u64(json, "first_bin", t->first_bin);
	json_push(json, "bins", "[]");
	for (bin = 0; bin < last; bin++)
		json_u64(json, NULL, t->hits[bin]);
	json_pop(json, "[]");
}

int run_flood(const struct flood *flood)
{
	struct timeline timeline = { 0 };
	static struct worker workers[256];
	unsigned long long sent = 0, unroutable = 0, errors = 0;
	int cpus[256], n_cpus = parse_cpus(flood->cpus, cpus, 256);
	double start, took;
	struct json json;
	unsigned i;

	if (n_cpus < 0) {
		fprintf(stderr, "senddrv: not a list of CPUs: '%s'\n", flood->cpus);
		return 2;
	}
	if (flood->unroutable && routable(flood)) {
		fprintf(stderr, "senddrv: --unroutable: there is a route to the documentation network, "
				"or it cannot be asked for\n");
		return 3;
	}
	if (flood->duration_s && timeline_start(&timeline, flood->duration_s)) {
		perror("senddrv: calloc");
		return 3;
	}
	start = seconds();
	for (i = 0; i < flood->threads; i++) {
		workers[i] = (struct worker){ .flood = flood, .timeline = &timeline, .number = i,
					      .fd = -1, .server = -1,
					      .cpu = n_cpus ? cpus[i % (unsigned)n_cpus] : -1 };
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
			perror("senddrv: pthread_create");
			return 3;
		}
	}
	for (i = 0; i < flood->threads; i++) {
		pthread_join(workers[i].thread, NULL);
		sent += workers[i].sent;
		unroutable += workers[i].unroutable;
		errors += workers[i].errors;
	}
	took = seconds() - start;
	for (i = 0; i < flood->threads; i++) {
		if (workers[i].fd >= 0)
			close(workers[i].fd);
		if (workers[i].server >= 0)
			close(workers[i].server);
	}
	json_open(&json, stdout, "flood");
	json_text(&json, "label", run_label);
	/* Every call enters the hook, those that fail too. */
	json_u64(&json, "attempts", sent + unroutable + errors);
	json_u64(&json, "sent", sent);
	json_u64(&json, "unroutable", unroutable);
	json_u64(&json, "errors", errors);
	json_u64(&json, "threads", flood->threads);
	json_u64(&json, "duration_us", (unsigned long long)(took * 1e6));
	if (timeline.hits)
		timeline_write(&json, &timeline);
	json_close(&json);
	free(timeline.hits);
	return 0;
}
