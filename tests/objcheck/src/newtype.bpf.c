// SPDX-License-Identifier: Apache-2.0
/* A program type that came with Linux v5.14, behind one that every kernel verifies. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("kprobe/vfs_read")
int first(void *ctx)
{
	return 0;
}

SEC("syscall")
int second(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
