// SPDX-License-Identifier: Apache-2.0
/* Too much for any verifier: more than a million instructions to follow. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("socket")
int endless(struct __sk_buff *skb)
{
	__u32 i, sum = skb->len;

#pragma clang loop unroll(disable)
	for (i = 0; i < 400000; i++)
		sum = sum * 31 + (i ^ skb->len);
	return sum;
}

char LICENSE[] SEC("license") = "GPL";
