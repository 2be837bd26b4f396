// SPDX-License-Identifier: Apache-2.0
/* One program on many functions: kprobe.multi, since Linux v5.18 with CONFIG_FPROBE. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("kprobe.multi/vfs_rea*")
int many(void *ctx)
{
	return 0;
}

SEC("ksyscall/getpid")
int on_getpid(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
