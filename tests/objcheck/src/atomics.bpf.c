// SPDX-License-Identifier: Apache-2.0
/* compile with -mcpu=v3: a fetching atomic, refused before Linux v5.12 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 ticket, last;

SEC("kprobe/vfs_read")
int fetch(void *ctx)
{
	last = __sync_fetch_and_add(&ticket, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
