// SPDX-License-Identifier: Apache-2.0
/* Subprograms on two call chains of different depth, and a global function: for stack figures. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static __attribute__((noinline)) int leaf(int i)
{
	volatile char pad[64] = {};

	pad[i & 63] = 1;
	return pad[(i + 1) & 63];
}

static __attribute__((noinline)) int middle(int i)
{
	volatile char pad[96] = {};

	pad[i & 31] = leaf(i);
	return pad[(i + 1) & 31] + leaf(i + 1);
}

static __attribute__((noinline)) int shallow(int i)
{
	volatile char pad[120] = {};

	pad[i & 63] = 1;
	return pad[(i + 1) & 63];
}

__attribute__((noinline)) int global(int i)
{
	volatile char pad[16] = {};

	pad[i & 15] = 1;
	return pad[(i + 1) & 15];
}

SEC("socket")
int calls(struct __sk_buff *skb)
{
	volatile int len = skb->len;

	return middle(len) + shallow(len) + global(len);
}

char LICENSE[] SEC("license") = "GPL";
