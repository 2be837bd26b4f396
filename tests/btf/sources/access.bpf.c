// SPDX-License-Identifier: Apache-2.0
/* For the core-access audit: clean_* read at relocated offsets, broken_* at fixed ones. */
#include "core.h"

struct plain_inner {
	long pad;
	void *next;
};

struct plain {
	long pad[3];
	int x;
	struct plain_inner *inner;
};

struct good {
	long pad[3];
	int x;
	struct good *inner;
	char name[16];
} CORE;

u64 sink;

static noinline int clean_helper(struct good *g)
{
	int x = 0;

	probe_read_kernel(&x, 4, &g->x);
	return x;
}

SEC("kprobe/clean")
int clean_chain(struct good **ctx)
{
	struct good *g = (void *)get_current_task(), *inner = 0;

	core_read(&inner, &g->inner);
	core_read(&sink, &inner->inner);
	return clean_helper(inner);
}

SEC("kprobe/buffer")
int clean_buffer(void *ctx)
{
	char *head = (void *)get_current_task();

	/* A variable distance: a packet or a string, not a struct. */
	probe_read_kernel(&sink, 8, head + (ktime_get_ns() & 63) + 2);
	return 0;
}

SEC("fentry/typed")
int clean_typed(struct good **ctx)
{
	struct good *g = ctx[0];

	sink = g->x;
	return 0;
}

SEC("kprobe/first")
int broken_first(void *ctx)
{
	struct plain *p = (void *)get_current_task();

	probe_read_kernel(&sink, 4, &p->x);
	return 0;
}

SEC("kprobe/argument")
int broken_argument(struct plain **ctx)
{
	struct plain *p = ctx[14];

	probe_read_kernel(&sink, 4, &p->x);
	return 0;
}

SEC("kprobe/second")
int broken_second_step(void *ctx)
{
	struct good *g = (void *)get_current_task(), *inner = 0;

	core_read(&inner, &g->inner);
	probe_read_kernel(&sink, 8, &((struct plain *)inner)->inner);
	return 0;
}

SEC("fentry/typed")
int broken_typed(struct plain **ctx)
{
	sink = ctx[0]->x;
	return 0;
}

static noinline int reads_plain(struct plain *p)
{
	int x = 0;

	probe_read_kernel(&x, 4, &p->x);
	return x;
}

SEC("kprobe/sub")
int broken_in_subprogram(void *ctx)
{
	return reads_plain((void *)get_current_task());
}
