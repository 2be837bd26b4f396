// SPDX-License-Identifier: GPL-2.0-only
/* Attach, consume, account. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "dns_name.h"
#include "dnsmon.h"

#define POLL_MS 100 /* no event waits longer in a buffer, if the machine has a CPU for us */
#define WAKEUP_SHARE 4 /* of a perf buffer: so full, it wakes us before that */
#define LINKS_MAX 4

static volatile sig_atomic_t stop;

struct session {
	struct monitor monitor;
	const struct options *options;
	struct ring_buffer *ring;
	struct perf_buffer *perf;
	struct bpf_program *programs[LINKS_MAX];
	struct bpf_link *links[LINKS_MAX];
	int n_programs;
	unsigned long long received;
	unsigned long long perf_lost;
	unsigned long long short_records; /* smaller than they say: never expected */
	FILE *out;
};

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

static void write_event(struct session *s, const struct dns_event *e, const unsigned char *payload)
{
	const struct dns_question *q = &e->question;
	char text[INET6_ADDRSTRLEN], name[DNS_NAME_TEXT_MAX];
	struct json json;

	json_open(&json, s->out, "event");
	json_u64(&json, "ts_ns", e->ts_ns);
	json_text(&json, "hook", e->hook == 6 ? "udpv6_sendmsg" : "udp_sendmsg");
	json_text(&json, "direction", q->flags & DNS_FLAG_QR ? "response" : "query");
	json_text(&json, "family", e->family == AF_INET6 ? "inet6" : "inet");
	json_text(&json, "daddr", inet_ntop(e->family, e->daddr, text, sizeof(text)));
	json_u64(&json, "dport", e->dport);
	json_u64(&json, "sport", e->sport);
	json_u64(&json, "scope_id", e->scope_id);
	json_bool(&json, "connected", e->flags & DNS_EV_CONNECTED);
	json_u64(&json, "netns", e->netns);
	json_u64(&json, "pid", e->pid);
	json_u64(&json, "tid", e->tid);
	json_u64(&json, "uid", e->uid);
	json_text_n(&json, "comm", e->comm, sizeof(e->comm));
	json_text_n(&json, "process", e->process, sizeof(e->process));
	json_u64(&json, "len", e->len);
	json_u64(&json, "captured", e->captured);
	json_bool(&json, "segments_cut", e->flags & DNS_EV_SEGMENTS_CUT);
	json_u64(&json, "id", q->id);
	json_u64(&json, "flags", q->flags);
	json_u64(&json, "opcode", q->flags >> 11 & 15);
	json_u64(&json, "rcode", q->flags & 15);
	json_u64(&json, "qdcount", q->qdcount);
	json_u64(&json, "ancount", q->ancount);
	json_u64(&json, "nscount", q->nscount);
	json_u64(&json, "arcount", q->arcount);
	json_text(&json, "status", q->status <= DNS_NAME_NO_QUESTION ? dns_status_names[q->status] : NULL);
	json_hex(&json, "name_wire", payload + DNS_HEADER_LEN, q->name_len);
	if (q->status == DNS_NAME_OK) {
		dns_name_text(payload + DNS_HEADER_LEN, q->name_len, name);
		json_text(&json, "name", name);
		json_u64(&json, "qtype", q->qtype);
		json_u64(&json, "qclass", q->qclass);
	} else {
		json_null(&json, "name");
		json_null(&json, "qtype");
		json_null(&json, "qclass");
	}
	json_u64(&json, "sample_n", e->sample_n);
	json_u64(&json, "cpu", e->cpu);
	json_u64(&json, "cpu_submitted", e->cpu_submitted);
	json_u64(&json, "cpu_sampled_out", e->cpu_sampled_out);
	json_u64(&json, "cpu_rate_limited", e->cpu_rate_limited);
	json_u64(&json, "cpu_ring_full", e->cpu_ring_full);
	if (s->options->payload)
		json_hex(&json, "payload", payload, e->captured);
	json_close(&json);
}

/* For loads of which only the times matter: writing whole events takes most of a CPU. */
static void write_brief(struct session *s, const struct dns_event *e)
{
	struct json json;

	json_open(&json, s->out, "event");
	json_u64(&json, "ts_ns", e->ts_ns);
	json_close(&json);
}

static int on_record(void *context, void *data, size_t size)
{
	struct session *s = context;
	struct dns_event event;

	s->received++;
	if (size < sizeof(event)) {
		s->short_records++;
		return 0;
	}
	memcpy(&event, data, sizeof(event));
	/* Perf records are padded at the end, so there may be more, never less. */
	if (size - sizeof(event) < event.captured ||
	    DNS_HEADER_LEN + (size_t)event.question.name_len > event.captured) {
		s->short_records++;
		return 0;
	}
	switch (s->options->events) {
	case EVENTS_FULL: write_event(s, &event, (const unsigned char *)data + sizeof(event)); break;
	case EVENTS_BRIEF: write_brief(s, &event); break;
	case EVENTS_NONE: break;
	}
	return 0;
}

