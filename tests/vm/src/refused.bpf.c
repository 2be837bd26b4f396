// SPDX-License-Identifier: Apache-2.0
/* The verifier refuses it everywhere: a map's value is read without asking whether it is there.
 * Of a hash: newer kernels know that an array has the value of a constant key.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} values SEC(".maps");

SEC("kprobe/udp_sendmsg")
int unchecked(void *ctx)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&values, &key);

	return *value;
}

char LICENSE[] SEC("license") = "GPL";
