// SPDX-License-Identifier: Apache-2.0
/* A map type that came with Linux v5.16: its absence must not look like a verifier's rejection. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 16);
	__type(value, __u32);
} bloom SEC(".maps");

SEC("kprobe/vfs_read")
int peek(void *ctx)
{
	__u32 value = 1;

	return bpf_map_peek_elem(&bloom, &value);
}

char LICENSE[] SEC("license") = "GPL";
