// SPDX-License-Identifier: Apache-2.0
/*
 * The yardstick of the overhead check: what an empty kprobe program costs here.
 *
 *	objcheck kprobe --function NAME... [--rounds N [--calls N] [--pause-us N]]
 *			[-- COMMAND...]
 *
 * A program of two instructions is attached to the functions. With --rounds, a call that enters
 * udp_sendmsg and fails there at once (an unconnected socket, no address: EDESTADDRREQ) is timed in
 * blocks without and with the program, each pair the other way round than the one before, run time
 * statistics off; then the statistics are switched on, for what the kernel's own clock costs.
 * With COMMAND, that runs while the program is attached and statistics are on.
 *
 *	objcheck runs
 *
 * The run time statistics of every program in the kernel, as far as they are switched on.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "objcheck.h"

#define KPROBE_PMU "/sys/bus/event_source/devices/kprobe/type"

enum { MAX_FUNCTIONS = 8, WARM_UP_CALLS = 200 };

struct kprobe {
	const char *functions[MAX_FUNCTIONS];
	int n, prog, events[MAX_FUNCTIONS];
	int pmu;		/* perf_event_attr.type */
};

struct pace {
	long rounds, calls, pause_us;
};

/* r0 = 0; exit */
static int load_empty(void)
{
	const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};

	return bpf_prog_load(BPF_PROG_TYPE_KPROBE, "km_empty", "GPL", insns,
			     sizeof(insns) / sizeof(*insns), NULL);
}

static int number_in(const char *path)
{
	char text[16] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC), n = -1;

	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	return n > 0 ? atoi(text) : -1;
}

static void detach(struct kprobe *k)
{
	int i;

	for (i = 0; i < k->n; i++) {
		if (k->events[i] >= 0)
			close(k->events[i]);
		k->events[i] = -1;
	}
}

/* 0, or errno with the functions that were attached already let go */
static int attach(struct kprobe *k)
{
	int i, err = 0;

	for (i = 0; i < k->n && !err; i++) {
		struct perf_event_attr attr = {
			.type = k->pmu,
			.size = sizeof(attr),
			.kprobe_func = (uintptr_t)k->functions[i],
		};

		/* of every process on every CPU, whichever is named */
		k->events[i] = syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
		if (k->events[i] < 0 || ioctl(k->events[i], PERF_EVENT_IOC_SET_BPF, k->prog) ||
		    ioctl(k->events[i], PERF_EVENT_IOC_ENABLE, 0))
			err = errno;
	}
	if (err) {
		detach(k);
		js_error_line("attach", k->functions[i - 1], "cannot attach to '%s': %s",
			      k->functions[i - 1], strerror(err));
	}
	return err;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/*
 * The median of the calls, each timed for itself, so that an interrupt in one of them is nothing.
 * With a pause before each it meets what a sender at that pace meets: caches, and an emulator's
 * translations, that others have used meanwhile.
 */
static uint64_t median_call(int fd, long calls, long pause_us, uint64_t *took)
{
	long i;

	/* patched text is new to the caches, under emulation to the translator too */
	for (i = 0; i < WARM_UP_CALLS; i++)
		send(fd, "", 1, 0);
	for (i = 0; i < calls; i++) {
		uint64_t start;

		if (pause_us)
			usleep(pause_us);
		start = now_ns();
		send(fd, "", 1, 0);
		took[i] = now_ns() - start;
	}
	qsort(took, calls, sizeof(*took), by_size);
	return took[calls / 2];
}

static int block(struct kprobe *k, int fd, const struct pace *pace, bool attached)
{
	uint64_t *took = calloc(pace->calls, sizeof(*took)), median, total = 0;
	long i;

	if (!took || (attached && attach(k)))
		return -1;
	median = median_call(fd, pace->calls, pace->pause_us, took);
	if (attached)
		detach(k);
	for (i = 0; i < pace->calls; i++)
		total += took[i];
	free(took);
	js_line("block");
	js_bool("attached", attached);
	js_u64("calls", pace->calls);
	js_u64("median_ns", median);
	js_u64("ns", total);
	js_end();
	return 0;
}

static void run_line(uint32_t id, int fd)
{
	struct bpf_prog_info info = {};
	uint32_t len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return;
	js_line("run");
	js_u64("id", id ? id : info.id);
	js_str("name", info.name);
	js_u64("run_cnt", info.run_cnt);
	js_u64("run_time_ns", info.run_time_ns);
	js_u64("recursion_misses", info.recursion_misses);
	js_end();
}

/* One CPU, so that a migration is no part of a difference. */
static int measure(struct kprobe *k, const struct pace *pace)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), cpu = sched_getcpu(), err = 0;
	struct run_stats stats;
	cpu_set_t one;
	long i;

	CPU_ZERO(&one);
	CPU_SET(cpu < 0 ? 0 : cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
	if (fd < 0 || send(fd, "", 1, 0) >= 0 || errno != EDESTADDRREQ) {
		js_error_line("socket", NULL, "a send without an address: %s", strerror(errno));
		return -1;
	}
	for (i = 0; i < pace->rounds && !err; i++)
		err = block(k, fd, pace, i % 2) || block(k, fd, pace, !(i % 2));
	if (err || attach(k))
		return -1;
	stats = stats_on();
	for (i = 0; i < pace->calls; i++) {
		if (pace->pause_us)
			usleep(pace->pause_us);
		send(fd, "", 1, 0);
	}
	stats_off(&stats);
	detach(k);
	close(fd);
	return 0;
}

