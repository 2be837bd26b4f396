/* SPDX-License-Identifier: Apache-2.0 */
/* What the sources here need of bpf_helpers.h and bpf_core_read.h, without depending on them. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define CORE __attribute__((preserve_access_index))
#define noinline __attribute__((noinline))
#define barrier() asm volatile("" ::: "memory")

#define field_info(field, kind) __builtin_preserve_field_info(field, kind)
#define field_offset(field) field_info(field, 0)
#define field_size(field) field_info(field, 1)
#define field_exists(field) field_info(field, 2)
#define field_signed(field) field_info(field, 3)
#define field_lshift(field) field_info(field, 4)
#define field_rshift(field) field_info(field, 5)
#define type_exists(type) __builtin_preserve_type_info(*(type *)0, 0)
#define type_size(type) __builtin_preserve_type_info(*(type *)0, 1)
#define type_matches(type) __builtin_preserve_type_info(*(type *)0, 2)
#define local_id(type) __builtin_btf_type_id(*(type *)0, 0)
#define target_id(type) __builtin_btf_type_id(*(type *)0, 1)
#define enum_exists(type, value) __builtin_preserve_enum_value(*(type *)value, 0)
#define enum_value(type, value) __builtin_preserve_enum_value(*(type *)value, 1)

static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static u64 (*get_current_task)(void) = (void *)35;
static u64 (*ktime_get_ns)(void) = (void *)5;

#define core_read(to, from) \
	probe_read_kernel(to, sizeof(*(to)), __builtin_preserve_access_index(from))

char LICENSE[] SEC("license") = "GPL";
