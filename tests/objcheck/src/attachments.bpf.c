// SPDX-License-Identifier: Apache-2.0
/* Every kind of section that attaches by name, with and without its target. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tracepoint/sched/sched_process_exec")
int tp_there(void *ctx)
{
	return 0;
}

SEC("tp/sched/no_such_event")
int tp_absent(void *ctx)
{
	return 0;
}

SEC("raw_tp/sched_switch")
int raw_there(void *ctx)
{
	return 0;
}

SEC("raw_tp/no_such_tracepoint")
int raw_absent(void *ctx)
{
	return 0;
}

SEC("kretprobe/vfs_read+0x0")
int ret_there(void *ctx)
{
	return 0;
}

SEC("kprobe/vfs_read+0x2")
int inside_insn(void *ctx)
{
	return 0;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return 1;
}

SEC("perf_event")
int sample(void *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
