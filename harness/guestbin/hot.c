// SPDX-License-Identifier: Apache-2.0
/*
 * How often the verifier went through each instruction, counted out of its full trace (level 2).
 *
 * A trace may have hundreds of megabytes, so it is counted here and only the counts travel. The
 * trace has one line for each instruction that the verifier counts as processed:
 *
 *	12: (bf) r6 = r1	the instruction is followed
 *	12: safe		it is reached in a state that was seen before, and left again
 *	from 9 to 12: safe	the same, coming from a branch; "(speculative execution)" may follow 12
 *
 * (kernel/bpf/verifier.c, do_check, from v5.4 to v7.3), so the counts of a whole trace add up to
 * the "processed" figure. Before the trace, v7.2 lists the instructions several times for analyses
 * of its own; the last listing, which v6.15 and later have, is headed LISTING and looks different.
 * A trace that does not fit loses its end, since v6.4 its beginning.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "objcheck.h"

#define LISTING "Live regs before insn:"

enum { HOT_LOG_BYTES = 192 << 20 };	/* resident only as far as the kernel fills it */

static bool starts(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* The instruction that a line of the trace counts, or -1. */
static long counted_insn(const char *line)
{
	bool from = starts(line, "from ");
	long insn;
	char *end;

	if (from) {
		strtol(line + strlen("from "), &end, 10);
		if (!starts(end, " to "))
			return -1;
		line = end + strlen(" to ");
	}
	if (!isdigit((unsigned char)*line))
		return -1;
	insn = strtol(line, &end, 10);
	if (from && starts(end, " (speculative execution)"))
		end += strlen(" (speculative execution)");
	if (starts(end, ": safe"))
		return insn;
	if (!from && starts(end, ": (") && isxdigit((unsigned char)end[3]) &&
	    isxdigit((unsigned char)end[4]) && end[5] == ')')
		return insn;
	return -1;
}

/* Adds up into v; how many lines counted. */
static uint64_t count_lines(const char *trace, bool whole, uint64_t *v, long n)
{
	const char *line = trace;
	uint64_t all = 0;

	if (!whole)	/* may start in the middle of a line */
		line = *strchrnul(line, '\n') ? strchrnul(line, '\n') + 1 : "";
	while (*line) {
		const char *end = strchrnul(line, '\n');
		long insn = counted_insn(line);

		if (insn >= 0 && insn < n) {
			v[insn]++;
			all++;
		} else if (starts(line, LISTING)) {
			memset(v, 0, n * sizeof(*v));
			all = 0;
		}
		line = *end ? end + 1 : end;
	}
	return all;
}

static void hot_line(const struct options *o, const char *name, struct log_buf log)
{
	struct attempt a = load_attempt(o, name, log);
	struct bpf_program *prog = a.obj ? bpf_object__find_program_by_name(a.obj, name) : NULL;
	size_t n = prog ? bpf_program__insn_cnt(prog) : 0, i;
	uint64_t *v = calloc(n + 1, sizeof(*v)), all;

	all = count_lines(log.trace, !a.truncated, v, n);
	js_line("hot");
	js_str("name", name);
	js_bool("ok", !a.err);
	js_errno(a.err);
	js_str("reason", a.reason);
	js_u64("insns", n);
	js_bool("truncated", a.truncated);
	js_u64("log_bytes", strlen(log.trace));
	js_u64("load_us", a.load_us);
	js_u64("counted", all);
	js_array("counts");	/* instruction, times, instruction, times, ... */
	for (i = 0; i < n; i++) {
		if (!v[i])
			continue;
		js_u64(NULL, i);
		js_u64(NULL, v[i]);
	}
	js_close();
	stats_object(log.answer);
	js_end();
	free(v);
	attempt_free(&a);
}

int cmd_hot(int argc, char **argv)
{
	struct prog_names names;
	struct options o;
	struct log_buf log;
	size_t i;
	int status;

	if (options_parse(&o, argc, argv, false))
		return EXIT_USAGE;
	o.log_level = LOG_TRACE_STATES | LOG_STATS;
	if (o.log_size == DEFAULT_LOG_BYTES)
		o.log_size = HOT_LOG_BYTES;
	status = object_begin(&o, &log);
	if (status)
		return status;
	object_line(&o);
	names = object_programs(&o);
	for (i = 0; i < names.n; i++)
		hot_line(&o, names.v[i].name, log);
	free(names.v);
	js_line("end");
	js_end();
	return EXIT_RAN;
}
