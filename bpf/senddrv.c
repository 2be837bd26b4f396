// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "senddrv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "json.h"

#define CLASSES_MAX 8
#define EVENTS_MAX 8

struct expected {
	struct query query;
	struct sockaddr_storage dest;
	int has_dest;
	int hook;
	int connected;
	unsigned sport;
	size_t len;
	const char *status, *qtype, *qclass, *name_wire; /* of a corpus line */
};

static struct {
	const char *name;
	struct expected events[EVENTS_MAX];
	size_t n_events;
	const char *classes[CLASSES_MAX];
	unsigned counts[CLASSES_MAX];
	size_t n_classes;
} now;

static const char *only;
static int step;
char run_label[LABEL_MAX + 1];

void query_next(struct query *query)
{
	static const unsigned short types[] = { 1, 28, 15, 16, 12, 33, 65, 6 };
	static unsigned number;
	unsigned char *at = query->data + 12;
	char first[16];
	const char *labels[3] = { first, run_label, "test" };
	size_t i;

	memset(query, 0, sizeof(*query));
	number++;
	query->id = (number * 40503U + 4660) & 0xffff;
	query->qtype = types[number % (sizeof(types) / sizeof(types[0]))];
	query->data[0] = (unsigned char)(query->id >> 8);
	query->data[1] = (unsigned char)query->id;
	query->data[2] = 1; /* recursion desired */
	query->data[5] = 1; /* one question */
	snprintf(first, sizeof(first), "q%u", number);
	for (i = 0; i < 3; i++) {
		*at++ = (unsigned char)strlen(labels[i]);
		memcpy(at, labels[i], strlen(labels[i]));
		at += strlen(labels[i]);
	}
	at++;
	query->name_len = (unsigned)(at - query->data) - 12;
	at[0] = (unsigned char)(query->qtype >> 8);
	at[1] = (unsigned char)query->qtype;
	at[3] = 1; /* IN */
	query->len = (size_t)(at - query->data) + 4;
}

int case_wanted(const char *name)
{
	return !only || strcmp(only, name) == 0;
}

void case_begin(const char *name)
{
	memset(&now, 0, sizeof(now));
	now.name = name;
}

void case_class(const char *class, unsigned count)
{
	size_t i;

	for (i = 0; i < now.n_classes; i++) {
		if (strcmp(now.classes[i], class) == 0) {
			now.counts[i] += count;
			return;
		}
	}
	now.classes[now.n_classes] = class;
	now.counts[now.n_classes++] = count;
}

static struct expected *new_event(size_t len)
{
	struct expected *e = &now.events[now.n_events++];

	case_class("submitted", 1);
	e->len = len;
	return e;
}

