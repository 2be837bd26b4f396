// SPDX-License-Identifier: Apache-2.0
/* The verifier's figures out of its log. Every kernel since v5.2 ends with the "processed" line. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "objcheck.h"

enum { MAX_SUBPROGRAMS = 256 };		/* the kernel's own limit, BPF_MAX_SUBPROGS */

struct figures {
	unsigned long long processed, limit, max_states, total, peak, mark_read, usec;
	int known;			/* of the first six, in this order */
	bool timed;
	int stacks;			/* subprograms that "stack" is known of */
	unsigned int stack[MAX_SUBPROGRAMS];
	long stack_max;			/* the kernel's own deepest chain (7.2), or -1 */
	int parts;			/* main program and each global function (7.2) */
	unsigned long long part[MAX_SUBPROGRAMS];
};

/* "a+b+c": how many numbers went into v */
static int plus_list(const char *text, unsigned long long *v)
{
	char *end;
	int n = 0;

	for (; isdigit((unsigned char)*text) && n < MAX_SUBPROGRAMS; text = end) {
		v[n++] = strtoull(text, &end, 10);
		if (*end == '+')
			end++;
	}
	return n;
}

/*
 * up to 7.0  stack depth 8+96
 * 7.2        stack depth 8+96 max 112       insns processed 127+18
 * 7.3        stack depth max 112            subprog 1 (f) static insns_self 34 insns_total 82 stack 96
 */
static void stack_line(const char *line, struct figures *f)
{
	unsigned long long v[MAX_SUBPROGRAMS];
	const char *max = strstr(line, "max ");
	int i;

	f->stacks = plus_list(line, v);
	for (i = 0; i < f->stacks; i++)
		f->stack[i] = v[i];
	f->stack_max = max && max < strchrnul(line, '\n') ? strtol(max + 4, NULL, 10) : -1;
}

static bool starts(const char *line, const char *with, const char **rest)
{
	size_t n = strlen(with);

	*rest = line + n;
	return !strncmp(line, with, n);
}

static void figures_line(const char *line, struct figures *f)
{
	unsigned long long self, total;
	unsigned int index, stack;
	const char *rest;
	char kind[16];

	if (starts(line, "processed ", &rest)) {
		f->known = sscanf(rest, "%llu insns (limit %llu) max_states_per_insn %llu "
				  "total_states %llu peak_states %llu mark_read %llu",
				  &f->processed, &f->limit, &f->max_states, &f->total, &f->peak,
				  &f->mark_read);
		rest = strstr(rest, "), stack depth ");		/* up to v5.1: on the same line */
		if (rest && rest < strchrnul(line, '\n'))
			stack_line(rest + strlen("), stack depth "), f);
	} else if (starts(line, "verification time ", &rest)) {
		f->timed = sscanf(rest, "%llu usec", &f->usec) == 1;
	} else if (starts(line, "stack depth ", &rest)) {
		stack_line(rest, f);
	} else if (starts(line, "insns processed ", &rest)) {
		f->parts = plus_list(rest, f->part);
	} else if (sscanf(line, "subprog %u (%*[^)]) %15s insns_self %llu insns_total %llu stack %u",
			  &index, kind, &self, &total, &stack) == 5) {
		if (index == (unsigned int)f->stacks && index < MAX_SUBPROGRAMS)
			f->stack[f->stacks++] = stack;
		if (strcmp(kind, "static") && f->parts < MAX_SUBPROGRAMS)
			f->part[f->parts++] = total;
	}
}

static struct figures figures_read(const char *log)
{
	struct figures f = { .stack_max = -1 };
	const char *line;

	for (line = log; *line; line = *strchrnul(line, '\n') ? strchrnul(line, '\n') + 1 :
						strchrnul(line, '\0'))
		figures_line(line, &f);
	return f;
}

