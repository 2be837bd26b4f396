// SPDX-License-Identifier: Apache-2.0
/* A configuration value that the kernel does not show, or does not have. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int CONFIG_NO_SUCH_OPTION __kconfig;

SEC("kprobe/vfs_read")
int option(void *ctx)
{
	return CONFIG_NO_SUCH_OPTION;
}

char LICENSE[] SEC("license") = "GPL";
