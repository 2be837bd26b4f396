// SPDX-License-Identifier: Apache-2.0
/* One line of a subprogram costs the verifier nearly everything: it is followed in each round. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static __attribute__((noinline)) __u32 mix(__u32 seed)
{
	__u32 mixed = seed;

	for (int round = 0; round < 300; round++)
		mixed = (mixed << 3) ^ (mixed >> 5) ^ (mixed << 7) ^ (mixed >> 9);	/* HOT */
	return mixed;
}

static __attribute__((noinline)) __u32 cold(__u32 value)
{
	return mix(value) + 1;
}

SEC("socket")
int loops(struct __sk_buff *skb)
{
	if (skb->len < 14)
		return 0;
	return cold(skb->len) ^ mix(skb->mark);
}

SEC("socket")
int straight(struct __sk_buff *skb)
{
	return skb->len;
}

char _license[] SEC("license") = "GPL";
