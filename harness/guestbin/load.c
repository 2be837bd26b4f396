// SPDX-License-Identifier: Apache-2.0
/* Loads each program alone, then all together, and says at which stage a refusal came. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#include "objcheck.h"

/* v7.3 has a line for each of up to 256 subprograms */
enum { SUMMARY_BYTES = 32 * 1024 };

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000) + ts.tv_nsec / 1000;
}

static char *reserve(size_t size)
{
	char *buf = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return buf == MAP_FAILED ? NULL : buf;
}

/* Nothing set: no memory, after an error line. */
static struct log_buf log_reserve(const struct options *o)
{
	struct log_buf log = { reserve(o->log_size), reserve(o->log_size), o->log_size };

	if (log.answer && log.trace)
		return log;
	js_error_line("log-size", NULL, "cannot reserve %zu bytes for the log", o->log_size);
	return (struct log_buf){};
}

int object_begin(const struct options *o, struct log_buf *log)
{
	int status = object_check(o);

	if (status)
		return status;
	*log = log_reserve(o);
	return log->answer ? EXIT_RAN : EXIT_USAGE;
}

/* The end of a log: what it says last, and the figures. */
static const char *log_end(const char *log)
{
	const char *figures = NULL, *next;
	size_t n = strlen(log), before = SUMMARY_BYTES / 8, start;

	for (next = strstr(log, "\nverification time "); next; next = strstr(next + 1, "\nverification time "))
		figures = next;
	start = figures ? (size_t)(figures - log) : n;
	start = start > before ? start - before : 0;
	if (n - start > SUMMARY_BYTES)
		start = n - SUMMARY_BYTES;
	return log + start;
}

/* ---- one try, and the tries that an answer needs ---- */

static volatile sig_atomic_t alarmed;

static void on_alarm(int signal)
{
	alarmed = signal;
}

/*
 * The verifier gives up with EAGAIN when a signal is pending, and libbpf asks again, five times in
 * all: so the alarm repeats.
 */
