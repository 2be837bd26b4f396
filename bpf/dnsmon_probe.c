// SPDX-License-Identifier: GPL-2.0-only
/* What does this kernel have? Every answer comes from asking it. */
#include <bpf/btf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dnsmon.h"

static int verdict(int fd)
{
	if (fd >= 0) {
		close(fd);
		return 1;
	}
	return errno == EPERM || errno == EACCES || errno == ENOMEM ? -errno : 0;
}

int probe_ringbuf_map(void)
{
	return verdict(bpf_map_create(BPF_MAP_TYPE_RINGBUF, NULL, 0, 0,
				      (__u32)sysconf(_SC_PAGESIZE), NULL));
}

/* r10[-8] = 0; r0 = 0; r1 = 1; r0 = cmpxchg(r10[-8], r0, r1): since v5.12, arm64's JIT later. */
int probe_atomic_fetch(void)
{
	static const struct bpf_insn code[] = {
		{ .code = BPF_ST | BPF_DW | BPF_MEM, .dst_reg = 10, .off = -8 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 1, .imm = 1 },
		{ .code = BPF_STX | BPF_DW | BPF_ATOMIC, .dst_reg = 10, .src_reg = 1, .off = -8,
		  .imm = BPF_CMPXCHG },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};

	return verdict(bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "probe", "GPL", code,
				     sizeof(code) / sizeof(code[0]), NULL));
}

int probe_kernel_btf(void)
{
	return access("/sys/kernel/btf/vmlinux", R_OK) == 0;
}

/* The question that the object's own branch asks: is the helper in the kernel's BTF? */
int probe_ringbuf_btf(const char *btf_path)
{
	struct btf *btf = btf_path ? btf__parse(btf_path, NULL) : btf__load_vmlinux_btf();
	const struct btf_type *type;
	const struct btf_enum *value;
	int i, id, found = 0;

	if (!btf)
		return -errno;
	id = btf__find_by_name_kind(btf, "bpf_func_id", BTF_KIND_ENUM);
	if (id > 0) {
		type = btf__type_by_id(btf, (__u32)id);
		value = btf_enum(type);
		for (i = 0; i < btf_vlen(type); i++)
			if (strcmp(btf__name_by_offset(btf, value[i].name_off), "BPF_FUNC_ringbuf_output") == 0)
				found = 1;
	}
	btf__free(btf);
	return found;
}

int probe_symbol(const char *name)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[512], symbol[256];
	int found = 0;

	if (!file)
		return -errno;
	while (!found && fgets(line, sizeof(line), file))
		found = sscanf(line, "%*s %*s %255s", symbol) == 1 && strcmp(symbol, name) == 0;
	fclose(file);
	return found;
}

static int read_number(const char *path, long *value)
{
	FILE *file = fopen(path, "r");
	int fields;

	if (!file)
		return -errno;
	fields = fscanf(file, "%ld", value);
	fclose(file);
	return fields == 1 ? 0 : -EINVAL;
}

static unsigned long long effective_capabilities(void)
{
	FILE *file = fopen("/proc/self/status", "r");
	unsigned long long set = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "CapEff: %llx", &set) == 1)
			break;
	if (file)
		fclose(file);
	return set;
}

#define CAP_BIT(n) (1ULL << (n))
#define CAP_SYS_ADMIN_BIT CAP_BIT(21)

/* CAP_BPF (39) and CAP_PERFMON (38) exist since v5.8; CAP_SYS_ADMIN stands for both everywhere. */
const char *missing_capabilities(void)
{
	static const struct {
		int number;
		const char *name;
	} needed[] = { { 38, "CAP_PERFMON" }, { 39, "CAP_BPF" } };
	static char text[64];
	unsigned long long have = effective_capabilities();
	long last = 0;
	size_t i;

	text[0] = 0;
	if (have & CAP_SYS_ADMIN_BIT)
		return text;
	if (read_number("/proc/sys/kernel/cap_last_cap", &last) || last < 39)
		return "CAP_SYS_ADMIN";
	for (i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		if (have & CAP_BIT(needed[i].number))
			continue;
		if (text[0])
			strcat(text, ",");
		strcat(text, needed[i].name);
	}
	return text;
}

static void answer(struct json *json, const char *key, int value)
{
	if (value < 0)
		json_text(json, key, strerror(-value));
	else
		json_bool(json, key, value);
}

int cmd_probe(const struct options *options)
{
	struct json json;
	long value;

	json_open(&json, stdout, "probe");
	json_bool(&json, "btf:kernel", probe_kernel_btf());
	answer(&json, "map:ringbuf", probe_ringbuf_map());
	answer(&json, "helper:ringbuf_output", probe_ringbuf_btf(options->btf));
	answer(&json, "insn:atomic_fetch", probe_atomic_fetch());
	answer(&json, "ksym:udp_sendmsg", probe_symbol("udp_sendmsg"));
	answer(&json, "ksym:udpv6_sendmsg", probe_symbol("udpv6_sendmsg"));
	json_text(&json, "missing_capabilities", missing_capabilities());
	json_u64(&json, "possible_cpus", (unsigned long long)libbpf_num_possible_cpus());
	json_s64(&json, "page_size", sysconf(_SC_PAGESIZE));
	if (!read_number("/proc/sys/kernel/bpf_stats_enabled", &value))
		json_s64(&json, "bpf_stats_enabled", value);
	if (!read_number("/proc/sys/kernel/unprivileged_bpf_disabled", &value))
		json_s64(&json, "unprivileged_bpf_disabled", value);
	json_close(&json);
	return EXIT_OK;
}
