// SPDX-License-Identifier: Apache-2.0
/* Externs that no kernel provides. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern const int no_such_symbol_here __ksym;

SEC("kprobe/vfs_read")
int address(void *ctx)
{
	return (long)&no_such_symbol_here;
}

char LICENSE[] SEC("license") = "GPL";