/* Its standard output joins our standard error: ours is the answer's. */
static int command(struct kprobe *k, char **argv)
{
	struct run_stats stats;
	uint64_t start;
	int status;
	pid_t pid;

	if (attach(k))
		return -1;
	stats = stats_on();
	fflush(stdout);
	start = now_ns();
	pid = fork();
	if (!pid) {
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execvp(*argv, argv);
		fprintf(stderr, "cannot run '%s': %s\n", *argv, strerror(errno));
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		status = 127 << 8;
	js_line("command");
	js_i64("status", WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	js_u64("ns", now_ns() - start);
	js_end();
	stats_off(&stats);
	detach(k);
	return 0;
}

static int positive(const char *text, long *number)
{
	char *end;

	errno = 0;
	*number = strtol(text, &end, 10);
	return errno || *end || *number < 1 ? -1 : 0;
}

static int usage(const char *what)
{
	js_error_line("usage", what, "usage: objcheck kprobe --function NAME... "
		      "[--rounds N [--calls N] [--pause-us N]] [-- COMMAND...]");
	return EXIT_USAGE;
}

int cmd_kprobe(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "function", required_argument, NULL, 'f' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "calls", required_argument, NULL, 'c' },
		{ "pause-us", required_argument, NULL, 'p' },
		{},
	};
	struct kprobe k = { .events = { -1, -1, -1, -1, -1, -1, -1, -1 } };
	struct pace pace = { .calls = 1000 };
	int c, err = 0;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+", longs, NULL)) != -1) {
		if (c == 'f' && k.n < MAX_FUNCTIONS)
			k.functions[k.n++] = optarg;
		else if ((c != 'r' || positive(optarg, &pace.rounds)) &&
			 (c != 'c' || positive(optarg, &pace.calls)) &&
			 (c != 'p' || positive(optarg, &pace.pause_us)))
			return usage(argv[optind - 1]);
	}
	if (!k.n || (!pace.rounds && optind == argc))
		return usage(NULL);
	k.pmu = number_in(KPROBE_PMU);
	k.prog = load_empty();
	if (k.prog < 0 || k.pmu < 0) {
		js_error_line("load", NULL, "no empty kprobe program here: %s",
			      k.prog < 0 ? strerror(errno) : "no " KPROBE_PMU);
		return EXIT_RAN;	/* without "end" */
	}
	if (pace.rounds)
		err = measure(&k, &pace);
	if (!err && optind < argc)
		err = command(&k, argv + optind);
	if (err)
		return EXIT_RAN;
	run_line(0, k.prog);
	js_line("end");
	js_end();
	return EXIT_RAN;
}

int cmd_runs(int argc, char **argv)
{
	uint32_t id = 0;
	int fd;

	if (argc != 1) {
		js_error_line("usage", argv[1], "runs takes no argument");
		return EXIT_USAGE;
	}
	while (!bpf_prog_get_next_id(id, &id)) {
		fd = bpf_prog_get_fd_by_id(id);
		if (fd < 0)
			continue;	/* gone meanwhile */
		run_line(id, fd);
		close(fd);
	}
	js_line("end");
	js_end();
	return EXIT_RAN;
}