void stats_object(const char *log)
{
	struct figures f = figures_read(log);
	int i;

	if (f.known < 1) {
		js_null("stats");
		return;
	}
	js_object("stats");
	js_u64("processed", f.processed);
	js_maybe("limit", f.known > 1, f.limit);
	js_maybe("max_states_per_insn", f.known > 2, f.max_states);
	js_maybe("total_states", f.known > 3, f.total);
	js_maybe("peak_states", f.known > 4, f.peak);
	js_maybe("mark_read", f.known > 5, f.mark_read);
	js_maybe("verification_us", f.timed, f.usec);
	js_array("stack");
	for (i = 0; i < f.stacks; i++)
		js_u64(NULL, f.stack[i]);
	js_close();
	js_maybe("stack_max", f.stack_max >= 0, f.stack_max);
	js_array("parts");
	for (i = 0; i < f.parts; i++)
		js_u64(NULL, f.part[i]);
	js_close();
	js_close();
}

/* ---- the deepest call chain, which kernels up to 7.0 check but do not print ---- */

struct calls {
	const struct bpf_insn *insns;
	uint32_t count, starts[MAX_SUBPROGRAMS];
	int n;
	long depth[MAX_SUBPROGRAMS];	/* of the chain below, -1: not known yet */
};

static int subprogram_at(const struct calls *c, uint32_t insn)
{
	int i;

	for (i = c->n - 1; i > 0 && c->starts[i] > insn; i--)
		;
	return i;
}

/* a call of, or a pointer to, a subprogram: where it starts; else 0, which nothing calls */
static uint32_t call_target(const struct calls *c, uint32_t i)
{
	const struct bpf_insn *insn = &c->insns[i];
	bool call = insn->code == (BPF_JMP | BPF_CALL) && insn->src_reg == BPF_PSEUDO_CALL;
	bool pointer = insn->code == (BPF_LD | BPF_IMM | BPF_DW) && insn->src_reg == BPF_PSEUDO_FUNC;
	int64_t target = (int64_t)i + insn->imm + 1;

	return (call || pointer) && target > 0 && target < c->count ? target : 0;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static bool find_subprograms(struct calls *c)
{
	uint32_t i, target;
	int k;

	c->n = 1;	/* the main program, at 0 */
	for (i = 0; i < c->count; i++) {
		target = call_target(c, i);
		for (k = 0; target && k < c->n && c->starts[k] != target; k++)
			;
		if (!target || k < c->n)
			continue;
		if (c->n == MAX_SUBPROGRAMS)
			return false;
		c->starts[c->n++] = target;
	}
	qsort(c->starts, c->n, sizeof(*c->starts), by_number);
	return true;
}

static long depth_below(struct calls *c, const struct figures *f, int sub, int frames)
{
	uint32_t end = sub + 1 < c->n ? c->starts[sub + 1] : c->count, i;
	long deepest = 0;

	if (frames > MAX_SUBPROGRAMS)	/* recursion: the verifier refuses it */
		return 0;
	if (c->depth[sub] >= 0)
		return c->depth[sub];
	for (i = c->starts[sub]; i < end; i++) {
		uint32_t target = call_target(c, i);
		long below = target ? depth_below(c, f, subprogram_at(c, target), frames + 1) : 0;

		if (below > deepest)
			deepest = below;
	}
	c->depth[sub] = f->stack[sub] + deepest;
	return c->depth[sub];
}

/*
 * Bytes of the deepest chain, each subprogram as large as the log says. The kernel rounds each up
 * (to 32, later to 16 with a JIT) before it compares the sum with 512, so stack_max may be larger.
 */
void stack_chain(struct bpf_program *prog, const char *log)
{
	struct figures f = figures_read(log);
	struct calls c = {};
	bool known = false;
	long bytes = 0;

	memset(c.depth, 0xff, sizeof(c.depth));
	if (prog) {
		c.insns = bpf_program__insns(prog);
		c.count = bpf_program__insn_cnt(prog);
		known = find_subprograms(&c) && c.n == f.stacks;
	}
	if (known)
		bytes = depth_below(&c, &f, 0, 0);
	js_maybe("stack_chain", known, bytes);
}