/* A record of a perf buffer as the kernel writes it (PERF_SAMPLE_RAW). */
static enum bpf_perf_event_ret on_perf(void *context, int cpu, struct perf_event_header *header)
{
	struct session *s = context;

	(void)cpu;
	if (header->type == PERF_RECORD_SAMPLE) {
		struct {
			struct perf_event_header header;
			__u32 size;
			char data[];
		} *sample = (void *)header;

		on_record(s, sample->data, sample->size);
	} else if (header->type == PERF_RECORD_LOST) {
		struct {
			struct perf_event_header header;
			__u64 id;
			__u64 lost;
		} *record = (void *)header;

		s->perf_lost += record->lost;
	} else {
		s->short_records++;
	}
	return LIBBPF_PERF_EVENT_CONT;
}

/*
 * A wake-up for each event costs the sender an interrupt of its own: a buffer
 * wakes us when it is filling, and consume() looks in any case.
 */
static struct perf_buffer *open_perf(struct session *s, int fd)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_BPF_OUTPUT,
		.sample_type = PERF_SAMPLE_RAW,
		.sample_period = 1,
		.watermark = 1,
		.wakeup_watermark = s->monitor.ring_bytes / WAKEUP_SHARE,
	};

	return perf_buffer__new_raw(fd, s->monitor.ring_bytes / (unsigned long)sysconf(_SC_PAGESIZE),
				    &attr, on_perf, s, NULL);
}

static int open_buffer(struct session *s)
{
	int fd = bpf_object__find_map_fd_by_name(s->monitor.object, "events");

	if (s->monitor.buffer == BUFFER_RINGBUF)
		s->ring = ring_buffer__new(fd, on_record, s, NULL);
	else
		s->perf = open_perf(s, fd);
	if (!s->ring && !s->perf)
		return fail(EXIT_UNKNOWN, "infra", NULL, "cannot open the %s buffer: %s",
			    s->monitor.buffer == BUFFER_PERF ? "perf" : "ring", strerror(errno));
	return 0;
}

static int attach_one(struct session *s, int i, int optional)
{
	int err, denied;

	s->links[i] = bpf_program__attach(s->programs[i]);
	err = errno;
	if (s->links[i] || (optional && err == ENOENT))
		return 0;
	denied = err == EPERM || err == EACCES;
	log_print();
	return fail(denied ? EXIT_UNKNOWN : EXIT_REFUSED, denied ? "privilege" : "attach-failed",
		    *missing_capabilities() ? missing_capabilities() : NULL, "cannot attach '%s': %s",
		    bpf_program__name(s->programs[i]), strerror(err));
}

/*
 * udp_sendmsg must attach. udpv6_sendmsg may come later, with the module ipv6:
 * asked for again once a second.
 */
static int attach(struct session *s)
{
	int i, err = 0;

	for (i = 0; i < s->n_programs && !err; i++) {
		int v6 = strncmp(bpf_program__name(s->programs[i]), "dns_udp6", 8) == 0;

		if (!s->links[i] && (!v6 || probe_symbol("udpv6_sendmsg") != 0))
			err = attach_one(s, i, v6);
	}
	return err;
}

static void write_attached(struct session *s, struct json *json)
{
	int i;

	json_push(json, "programs", "[]");
	for (i = 0; i < s->n_programs; i++)
		if (s->links[i])
			json_text(json, NULL, bpf_program__name(s->programs[i]));
	json_pop(json, "[]");
}

static unsigned long long setting_value(struct session *s, const char *name)
{
	unsigned long long value = 0;
	size_t size;
	const void *data = setting(s->monitor.object, name, &size);

	if (data && size <= sizeof(value))
		memcpy(&value, data, size);
	return value;
}

/*
 * What no second, wherever it starts, may exceed. Windows of burst/limit seconds:
 * a second touches one more than it has room for.
 */
static unsigned long long max_any_second(struct session *s)
{
	unsigned long long limit = setting_value(s, "rate_limit"), burst = setting_value(s, "rate_burst");

	if (s->monitor.limiter == LIMITER_GCRA)
		return limit + burst;
	return burst * ((limit + burst - 1) / burst + 1);
}

static void write_ready(struct session *s)
{
	static const char *const numbers[] = { "rate_limit", "rate_burst", "sample_n",
					       "sample_threshold", "sample_seed" };
	struct json json;
	size_t i;

	json_open(&json, s->out, "ready");
	json_text(&json, "buffer", s->monitor.buffer == BUFFER_PERF ? "perf" : "ringbuf");
	write_attached(s, &json);
	json_text(&json, "limiter", s->monitor.limiter == LIMITER_GCRA ? "gcra" : "xadd");
	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		json_u64(&json, numbers[i], setting_value(s, numbers[i]));
	if (setting_value(s, "rate_limit"))
		json_u64(&json, "max_events_any_second", max_any_second(s));
	else
		json_null(&json, "max_events_any_second");
	json_u64(&json, "ring_bytes", s->monitor.ring_bytes);
	json_s64(&json, "pid", getpid());
	json_close(&json);
	fflush(s->out);
}

