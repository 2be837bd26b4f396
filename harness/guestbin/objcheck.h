/* SPDX-License-Identifier: Apache-2.0 */
/* objcheck: what this kernel does with a BPF object, as JSON lines. */
#ifndef OBJCHECK_H
#define OBJCHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

enum {
	EXIT_RAN = 0,		/* the answers are in the lines */
	EXIT_USAGE = 2,
	EXIT_UNREADABLE = 3,	/* the object or the BTF file */
};

/* log level bits of BPF_PROG_LOAD (kernel: include/linux/bpf_verifier.h) */
enum { LOG_TRACE = 1, LOG_TRACE_STATES = 2, LOG_STATS = 4 };

enum { DEFAULT_LOG_BYTES = UINT32_MAX >> 8 };	/* the largest that v4.19 takes */

#define VMLINUX_BTF "/sys/kernel/btf/vmlinux"

/* ---- json.c: one line at a time, flushed at its end ---- */
void js_line(const char *type);
void js_end(void);
void js_str(const char *key, const char *s);		/* NULL becomes null */
void js_strn(const char *key, const char *s, size_t n);
void js_u64(const char *key, uint64_t v);
void js_i64(const char *key, int64_t v);
void js_bool(const char *key, bool v);
void js_maybe(const char *key, bool known, uint64_t v);	/* null when not known */
void js_null(const char *key);
void js_object(const char *key);	/* key NULL: element of an array */
void js_array(const char *key);
void js_close(void);
void js_errno(int err);			/* "errno" and "errno_name" */
void js_error_line(const char *what, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- options.c ---- */
struct map_fix {
	const char *name;
	int type;		/* -1: leave alone; sizes too */
	long key, value, max;
	int unless_map;		/* map type whose presence cancels this fix, or -1 */
};

struct setting {
	const char *name, *value;
};

struct options {
	const char *object, *btf;
	const char **programs;
	size_t nprograms;
	struct optional_program {
		const char *name;
		bool refused;	/* alone: then it is left out of the rest */
	} *optional;
	size_t noptional;
	struct map_fix *maps;
	size_t nmaps;
	struct map_fix *inner;	/* what a map of maps holds, where the object does not say */
	size_t ninner;
	struct setting *settings;
	size_t nsettings;
	int log_level;		/* -1: statistics first, a trace only after a rejection */
	size_t log_size, tail;	/* bytes */
	const char *log_dir;
	long load_timeout_s;	/* for each load, 0: none */
	bool hold, stats;
	const char *ready_file;
	long expire_s;		/* 0: hold for ever */
};

/* 0, or -1 after an error line */
int options_parse(struct options *o, int argc, char **argv, bool attach);
bool options_wants(const struct options *o, const char *program);
struct optional_program *options_optional(const struct options *o, const char *program);
int map_type_by_name(const char *name);	/* -1: unknown */
const char *map_type_name(int type);
const char *prog_type_name(int type);

/* ---- capture.c: what libbpf says ---- */
void capture_start(void);
const char *capture_warnings(void);	/* the warning lines since capture_start, bounded */
bool capture_has(const char *needle);
typedef void (*capture_sink)(enum libbpf_print_level level, const char *text);
void capture_to(capture_sink sink);	/* every line, debug too; NULL: stop */
const char *level_name(enum libbpf_print_level level);

/* ---- object.c ---- */
struct opened {
	struct bpf_object *obj;	/* NULL after a failure */
	int err;		/* positive errno */
};

/*
 * Opens the object and applies the options' map fixes and settings. Only "only" is loaded when it
 * is given, else what the options name, else all that are not SEC("?...").
 */
enum autoload { AUTOLOAD_ONE, AUTOLOAD_TOGETHER, AUTOLOAD_ALL };
struct opened object_open(const struct options *o, enum autoload how, const char *only);
int object_fixups(const struct options *o, struct bpf_object *obj);	/* with error lines */
void object_line(const struct options *o);
void map_facts(struct bpf_map *map);
int object_check(const struct options *o);	/* EXIT_RAN or the exit status, after an error line */
struct prog_names {
	struct prog_name {
		char name[256];
		bool optional;
	} *v;
	size_t n;
};
struct prog_names object_programs(const struct options *o);
long fd_memlock(int fd);	/* bytes from fdinfo, -1 unknown */

/* ---- stats.c ---- */
void stats_object(const char *log);	/* "stats": the verifier's figures, or null */
void stack_chain(struct bpf_program *prog, const char *log);	/* prog may be NULL; "stack_chain", or null */

/* ---- load.c ---- */
struct log_buf {
	char *answer;		/* log of the try that decides; reserved, not resident */
	char *trace;		/* log of the try that walks through the program, if any */
	size_t size;		/* of each */
};

struct attempt {
	struct bpf_object *obj;	/* as after bpf_object__load; the caller closes it */
	int err;		/* positive errno, 0: loaded */
	const char *stage;	/* NULL when loaded */
	const char *reason;
	char *message;		/* what libbpf warned of */
	char *failed;		/* program that libbpf blamed, or NULL */
	int level;		/* log level of the last try whose text is kept */
	bool truncated;		/* some try ended with ENOSPC: its log is not whole */
	uint64_t load_us;	/* the try that gave the answer */
};

/* What a command on an object does first: EXIT_RAN, or the exit status after an error line. */
int object_begin(const struct options *o, struct log_buf *log);
struct attempt load_attempt(const struct options *o, const char *only, struct log_buf log);
void attempt_free(struct attempt *a);
void try_optional(const struct options *o, struct log_buf log);
void together_line(const struct options *o, const struct attempt *a, struct log_buf log);
int cmd_load(int argc, char **argv);

/* ---- refusal.c ---- */
char *named_in_warnings(const char *kind, const char *what);	/* to be freed, or NULL */
void classify(struct attempt *a, const char *log);	/* of a load that failed */

/* ---- attach.c: run time statistics ---- */
struct run_stats {
	int fd;			/* of BPF_ENABLE_STATS (since v5.8), or -1 */
	const char *how;	/* NULL: not to be had */
	char before;		/* the sysctl's value (since v5.1), to put back */
};

struct run_stats stats_on(void);
void stats_off(const struct run_stats *s);

/* ---- the other commands ---- */
enum found { ABSENT, PRESENT, CANNOT_TELL };
enum found in_kallsyms(const char *symbol);
int cmd_attach(int argc, char **argv);
bool kprobe_multi(void);
int cmd_features(int argc, char **argv);
int cmd_dump_relos(int argc, char **argv);
int cmd_ids(int argc, char **argv);
int cmd_hot(int argc, char **argv);
int cmd_maps(int argc, char **argv);
int cmd_kprobe(int argc, char **argv);
int cmd_runs(int argc, char **argv);
void raise_memlock(void);

#endif