static void set_alarm(long seconds)
{
	const struct sigaction action = { .sa_handler = on_alarm };
	const struct itimerval timer = {
		.it_value = { .tv_sec = seconds },
		.it_interval = { .tv_usec = seconds ? 200000 : 0 },
	};

	alarmed = 0;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

/*
 * A buffer for each program: one that is refused before its verification leaves its buffer as it
 * was, and a shared one would show its predecessor's log as its own. NULL: share after all.
 */
static char *spread_logs(struct bpf_object *obj, char *shared, size_t size, int level, size_t *all)
{
	struct bpf_program *prog;
	char *logs, *next;
	size_t n = 0;

	bpf_object__for_each_program(prog, obj)
		n += bpf_program__autoload(prog);
	*all = n * size;
	logs = next = n > 1 ? reserve(*all) : NULL;
	bpf_object__for_each_program(prog, obj) {
		bpf_program__set_log_level(prog, level);
		bpf_program__set_log_buf(prog, logs && bpf_program__autoload(prog) ? next : shared, size);
		if (logs && bpf_program__autoload(prog))
			next += size;
	}
	return logs;
}

/* The log of the program that libbpf blames, into the shared buffer. */
static void gather_log(struct bpf_object *obj, char *shared, size_t size)
{
	char *failed = named_in_warnings("prog '", "fail");
	struct bpf_program *prog = failed ? bpf_object__find_program_by_name(obj, failed) : NULL;
	size_t log_size;
	const char *log = prog ? bpf_program__log_buf(prog, &log_size) : NULL;

	if (log && log != shared)
		memcpy(shared, log, strnlen(log, size - 1) + 1);
	free(failed);
}

static void try_load(const struct options *o, const char *only, char *buf, int level,
		     struct attempt *a)
{
	struct opened opened;
	size_t all = 0;
	char *logs;
	uint64_t start;
	bool timed_out;
	int err;

	bpf_object__close(a->obj);
	free(a->message);
	buf[0] = '\0';
	opened = object_open(o, only ? AUTOLOAD_ONE : AUTOLOAD_TOGETHER, only);
	a->obj = opened.obj;
	a->level = level;
	a->stage = a->reason = NULL;
	if (!opened.obj) {
		a->err = opened.err;
		a->stage = "open";
		a->reason = "object-invalid";
		a->message = strdup(capture_warnings());
		return;
	}
	logs = spread_logs(opened.obj, buf, o->log_size, level, &all);
	set_alarm(o->load_timeout_s);
	start = now_us();
	err = bpf_object__load(opened.obj);
	a->load_us = now_us() - start;
	timed_out = alarmed;
	set_alarm(0);
	a->err = err < 0 ? -err : 0;
	if (logs) {
		gather_log(opened.obj, buf, o->log_size);
		munmap(logs, all);
	}
	buf[o->log_size - 1] = '\0';
	if (a->err)
		classify(a, buf);
	if (a->err == EAGAIN && timed_out) {
		a->stage = "verifier";
		a->reason = "timeout";
		buf[0] = '\0';	/* the figures of the last, short, retry */
	}
	a->message = strdup(capture_warnings());
}

/* Asks a rejected program again, only for the words: the answer, its figures and its time stay. */
static void add_trace(const struct options *o, const char *only, struct log_buf log,
		      struct attempt *a)
{
	struct attempt trace = {};

	try_load(o, only, log.trace, LOG_STATS | LOG_TRACE, &trace);
	a->level = trace.level;
	a->truncated = trace.err == ENOSPC;	/* before v6.4 the head of the trace is kept */
	if (trace.err && trace.reason && !strcmp(trace.reason, "core-relocation"))
		a->stage = a->reason = "core-relocation";
	attempt_free(&trace);
}

/*
 * Statistics alone first (level 4): a small log that cannot overflow, so the answer is the
 * kernel's. Only a rejection is asked again for its trace. A log that overflowed says ENOSPC
 * whatever the verifier thought, in every kernel: ask again with less, at last without a log.
 */
struct attempt load_attempt(const struct options *o, const char *only, struct log_buf log)
{
	int level = o->log_level < 0 ? LOG_STATS : o->log_level;
	bool traced = level & (LOG_TRACE | LOG_TRACE_STATES);
	struct attempt a = {};

	log.trace[0] = log.answer[0] = '\0';
	try_load(o, only, traced ? log.trace : log.answer, level, &a);
	if (traced && a.err != ENOSPC) {
		strcpy(log.answer, log_end(log.trace));
		return a;
	}
	if (a.err == ENOSPC) {
		a.truncated = true;
		try_load(o, only, log.answer, LOG_STATS, &a);
		a.level |= level;
	}
	if (a.err == ENOSPC) {
		/* Kernels before v5.2 come here: they take any level above 1 for a full trace. */
		strcpy(log.trace, log.answer);
		try_load(o, only, log.answer, 0, &a);
		a.level = level;
		if (a.err == ENOSPC) {	/* refused without a log; libbpf asked once more, with one */
			a.stage = "verifier";
			a.reason = "verifier-rejected";
		}
	}
	/* the trace of a million instructions takes long and helps nobody who did not ask for it */
	if (a.err && !a.truncated && o->log_level < 0 && *log.answer &&
	    strcmp(a.reason, "program-too-complex") && strcmp(a.reason, "timeout"))
		add_trace(o, only, log, &a);
	return a;
}

void attempt_free(struct attempt *a)
{
	bpf_object__close(a->obj);
	free(a->message);
	free(a->failed);
	*a = (struct attempt){};
}

/* ---- lines ---- */

static char *write_log(const struct options *o, const char *name, const char *log)
{
	char *path, *c;
	FILE *f;

	if (!o->log_dir || !*log)
		return NULL;
	if (asprintf(&path, "%s/%s.log", o->log_dir, name) < 0)
		return NULL;
	for (c = path + strlen(o->log_dir) + 1; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("_.-", *c))
			*c = '_';
	f = fopen(path, "we");
	if (!f || fputs(log, f) < 0 || fclose(f)) {
		js_error_line("log-dir", path, "cannot write '%s': %s", path, strerror(errno));
		free(path);
		return NULL;
	}
	return path;
}

static void log_fields(const struct options *o, const struct attempt *a, struct log_buf log,
		       const char *path)
{
	size_t len = strlen(log.trace), tail = len < o->tail ? len : o->tail;

	js_i64("log_level", a->level);
	js_u64("log_bytes", len);
	js_bool("log_truncated", a->truncated);
	js_str("log_file", path);
	js_strn("log", log.trace + len - tail, tail);
	js_str("summary", log_end(log.answer));
	stats_object(log.answer);
}

static void outcome_fields(const struct attempt *a)
{
	js_bool("ok", !a->err);
	js_errno(a->err);
	js_str("stage", a->stage);
	js_str("reason", a->reason);
	js_str("message", a->message);
	js_u64("load_us", a->load_us);
}

static void info_fields(struct bpf_program *prog)
{
	struct bpf_prog_info info = {};
	uint32_t len = sizeof(info);
	int fd = prog ? bpf_program__fd(prog) : -1;
	bool known = fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &len);

	/* zero before v5.16, where the kernel does not fill it in */
	js_maybe("verified_insns", info.verified_insns, info.verified_insns);
	js_maybe("xlated_bytes", known, info.xlated_prog_len);
	js_maybe("jited_bytes", known, info.jited_prog_len);
}