void case_event(const struct query *query, int hook, const struct sockaddr *dest, int fd, int connected,
		size_t len)
{
	struct expected *e = new_event(len);
	struct sockaddr_storage local = {};
	socklen_t size = sizeof(local);

	e->query = *query;
	e->hook = hook;
	e->connected = connected;
	if (dest) {
		e->has_dest = 1;
		memcpy(&e->dest, dest,
		       dest->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
	}
	/* Asked after the send: an unbound socket gets its port then. */
	if (getsockname(fd, (struct sockaddr *)&local, &size) == 0)
		e->sport = ntohs(((struct sockaddr_in *)&local)->sin_port);
}

void case_datagram(const char *status, const char *qtype, const char *qclass, const char *name_wire,
		   unsigned id, size_t len)
{
	struct expected *e = new_event(len);

	e->status = status;
	e->qtype = qtype;
	e->qclass = qclass;
	e->name_wire = name_wire;
	e->query.id = id;
}

static void write_number(struct json *json, const char *key, const char *text)
{
	if (strcmp(text, "-") == 0)
		json_null(json, key);
	else
		json_u64(json, key, strtoul(text, NULL, 10));
}

static void write_event(struct json *json, const struct expected *e)
{
	char text[INET6_ADDRSTRLEN];

	json_push(json, NULL, "{}");
	json_u64(json, "id", e->query.id);
	json_u64(json, "len", e->len);
	json_s64(json, "pid", getpid());
	json_text(json, "process", "senddrv");
	if (e->status) {
		json_text(json, "status", e->status);
		json_text(json, "name_wire", strcmp(e->name_wire, "-") ? e->name_wire : "");
		write_number(json, "qtype", e->qtype);
		write_number(json, "qclass", e->qclass);
		json_pop(json, "{}");
		return;
	}
	json_text(json, "status", "ok");
	json_hex(json, "name_wire", e->query.data + 12, e->query.name_len);
	json_u64(json, "qtype", e->query.qtype);
	json_u64(json, "qclass", 1);
	json_text(json, "direction", e->query.data[2] & 0x80 ? "response" : "query");
	json_text(json, "hook", e->hook == 6 ? "udpv6_sendmsg" : "udp_sendmsg");
	json_bool(json, "connected", e->connected);
	json_u64(json, "sport", e->sport);
	if (e->has_dest && e->dest.ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const void *)&e->dest;

		json_text(json, "family", "inet6");
		json_text(json, "daddr", inet_ntop(AF_INET6, &a->sin6_addr, text, sizeof(text)));
		json_u64(json, "dport", ntohs(a->sin6_port));
	} else if (e->has_dest) {
		const struct sockaddr_in *a = (const void *)&e->dest;

		json_text(json, "family", "inet");
		json_text(json, "daddr", inet_ntop(AF_INET, &a->sin_addr, text, sizeof(text)));
		json_u64(json, "dport", ntohs(a->sin_port));
	}
	json_pop(json, "{}");
}

/* "--step": whoever reads a case asks for the next one with a line. */
static void wait_for_line(void)
{
	int c = 0;

	while (step && c != '\n' && c != EOF)
		c = getchar();
}

static void open_case(struct json *json, const char *expect)
{
	json_open(json, stdout, "case");
	json_text(json, "case", now.name);
	json_text(json, "expect", expect);
}

void case_end(long result, int error)
{
	struct json json;
	size_t i;

	open_case(&json, now.n_events ? "event" : now.n_classes ? "class" : "nothing");
	json_s64(&json, "result", result);
	json_text(&json, "errno", result < 0 ? strerrorname_np(error) : NULL);
	json_push(&json, "events", "[]");
	for (i = 0; i < now.n_events; i++)
		write_event(&json, &now.events[i]);
	json_pop(&json, "[]");
	json_push(&json, "classes", "{}");
	for (i = 0; i < now.n_classes; i++)
		json_u64(&json, now.classes[i], now.counts[i]);
	json_pop(&json, "{}");
	json_close(&json);
	fflush(stdout);
	wait_for_line();
}

void case_unsupported(const char *probe, int error)
{
	struct json json;

	open_case(&json, "unsupported");
	json_text(&json, "probe", probe);
	json_text(&json, "errno", error ? strerrorname_np(error) : NULL);
	json_push(&json, "events", "[]");
	json_pop(&json, "[]");
	/* What the attempt itself made of hits. */
	json_push(&json, "classes", "{}");
	json_pop(&json, "{}");
	json_close(&json);
	fflush(stdout);
	wait_for_line();
}

static void loopback_up(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq request = { .ifr_name = "lo" };

	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP)) {
		request.ifr_flags |= IFF_UP;
		ioctl(fd, SIOCSIFFLAGS, &request);
		/* ::1 is tentative for a moment. */
		usleep(300000);
	}
	close(fd);
}

static const char USAGE[] =
	"senddrv matrix [--label TEXT] [--only CASE] [--step]\n"
	"              every way a datagram leaves, a JSON line each\n"
	"senddrv corpus FILE                           the datagrams of a corpus, to 127.0.0.1:53\n"
	"senddrv flood [--count N] [--rate R [--burst B]] [--threads T] [--duration-s S]\n"
	"              [--cpu LIST]\n"
	"              [--non-dns | --answers | --unroutable] [--retries K] [--one-name] [--v6]\n"
	"              [--label TEXT]\n"
	"\n"
	"--label: 1 to 40 of a-z 0-9 -, in every name; random when not given. --step: wait for a\n"
	"line on standard input after each case.\n"
	"Exit status: 0 done; 2 wrong usage; 3 could not.\n";

