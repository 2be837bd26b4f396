// SPDX-License-Identifier: Apache-2.0
/*
 * Poison behind guards. The name says what a verifier does with a program where struct nowhere does
 * not exist: pass_* loads, fail_* does not.
 */
#include "core.h"

struct nowhere {
	int field;
	long other;
} CORE;

struct inner {
	int x;
} CORE;

enum state { S_OLD, S_ABSENT_VALUE };

const volatile int setting_off = 0;
const volatile int setting_on = 1;
extern int CONFIG_GUARD __attribute__((section(".kconfig"), weak));
extern int absent_kfunc(int n) __attribute__((section(".ksyms"), weak));

u64 sink;

static noinline int reads(struct nowhere *n)
{
	int value = 0;

	core_read(&value, &n->field);
	return value;
}

static noinline int reads_if(struct nowhere *n, int wanted)
{
	return wanted ? reads(n) : 0;
}

SEC("raw_tp/sys_enter")
int pass_field_exists(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (field_exists(n->field))
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_negated_and_early_return(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (!type_exists(struct nowhere))
		return 0;
	core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_flag_across_a_merge(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();
	int have = field_exists(n->field);

	if (ktime_get_ns() & 1)
		sink = 1;
	if (have && sink)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_flag_on_the_stack(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();
	volatile long have = field_exists(n->field);

	ktime_get_ns();
	if (have)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_offset_used_only_if_there(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (type_size(struct nowhere) > 8)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_rodata_setting(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (setting_off)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_kconfig(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (CONFIG_GUARD > 3)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_in_a_subprogram(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	return reads_if(n, field_exists(n->field));
}

SEC("raw_tp/sys_enter")
int pass_enum_value(void *ctx)
{
	if (enum_exists(enum state, S_ABSENT_VALUE))
		sink = enum_value(enum state, S_ABSENT_VALUE);
	return 0;
}

SEC("raw_tp/sys_enter")
int pass_kfunc(void *ctx)
{
	if (absent_kfunc)
		sink = absent_kfunc(3);
	return 0;
}

SEC("raw_tp/sys_enter")
int fail_no_guard(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int fail_wrong_guard(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (field_exists(((struct inner *)n)->x))
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int fail_runtime_guard(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (ktime_get_ns() & 1)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int fail_setting_on(void *ctx)
{
	struct nowhere *n = (void *)get_current_task();

	if (setting_on)
		core_read(&sink, &n->other);
	return 0;
}

SEC("raw_tp/sys_enter")
int fail_in_a_subprogram(void *ctx)
{
	return reads((void *)get_current_task());
}

SEC("raw_tp/sys_enter")
int fail_kfunc_without_test(void *ctx)
{
	sink = absent_kfunc(3);
	return 0;
}
