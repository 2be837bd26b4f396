// SPDX-License-Identifier: Apache-2.0
/* Ring buffer where the kernel has one, else the map is to be retyped to a perf buffer. */
#include <linux/bpf.h>
#include "kernel_types.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* where the host's uapi header has no such enumerator under this flavour, CO-RE ignores the suffix */
enum bpf_func_id___ringbuf { BPF_FUNC_ringbuf_output___ringbuf = 130 };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

SEC("kprobe/vfs_read")
int emit(void *ctx)
{
	__u64 now = bpf_ktime_get_ns();

	if (bpf_core_enum_value_exists(enum bpf_func_id___ringbuf, BPF_FUNC_ringbuf_output___ringbuf))
		bpf_ringbuf_output(&events, &now, sizeof(now), 0);
	else
		bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &now, sizeof(now));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
