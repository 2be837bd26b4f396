/* SPDX-License-Identifier: GPL-2.0-only */
/* The loader: options, the object, its probes, running it. */
#ifndef DNSMON_H
#define DNSMON_H

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/types.h>
#include <stdio.h>

#include "dns_monitor.h"
#include "json.h"

enum exit_status {
	EXIT_OK = 0,
	EXIT_REFUSED = 1, /* this kernel or object cannot */
	EXIT_USAGE = 2,
	EXIT_UNKNOWN = 3, /* we could not ask: privilege, file, memory */
};

enum buffer_kind { BUFFER_AUTO, BUFFER_RINGBUF, BUFFER_PERF };
enum limiter_kind { LIMITER_AUTO, LIMITER_XADD, LIMITER_GCRA };

/* What is written of each event: everything, its time stamp, nothing. */
enum events_kind { EVENTS_FULL, EVENTS_BRIEF, EVENTS_NONE };

#define SETS_MAX 64

struct options {
	const char *object;
	const char *btf;
	const char *output;
	const char *input;
	const char *metrics;
	const char *sets[SETS_MAX];
	int n_sets;
	enum buffer_kind buffer;
	enum limiter_kind limiter;
	enum events_kind events;
	unsigned long ring_bytes;
	unsigned long log_bytes;
	unsigned duration_s;
	int all;
	int payload;
	int prometheus;
};

struct monitor {
	struct bpf_object *object;
	enum buffer_kind buffer;
	enum limiter_kind limiter;
	unsigned long ring_bytes;
};

/* Prints a line of type "error" to stderr; returns `status`. */
int fail(enum exit_status status, const char *cause, const char *hint, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* libbpf's messages are kept, tail first, and printed when something failed. */
void log_keep(unsigned long bytes);
void log_print(void);

/* Probes: 1 holds, 0 does not, negative errno: could not ask. */
int probe_ringbuf_map(void);
int probe_ringbuf_btf(const char *btf_path);
int probe_atomic_fetch(void);
int probe_kernel_btf(void);
int probe_symbol(const char *name);
/* Capabilities that are missing, comma-separated in a static buffer; "" for none. */
const char *missing_capabilities(void);
int cmd_probe(const struct options *options);

/*
 * Opens the object, applies settings, picks buffer and limiter. `only`: autoload
 * this program and no other. 0 or an exit status.
 */
int monitor_open(struct monitor *monitor, const struct options *options, const char *only);
int monitor_load(struct monitor *monitor, const struct options *options);
/* A setting's value and in *size its size; NULL when the object has none of that name. */
void *setting(struct bpf_object *object, const char *name, size_t *size);
int cmd_load(const struct options *options);
int cmd_parse(const struct options *options);

/* Sums a per-CPU counters map; 0 or -errno. */
int read_counters(int fd, struct dns_counters *total);
void write_counters(struct json *json, const struct dns_counters *total);
void write_prometheus(FILE *out, const struct dns_counters *total);

int cmd_run(const struct options *options);
int cmd_stats(const struct options *options);

extern const char *const dns_status_names[];
extern const char *const dns_verdict_names[];
extern const char *const dns_counter_names[];

#endif
