// SPDX-License-Identifier: Apache-2.0
/* Somebody's object, without a manifest: it loads and attaches everywhere. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
	int tgid;
} __attribute__((preserve_access_index));

unsigned long long sends;

SEC("kprobe/udp_sendmsg")
int count(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (BPF_CORE_READ(task, tgid))
		__sync_fetch_and_add(&sends, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