static int usage(const char *message, const char *value)
{
	fprintf(stderr, "senddrv: %s '%s'\n%s", message, value, USAGE);
	return 2;
}

static void random_label(void)
{
	unsigned char octets[8] = {};
	size_t i;

	if (getrandom(octets, sizeof(octets), 0) < 0)
		perror("getrandom");
	for (i = 0; i < sizeof(octets); i++)
		sprintf(run_label + 2 * i, "%02x", octets[i]);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "label", 1, NULL, 'l' },	{ "only", 1, NULL, 'o' },    { "count", 1, NULL, 'c' },
		{ "rate", 1, NULL, 'r' },	{ "threads", 1, NULL, 't' }, { "cpu", 1, NULL, 'p' },
		{ "duration-s", 1, NULL, 'd' }, { "non-dns", 0, NULL, 'n' }, { "v6", 0, NULL, '6' },
		{ "answers", 0, NULL, 'a' },	{ "unroutable", 0, NULL, 'u' },
		{ "retries", 1, NULL, 'k' },	{ "one-name", 0, NULL, '1' },
		{ "burst", 1, NULL, 'b' },
		{ "step", 0, NULL, 's' },
		{ "help", 0, NULL, 'h' },	{ NULL, 0, NULL, 0 },
	};
	struct flood flood = { .threads = 1, .burst = 1 };
	const char *command;
	unsigned long value;
	char *end;
	int id;

	while ((id = getopt_long(argc, argv, "", options, NULL)) != -1) {
		value = 0;
		if (strchr("crtdkb", id)) {
			value = strtoul(optarg, &end, 10);
			if (!*optarg || *end || *optarg == '-')
				return usage("not a number", optarg);
		}
		switch (id) {
		case 'l':
			if (!*optarg || strlen(optarg) > LABEL_MAX ||
			    strspn(optarg, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(optarg))
				return usage("bad label", optarg);
			strcpy(run_label, optarg);
			break;
		case 'o': only = optarg; break;
		case 'c': flood.count = value; break;
		case 'r': flood.rate = value; break;
		case 'b': flood.burst = value; break;
		case 't': flood.threads = (unsigned)value; break;
		case 'd': flood.duration_s = (unsigned)value; break;
		case 'p': flood.cpus = optarg; break;
		case 'n': flood.non_dns = 1; break;
		case '6': flood.v6 = 1; break;
		case 'a': flood.answers = 1; break;
		case 'u': flood.unroutable = 1; break;
		case 'k': flood.retries = (unsigned)value; break;
		case '1': flood.one_name = 1; break;
		case 's': step = 1; break;
		case 'h': fputs(USAGE, stdout); return 0;
		default: return usage("unknown option in", argv[0]);
		}
	}
	if (!run_label[0])
		random_label();
	command = optind < argc ? argv[optind] : "";
	loopback_up();
	if (strcmp(command, "matrix") == 0 && optind + 1 == argc)
		return run_matrix();
	if (strcmp(command, "corpus") == 0 && optind + 2 == argc)
		return run_corpus(argv[optind + 1]);
	if (strcmp(command, "flood") == 0 && optind + 1 == argc) {
		if (!flood.count && !flood.duration_s)
			return usage("flood needs --count or --duration-s, not", "neither");
		if (flood.threads < 1 || flood.threads > 256)
			return usage("--threads is 1 to 256, not", argv[optind]);
		if (!flood.burst || (flood.burst > 1 && !flood.rate))
			return usage("--burst is 1 or more at a --rate, not", argv[optind]);
		if (flood.answers && flood.non_dns)
			return usage("--answers answers questions, not", "--non-dns");
		if (flood.answers && flood.unroutable)
			return usage("--answers answers what arrives, not", "--unroutable");
		if (flood.retries && !flood.count)
			return usage("--retries asks again what --count counts, not", "--duration-s");
		if (flood.one_name && flood.non_dns)
			return usage("--one-name names questions, not", "--non-dns");
		return run_flood(&flood);
	}
	return usage("no such command", command);
}