/* "<byte_off> [5] struct x.y (0:0 @ offset 0)": what libbpf could not find; up to the end of its line */
static void relocation_field(const char *log)
{
	static const char what[] = "failed to resolve CO-RE relocation ";
	const char *hit = strstr(log, what);

	if (hit)
		js_strn("relocation", hit + strlen(what), strcspn(hit + strlen(what), "\n"));
	else
		js_null("relocation");
}

static void program_line(const struct options *o, const struct prog_name *name, struct log_buf log)
{
	struct attempt a = load_attempt(o, name->name, log);
	struct bpf_program *prog = a.obj ? bpf_object__find_program_by_name(a.obj, name->name) : NULL;
	char *path = write_log(o, name->name, *log.trace ? log.trace : log.answer);

	js_line("program");
	js_str("name", name->name);
	js_str("section", prog ? bpf_program__section_name(prog) : NULL);
	js_str("prog_type", prog ? prog_type_name(bpf_program__type(prog)) : NULL);
	js_u64("insns", prog ? bpf_program__insn_cnt(prog) : 0);
	js_bool("optional", name->optional);
	outcome_fields(&a);
	relocation_field(log.trace);
	info_fields(prog);
	stack_chain(prog, log.answer);
	log_fields(o, &a, log, path);
	js_end();
	free(path);
	if (a.err && options_optional(o, name->name))
		options_optional(o, name->name)->refused = true;
	attempt_free(&a);
}

/* For who loads together without having loaded each program alone. */
void try_optional(const struct options *o, struct log_buf log)
{
	struct prog_names names = object_programs(o);
	size_t i;

	for (i = 0; i < names.n; i++) {
		struct optional_program *optional = options_optional(o, names.v[i].name);
		struct attempt a = {};

		if (!optional || names.v[i].optional)
			continue;
		try_load(o, names.v[i].name, log.answer, LOG_STATS, &a);
		optional->refused = a.err;
		attempt_free(&a);
	}
	free(names.v);
}

static void map_memory(struct bpf_object *obj)
{
	struct bpf_map *map;
	long total = 0;

	js_array("maps");
	bpf_object__for_each_map(map, obj) {
		long bytes = bpf_map__fd(map) < 0 ? -1 : fd_memlock(bpf_map__fd(map));

		js_object(NULL);
		map_facts(map);
		js_maybe("memory_bytes", bytes >= 0, bytes);
		js_close();
		if (bytes < 0)
			total = -1;
		else if (total >= 0)
			total += bytes;
	}
	js_close();
	js_maybe("map_memory_bytes", total >= 0, total);
}

void together_line(const struct options *o, const struct attempt *a, struct log_buf log)
{
	struct bpf_program *prog;

	js_line("together");
	js_array("programs");
	if (a->obj)
		bpf_object__for_each_program(prog, a->obj)
			if (bpf_program__autoload(prog))
				js_str(NULL, bpf_program__name(prog));
	js_close();
	outcome_fields(a);
	js_str("failed_program", a->err ? a->failed : NULL);
	if (a->obj && !a->err)
		map_memory(a->obj);
	if (a->err) {
		relocation_field(log.trace);
		log_fields(o, a, log, NULL);
	}
	js_end();
}

int cmd_load(int argc, char **argv)
{
	struct options o;
	struct prog_names names;
	struct attempt together;
	struct log_buf log;
	size_t i;
	int status;

	if (options_parse(&o, argc, argv, false))
		return EXIT_USAGE;
	status = object_begin(&o, &log);
	if (status)
		return status;
	object_line(&o);
	names = object_programs(&o);
	for (i = 0; i < names.n; i++)
		program_line(&o, &names.v[i], log);
	free(names.v);
	together = load_attempt(&o, NULL, log);
	together_line(&o, &together, log);
	attempt_free(&together);
	js_line("end");
	js_end();
	return EXIT_RAN;
}
