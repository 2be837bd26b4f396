// SPDX-License-Identifier: Apache-2.0
/* Maps, global data and externs of every sort, for inspection and for kernels that lack some. */
#include "core.h"

#define uint(name, value) int(*name)[value]
#define type(name, value) typeof(value) *name
#define KCONFIG __attribute__((section(".kconfig")))
#define KSYMS __attribute__((section(".ksyms")))
#define WEAK __attribute__((weak))

struct event {
	u64 when;
	char name[16];
};

struct {
	uint(type, 27);
	uint(max_entries, 4096);
} ring SEC(".maps");

struct {
	uint(type, 1);
	uint(max_entries, 10);
	type(key, u32);
	type(value, struct event);
} hash SEC(".maps");

struct inner_map {
	uint(type, 2);
	uint(max_entries, 1);
	type(key, u32);
	type(value, u32);
} inner_one SEC(".maps");

struct {
	uint(type, 12);
	uint(max_entries, 2);
	uint(key_size, 4);
	typeof(struct inner_map *) values[];
} outer_map SEC(".maps");

enum libbpf_tristate { TRI_NO = 0, TRI_YES = 1, TRI_MODULE = 2 };

extern int LINUX_KERNEL_VERSION KCONFIG;
extern _Bool CONFIG_BOOL KCONFIG WEAK;
extern enum libbpf_tristate CONFIG_TRI KCONFIG WEAK;
extern int CONFIG_HZ KCONFIG WEAK;
extern unsigned char CONFIG_SMALL KCONFIG WEAK;
extern char CONFIG_NAME[8] KCONFIG WEAK;
extern const void symbol KSYMS WEAK;
extern const int typed_symbol KSYMS WEAK;

u64 counter;
u64 start = 7;
static volatile const char text[8] = "abc";

static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;

SEC("kprobe/somewhere")
int uses(void *ctx)
{
	u32 key = 0;
	struct event event = {};

	if (lookup(&hash, &key))
		output(&ring, &event, sizeof(event), 0);
	if (lookup(&outer_map, &key))
		counter++;
	start = LINUX_KERNEL_VERSION + CONFIG_BOOL + CONFIG_TRI + CONFIG_HZ + CONFIG_SMALL;
	start += CONFIG_NAME[0] + text[key] + (u64)&symbol + (u64)&typed_symbol;
	return 0;
}
