// SPDX-License-Identifier: Apache-2.0
/* The verifier refuses one program (an unchecked map value) and takes the other. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

SEC("kprobe/vfs_read")
int unchecked(void *ctx)
{
	__u32 key = bpf_get_smp_processor_id();
	__u64 *slot = bpf_map_lookup_elem(&seen, &key);

	return (int)*slot;
}

SEC("kprobe/vfs_read")
int fine(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
