// SPDX-License-Identifier: Apache-2.0
/* A field that no kernel has: read for certain in one program, behind a guard in the other. */
#include <linux/bpf.h>
#include "kernel_types.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

SEC("kprobe/vfs_read")
int unguarded(void *ctx)
{
	struct task_struct___none *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, no_such_member);
}

SEC("kprobe/vfs_read")
int guarded(void *ctx)
{
	struct task_struct___none *task = (void *)bpf_get_current_task();

	if (bpf_core_field_exists(task->no_such_member))
		return BPF_CORE_READ(task, no_such_member);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