static void write_programs(struct session *s, struct json *json)
{
	int i;

	json_push(json, "program_info", "[]");
	for (i = 0; i < s->n_programs; i++) {
		struct bpf_prog_info info = {};
		__u32 size = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(s->programs[i]), &info, &size))
			continue;
		json_push(json, NULL, "{}");
		json_text(json, "name", bpf_program__name(s->programs[i]));
		json_u64(json, "run_cnt", info.run_cnt);
		json_u64(json, "run_time_ns", info.run_time_ns);
		json_u64(json, "recursion_misses", info.recursion_misses);
		json_pop(json, "{}");
	}
	json_pop(json, "[]");
}

/* Whole or not at all: a scraper never reads half a file. 0 or -errno. */
static int save_metrics(struct session *s)
{
	struct dns_counters total;
	char path[4096];
	FILE *file;
	int err;

	if (!s->options->metrics)
		return 0;
	err = read_counters(bpf_object__find_map_fd_by_name(s->monitor.object, "dns_counters"), &total);
	if (err)
		return err;
	if (snprintf(path, sizeof(path), "%s.tmp", s->options->metrics) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	file = fopen(path, "w");
	if (!file)
		return -errno;
	write_prometheus(file, &total);
	if (fclose(file) || rename(path, s->options->metrics))
		return -errno;
	return 0;
}

static int write_stats(struct session *s)
{
	struct dns_counters total;
	struct json json;
	int err;

	err = read_counters(bpf_object__find_map_fd_by_name(s->monitor.object, "dns_counters"), &total);
	if (err)
		return fail(EXIT_UNKNOWN, "infra", NULL, "cannot read the counters: %s", strerror(-err));
	json_open(&json, s->out, "stats");
	write_counters(&json, &total);
	json_u64(&json, "received", s->received);
	json_u64(&json, "perf_lost", s->perf_lost);
	json_u64(&json, "short_records", s->short_records);
	json_text(&json, "buffer", s->monitor.buffer == BUFFER_PERF ? "perf" : "ringbuf");
	json_text(&json, "limiter", s->monitor.limiter == LIMITER_GCRA ? "gcra" : "xadd");
	write_programs(s, &json);
	json_close(&json);
	return fflush(s->out) || ferror(s->out) ?
		       fail(EXIT_UNKNOWN, "infra", NULL, "cannot write: %s", strerror(errno)) :
		       0;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void consume(struct session *s, int timeout_ms)
{
	if (s->ring) {
		timeout_ms ? ring_buffer__poll(s->ring, timeout_ms) : ring_buffer__consume(s->ring);
	} else {
		if (timeout_ms)
			perf_buffer__poll(s->perf, timeout_ms);
		perf_buffer__consume(s->perf); /* those that did not wake us, too */
	}
	fflush(s->out);
}

static int update_metrics(struct session *s)
{
	int err = save_metrics(s);

	return err ? fail(EXIT_UNKNOWN, "infra", NULL, "cannot write '%s': %s", s->options->metrics,
			  strerror(-err)) :
		     0;
}

static int loop(struct session *s)
{
	double start = seconds(), chores = start;
	int err = 0;

	while (!stop && !err) {
		double now = seconds();

		if (s->options->duration_s && now - start >= s->options->duration_s)
			break;
		if (now - chores >= 1) {
			chores = now;
			err = update_metrics(s);
			if (!err)
				err = attach(s);
		}
		consume(s, POLL_MS);
		if (ferror(s->out))
			err = fail(EXIT_UNKNOWN, "infra", NULL, "cannot write: %s", strerror(errno));
	}
	return err;
}

static void detach(struct session *s)
{
	int i;

	for (i = 0; i < s->n_programs; i++) {
		bpf_link__destroy(s->links[i]);
		s->links[i] = NULL;
	}
}

static int run(struct session *s)
{
	struct bpf_program *program;
	int err = monitor_load(&s->monitor, s->options);

	if (err)
		return err;
	bpf_object__for_each_program(program, s->monitor.object)
		if (bpf_program__autoload(program) && s->n_programs < LINKS_MAX)
			s->programs[s->n_programs++] = program;
	err = open_buffer(s);
	if (!err)
		err = update_metrics(s);
	if (!err)
		err = attach(s);
	if (err)
		return err;
	write_ready(s);
	err = loop(s);
	/* Nothing is produced any more: what is read now is all there is. */
	detach(s);
	consume(s, 0);
	if (!err)
		err = update_metrics(s);
	return err ? err : write_stats(s);
}

int cmd_run(const struct options *o)
{
	/* A write to a pipe that is full goes on; waiting for events ends all the same. */
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	struct session s = { .options = o, .out = stdout };
	int err;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (o->output)
		s.out = fopen(o->output, "w");
	if (!s.out)
		return fail(EXIT_USAGE, "usage", NULL, "cannot write '%s': %s", o->output, strerror(errno));
	err = monitor_open(&s.monitor, o, NULL);
	if (err)
		return err;
	err = run(&s);
	detach(&s);
	ring_buffer__free(s.ring);
	perf_buffer__free(s.perf);
	bpf_object__close(s.monitor.object);
	return err;
}
