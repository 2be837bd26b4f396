// SPDX-License-Identifier: Apache-2.0
/* Loads and attaches everywhere: CO-RE, a map, settings, a subprogram; one optional program. */
#include <linux/bpf.h>
#include "kernel_types.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

enum mode { MODE_OFF, MODE_ON = 7 };

const volatile int threshold = 3;
const volatile unsigned char small = 1;
const volatile _Bool enabled = 1;
const volatile enum mode mode = MODE_OFF;
const volatile unsigned short ports[4] = { 53 };
const volatile char who[8] = "none";
const volatile long long wide = -1;
unsigned long long hits;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __attribute__((noinline)) int wanted(int pid)
{
	volatile char pad[48] = {};

	pad[pid & 31] = 1;
	if (!enabled || pid < threshold || pid == (int)wide || pid == who[small & 7])
		return 0;
	return mode != MODE_OFF || ports[pid & 3] == 53 || pad[0];
}

static __attribute__((always_inline)) int count(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 key = BPF_CORE_READ(task, tgid) & 3;
	__u64 *slot;

	if (!wanted(key))
		return 0;
	slot = bpf_map_lookup_elem(&counts, &key);
	if (slot)
		__sync_fetch_and_add(slot, 1);
	__sync_fetch_and_add(&hits, 1);
	return 0;
}

SEC("kprobe/vfs_read")
int on_read(struct pt_regs *ctx)
{
	return count();
}

SEC("kprobe/no_such_function_here")
int on_nothing(struct pt_regs *ctx)
{
	return count();
}

SEC("?kprobe/vfs_write")
int on_write(struct pt_regs *ctx)
{
	return count();
}

SEC("kprobe")
int no_target(struct pt_regs *ctx)
{
	return 0;
}

SEC("socket")
int on_packet(struct __sk_buff *skb)
{
	return skb->len > 100 ? 0 : -1;
}

SEC("raw_tracepoint/sys_enter")
int on_enter(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
