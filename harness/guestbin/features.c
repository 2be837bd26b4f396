// SPDX-License-Identifier: Apache-2.0
/* What this kernel can do, found by doing it; no version is compared. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <zlib.h>

#include "objcheck.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

#define INSN(CODE, DST, SRC, OFF, IMM) \
	((struct bpf_insn){ .code = (CODE), .dst_reg = (DST), .src_reg = (SRC), \
			    .off = (OFF), .imm = (IMM) })
#define MOV_IMM(DST, IMM) INSN(BPF_ALU64 | BPF_MOV | BPF_K, DST, 0, 0, IMM)
#define EXIT() INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define STORE_SLOT() INSN(BPF_ST | BPF_DW | BPF_MEM, BPF_REG_10, 0, -8, 0)
#define ON_SLOT(IMM) \
	INSN(BPF_STX | BPF_DW | 0xc0 /* BPF_ATOMIC, once BPF_XADD */, BPF_REG_10, BPF_REG_1, -8, IMM)

static bool insns_load(const struct bpf_insn *insns, size_t n)
{
	int fd = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, NULL, "GPL", insns, n, NULL);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* ---- instructions ---- */

static bool atomic(int operation)
{
	const struct bpf_insn insns[] = {
		MOV_IMM(BPF_REG_0, 0), MOV_IMM(BPF_REG_1, 1), STORE_SLOT(),
		ON_SLOT(operation), MOV_IMM(BPF_REG_0, 0), EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool load_acquire(void)
{
	const struct bpf_insn insns[] = {
		STORE_SLOT(),
		INSN(BPF_STX | BPF_DW | 0xc0, BPF_REG_0, BPF_REG_10, -8, 0x100), EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool jmp32(void)
{
	const struct bpf_insn insns[] = {
		MOV_IMM(BPF_REG_0, 0), INSN(BPF_JMP32 | BPF_JEQ | BPF_K, BPF_REG_0, 0, 0, 0), EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool bounded_loop(void)
{
	const struct bpf_insn insns[] = {
		MOV_IMM(BPF_REG_0, 10),
		INSN(BPF_ALU64 | BPF_SUB | BPF_K, BPF_REG_0, 0, 0, 1),
		INSN(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, -2, 0),
		EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool subprograms(void)
{
	const struct bpf_insn insns[] = {
		INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1), EXIT(),
		MOV_IMM(BPF_REG_0, 0), EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool long_program(void)
{
	static struct bpf_insn insns[BPF_MAXINSNS + 2];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(insns); i++)
		insns[i] = MOV_IMM(BPF_REG_0, 0);
	insns[i - 1] = EXIT();
	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool sign_extending_move(void)
{
	const struct bpf_insn insns[] = {
		MOV_IMM(BPF_REG_0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_0, BPF_REG_0, 8, 0), EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool may_goto(void)
{
	const struct bpf_insn insns[] = {
		MOV_IMM(BPF_REG_0, 0), INSN(BPF_JMP | 0xe0 /* BPF_JCOND */, 0, 0, 1, 0),
		INSN(BPF_JMP | BPF_JA, 0, 0, -2, 0), EXIT(),
	};

	return insns_load(insns, ARRAY_SIZE(insns));
}

static bool global_data(void)
{
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 8, 1, NULL);
	const struct bpf_insn insns[] = {
		INSN(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_VALUE, 0, map),
		INSN(0, 0, 0, 0, 0), MOV_IMM(BPF_REG_0, 0), EXIT(),
	};
	bool ok = map >= 0 && insns_load(insns, ARRAY_SIZE(insns));

	if (map >= 0)
		close(map);
	return ok;
}

static bool map_mmap(void)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 8, 1, &opts);

	if (map >= 0)
		close(map);
	return map >= 0;
}

static void insn_features(void)
{
	js_object("insns");
	js_bool("atomic_add", atomic(BPF_ADD));
	js_bool("atomic_fetch", atomic(BPF_ADD | BPF_FETCH));
	js_bool("atomic_xchg", atomic(BPF_XCHG));
	js_bool("atomic_cmpxchg", atomic(BPF_CMPXCHG));
	js_bool("load_acquire", load_acquire());
	js_bool("jmp32", jmp32());
	js_bool("bounded_loop", bounded_loop());
	js_bool("subprograms", subprograms());
	js_bool("long_program", long_program());
	js_bool("sign_extending_move", sign_extending_move());
	js_bool("may_goto", may_goto());
	js_bool("global_data", global_data());
	js_close();
}

/* ---- types and helpers ---- */

static void type_features(void)
{
	int type;

	js_array("map_types");
	for (type = 1; libbpf_bpf_map_type_str(type); type++)
		if (libbpf_probe_bpf_map_type(type, NULL) == 1)
			js_str(NULL, map_type_name(type));
	js_close();
	js_array("prog_types");
	for (type = 1; libbpf_bpf_prog_type_str(type); type++)
		if (libbpf_probe_bpf_prog_type(type, NULL) == 1)
			js_str(NULL, prog_type_name(type));
	js_close();
}

/*
 * Not libbpf_probe_bpf_helper() alone: before v1.5 it does not know the words that kernels since
 * v6.9 use for a helper that a program type lacks, and would call every helper supported there.
 */
static bool has_helper(enum bpf_prog_type type, int helper)
{
	static char log[4096];
	const struct bpf_insn insns[] = { INSN(BPF_JMP | BPF_CALL, 0, 0, 0, helper), EXIT() };
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		.log_buf = log, .log_size = sizeof(log), .log_level = LOG_TRACE);
	int fd;

	log[0] = '\0';
	fd = bpf_prog_load(type, NULL, "GPL", insns, ARRAY_SIZE(insns), &opts);
	if (fd >= 0) {
		close(fd);
		return true;
	}
	if (!*log)	/* before v5.0 a kprobe program must name the kernel: libbpf knows how */
		return libbpf_probe_bpf_helper(type, helper, NULL) == 1;
	return !strstr(log, "invalid func ") && !strstr(log, "unknown func ") &&
	       !strstr(log, "cannot use helper ");
}

static void helper_features(const char *key, enum bpf_prog_type type)
{
#define HELPER_NAME(name) #name
	static const char *const names[] = { __BPF_FUNC_MAPPER(HELPER_NAME) };
#undef HELPER_NAME
	size_t i;

	js_array(key);
	for (i = 1; i < ARRAY_SIZE(names); i++)
		if (has_helper(type, i))
			js_str(NULL, names[i]);
	js_close();
}

/* ---- the rest of the kernel ---- */

static const struct bpf_insn return_zero[] = { MOV_IMM(BPF_REG_0, 0), EXIT() };

static int trivial(enum bpf_prog_type type, struct bpf_prog_load_opts *opts)
{
	return bpf_prog_load(type, NULL, "GPL", return_zero, ARRAY_SIZE(return_zero), opts);
}

static void close_if(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* A program attached through BPF_LINK_CREATE to an fd that is none: only a kernel that has it looks. */
static bool perf_link(void)
{
	int prog = trivial(BPF_PROG_TYPE_TRACEPOINT, NULL), link;
	bool has;

	if (prog < 0)
		return false;
	link = bpf_link_create(prog, -1, BPF_PERF_EVENT, NULL);
	has = link < 0 && errno == EBADF;
	close_if(link);
	close(prog);
	return has;
}

bool kprobe_multi(void)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = BPF_TRACE_KPROBE_MULTI);
	LIBBPF_OPTS(bpf_link_create_opts, link_opts);
	const char *symbols[] = { "vfs_read" };
	int prog = trivial(BPF_PROG_TYPE_KPROBE, &opts), link;

	link_opts.kprobe_multi.syms = symbols;
	link_opts.kprobe_multi.cnt = 1;
	link = prog < 0 ? -1 : bpf_link_create(prog, 0, BPF_TRACE_KPROBE_MULTI, &link_opts);
	close_if(link);
	close_if(prog);
	return link >= 0;
}

static bool fentry(void)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = BPF_TRACE_FENTRY);
	int prog = -1, link = -1, id = libbpf_find_vmlinux_btf_id("vfs_read", BPF_TRACE_FENTRY);

	if (id > 0) {
		opts.attach_btf_id = id;
		prog = trivial(BPF_PROG_TYPE_TRACING, &opts);
	}
	if (prog >= 0)
		link = bpf_raw_tracepoint_open(NULL, prog);
	close_if(link);
	close_if(prog);
	return link >= 0;
}

static bool verified_insns(void)
{
	int prog = trivial(BPF_PROG_TYPE_SOCKET_FILTER, NULL);
	struct bpf_prog_info info = {};
	uint32_t len = sizeof(info);
	bool has = prog >= 0 && !bpf_obj_get_info_by_fd(prog, &info, &len) && info.verified_insns;

	close_if(prog);
	return has;
}

/* Since v6.4 a log that is too small keeps its end, where the answer is. */
static bool log_keeps_tail(void)
{
	static char log[129];
	LIBBPF_OPTS(bpf_prog_load_opts, opts,
		.log_buf = log, .log_size = 128, .log_level = LOG_TRACE_STATES);
	struct bpf_insn insns[64];
	size_t i;
	int prog;

	for (i = 0; i < ARRAY_SIZE(insns); i++)
		insns[i] = MOV_IMM(BPF_REG_0, 0);
	insns[i - 1] = EXIT();
	prog = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, NULL, "GPL", insns, ARRAY_SIZE(insns), &opts);
	close_if(prog);
	return strstr(log, "peak_states");
}

static const char *run_stats(void)
{
	int fd = bpf_enable_stats(BPF_STATS_RUN_TIME);

	if (fd >= 0) {
		close(fd);
		return "enable-stats";
	}
	return access("/proc/sys/kernel/bpf_stats_enabled", W_OK) ? NULL : "sysctl";
}

static bool file_number(const char *path, int64_t *number)
{
	FILE *f = fopen(path, "re");
	long long value;
	bool ok = f && fscanf(f, "%lld", &value) == 1;

	if (f)
		fclose(f);
	if (ok)
		*number = value;
	return ok;
}

static void number_from(const char *key, const char *path)
{
	int64_t number;

	if (file_number(path, &number))
		js_i64(key, number);
	else
		js_null(key);
}

static void kernel_features(void)
{
	struct stat st;
	bool btf = !stat(VMLINUX_BTF, &st);

	js_bool("btf_vmlinux", btf);
	js_maybe("btf_vmlinux_bytes", btf, btf ? st.st_size : 0);
	js_bool("map_mmap", map_mmap());
	js_bool("perf_link", perf_link());
	js_bool("kprobe_multi", kprobe_multi());
	js_bool("fentry", fentry());
	js_bool("verified_insns", verified_insns());
	js_bool("log_keeps_tail", log_keeps_tail());
	js_str("run_stats", run_stats());
	js_bool("kprobe_pmu", !access("/sys/bus/event_source/devices/kprobe/type", R_OK));
	js_bool("tracefs", !access("/sys/kernel/tracing/events", F_OK) ||
			   !access("/sys/kernel/debug/tracing/events", F_OK));
	js_bool("kallsyms", !access("/proc/kallsyms", R_OK));
	number_from("jit_enable", "/proc/sys/net/core/bpf_jit_enable");
	number_from("unprivileged_bpf_disabled", "/proc/sys/kernel/unprivileged_bpf_disabled");
}

/* Only where the kernel shows its configuration (CONFIG_IKCONFIG_PROC; Debian's does not). */
static void config_features(void)
{
	static const char *const wanted[] = {
		"BPF", "KPROBE", "UPROBE", "BTF", "FTRACE", "IPV6=", "PREEMPT", "CONFIG_HZ=", "JUMP_LABEL=",
		"FPROBE",
	};
	gzFile gz = gzopen("/proc/config.gz", "r");
	char line[512];
	size_t i;

	if (!gz) {
		js_null("config");
		return;
	}
	js_object("config");
	while (gzgets(gz, line, sizeof(line))) {
		char *eq = strchr(line, '=');

		if (*line == '#' || !eq)
			continue;
		for (i = 0; i < ARRAY_SIZE(wanted) && !strstr(line, wanted[i]); i++)
			;
		if (i == ARRAY_SIZE(wanted))
			continue;
		*eq = '\0';
		eq[strcspn(eq + 1, "\n") + 1] = '\0';
		js_str(line, eq + 1);
	}
	gzclose(gz);
	js_close();
}

/* features [--ksym NAME ...]: is there such a kernel function, as far as a probe can see */
int cmd_features(int argc, char **argv)
{
	struct utsname uts;
	struct sysinfo si;
	int i;

	for (i = 1; i < argc; i += 2) {
		if (strcmp(argv[i], "--ksym") || i + 1 == argc) {
			js_error_line("usage", argv[i], "features takes --ksym NAME, not '%s'", argv[i]);
			return EXIT_USAGE;
		}
	}
	js_line("features");
	uname(&uts);
	js_object("uname");
	js_str("release", uts.release);
	js_str("version", uts.version);
	js_str("machine", uts.machine);
	js_close();
	js_str("libbpf", libbpf_version_string() + 1);
	js_i64("cpus", libbpf_num_possible_cpus());
	js_i64("cpus_online", sysconf(_SC_NPROCESSORS_ONLN));
	sysinfo(&si);
	js_u64("memory_bytes", (uint64_t)si.totalram * si.mem_unit);
	kernel_features();
	insn_features();
	type_features();
	js_object("helpers");
	helper_features("kprobe", BPF_PROG_TYPE_KPROBE);
	helper_features("socket_filter", BPF_PROG_TYPE_SOCKET_FILTER);
	js_close();
	js_object("ksyms");
	for (i = 2; i < argc; i += 2) {
		enum found found = in_kallsyms(argv[i]);

		if (found == CANNOT_TELL)
			js_null(argv[i]);
		else
			js_bool(argv[i], found == PRESENT);
	}
	js_close();
	config_features();
	js_end();
	js_line("end");
	js_end();
	return EXIT_RAN;
}
