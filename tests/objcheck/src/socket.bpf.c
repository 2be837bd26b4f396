// SPDX-License-Identifier: Apache-2.0
/* Programs that only their own loader can attach, and a map that only it can size. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
} unsized SEC(".maps");

SEC("socket")
int filter(struct __sk_buff *skb)
{
	__u32 key = skb->protocol;

	return bpf_map_lookup_elem(&unsized, &key) ? 0 : -1;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int classify(struct __sk_buff *skb)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
