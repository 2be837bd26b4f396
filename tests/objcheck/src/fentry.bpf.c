// SPDX-License-Identifier: Apache-2.0
/* Attach targets that are resolved at load, from the kernel's BTF. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("fentry/vfs_read")
int there(void *ctx)
{
	return 0;
}

SEC("?fentry/no_such_function_here")
int absent(void *ctx)
{
	return 0;
}

SEC("?fentry")
int unnamed(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
