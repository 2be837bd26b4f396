// SPDX-License-Identifier: Apache-2.0
/* Reads, unguarded, a field that no kernel has. */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
	int km_no_such_field;
} __attribute__((preserve_access_index));

SEC("kprobe/udp_sendmsg")
int unguarded(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, km_no_such_field);
}

char LICENSE[] SEC("license") = "GPL";
