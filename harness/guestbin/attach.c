// SPDX-License-Identifier: Apache-2.0
/* Loads the object together, attaches what can be attached by its section name, and may stay. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "objcheck.h"

#define STATS_SYSCTL "/proc/sys/kernel/bpf_stats_enabled"

/* ---- run time statistics ---- */

static int sysctl_char(const char *path, char *get, char set)
{
	int fd = open(path, (get ? O_RDONLY : O_WRONLY) | O_CLOEXEC), n;

	if (fd < 0)
		return -1;
	n = get ? read(fd, get, 1) : write(fd, &set, 1);
	close(fd);
	return n == 1 ? 0 : -1;
}

struct run_stats stats_on(void)
{
	struct run_stats s = { .fd = bpf_enable_stats(BPF_STATS_RUN_TIME) };

	if (s.fd >= 0) {
		s.how = "enable-stats";
	} else if (!sysctl_char(STATS_SYSCTL, &s.before, 0) &&
		   !sysctl_char(STATS_SYSCTL, NULL, '1')) {
		s.how = "sysctl";
	}
	return s;
}

void stats_off(const struct run_stats *s)
{
	if (s->fd >= 0)
		close(s->fd);
	else if (s->how)
		sysctl_char(STATS_SYSCTL, NULL, s->before);
}

static void stats_lines(struct bpf_object *obj)
{
	struct bpf_program *prog;

	bpf_object__for_each_program(prog, obj) {
		struct bpf_prog_info info = {};
		uint32_t len = sizeof(info);
		int fd = bpf_program__fd(prog);

		if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len))
			continue;
		js_line("run");
		js_str("name", bpf_program__name(prog));
		js_u64("run_cnt", info.run_cnt);
		js_u64("run_time_ns", info.run_time_ns);
		js_u64("recursion_misses", info.recursion_misses);
		js_end();
	}
}

/* ---- why an attachment failed ---- */

/* "kprobe/NAME+0x10" and its kin: NAME, or NULL when the section names no kernel function */
static char *probed_symbol(const char *section)
{
	static const char *const kinds[] = { "kprobe/", "kretprobe/" };
	const char *name;
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (strncmp(section, kinds[i], strlen(kinds[i])))
			continue;
		name = section + strlen(kinds[i]);
		return strndup(name, strcspn(name, "+ "));
	}
	return NULL;
}

enum found in_kallsyms(const char *symbol)
{
	char line[512], name[256];
	enum found found = CANNOT_TELL;
	FILE *f = fopen("/proc/kallsyms", "re");

	if (!f)
		return CANNOT_TELL;
	while (found != PRESENT && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*s %255s", name) == 1)
			found = strcmp(name, symbol) ? ABSENT : PRESENT;
	fclose(f);
	return found;
}

static const char *attach_reason(struct bpf_program *prog, int err)
{
	char *symbol = probed_symbol(bpf_program__section_name(prog));
	enum found found = symbol ? in_kallsyms(symbol) : CANNOT_TELL;
	enum bpf_prog_type type = bpf_program__type(prog);

	free(symbol);
	if (found == ABSENT)
		return "no-symbol";
	if (err == EPERM || err == EACCES)
		return "permission";
	if (err == EOPNOTSUPP ||
	    (bpf_program__expected_attach_type(prog) == BPF_TRACE_KPROBE_MULTI && !kprobe_multi()))
		return "unsupported";
	if (err == ENOENT && type == BPF_PROG_TYPE_TRACEPOINT)
		return access("/sys/kernel/tracing/events", F_OK) &&
		       access("/sys/kernel/debug/tracing/events", F_OK) ?
		       "no-tracefs" : "no-tracepoint";
	if (err == ENOENT && type == BPF_PROG_TYPE_RAW_TRACEPOINT)
		return "no-tracepoint";
	if (err == ENOENT && type == BPF_PROG_TYPE_KPROBE && found != PRESENT)
		return "no-target";
	return "refused";
}

/*
 * Sections that name no target, or half of one, for a loader to choose: libbpf says EOPNOTSUPP and
 * nothing else, or of uprobes without a binary EINVAL in these words. The same numbers from the
 * kernel come with other warnings.
 */
static bool no_auto_attach(int err)
{
	return (err == EOPNOTSUPP && !*capture_warnings()) ||
	       (err == EINVAL && capture_has("missing ':function[+offset]' specification"));
}

static struct bpf_link *attach_program(struct bpf_program *prog)
{
	struct bpf_link *link;
	int err;

	capture_start();
	link = bpf_program__attach(prog);
	err = link ? 0 : errno;
	js_line("attach");
	js_str("name", bpf_program__name(prog));
	js_str("section", bpf_program__section_name(prog));
	js_str("prog_type", prog_type_name(bpf_program__type(prog)));
	js_bool("ok", link);
	js_errno(err);
	if (!err)
		js_null("reason");
	else
		js_str("reason", no_auto_attach(err) ? "no-auto-attach" : attach_reason(prog, err));
	js_str("message", capture_warnings());
	js_end();
	return link;
}

/* ---- staying ---- */

static void write_ready(const char *path)
{
	FILE *f = path ? fopen(path, "we") : NULL;

	if (path && (!f || fprintf(f, "%d\n", getpid()) < 0 || fclose(f)))
		js_error_line("ready-file", path, "cannot write '%s': %s", path, strerror(errno));
}

/* SIGUSR1 prints the counters and stays; SIGTERM, SIGINT or the end of --expire leave. */
static void hold(const struct options *o, struct bpf_object *obj, const sigset_t *signals)
{
	struct timespec end, now, left;
	int sig;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += o->expire_s;
	do {
		if (o->expire_s) {
			clock_gettime(CLOCK_MONOTONIC, &now);
			left.tv_sec = end.tv_sec > now.tv_sec ? end.tv_sec - now.tv_sec : 0;
			left.tv_nsec = 0;
			sig = sigtimedwait(signals, NULL, &left);
		} else {
			sig = sigwaitinfo(signals, NULL);
		}
		if (sig == SIGUSR1)
			stats_lines(obj);
	} while (sig == SIGUSR1 || (sig < 0 && errno == EINTR));
}

int cmd_attach(int argc, char **argv)
{
	struct run_stats stats = { .fd = -1 };
	struct bpf_link **links;
	struct bpf_program *prog;
	struct options o;
	struct attempt a;
	struct log_buf log;
	sigset_t signals;
	size_t n = 0;
	int status;

	if (options_parse(&o, argc, argv, true))
		return EXIT_USAGE;
	status = object_begin(&o, &log);
	if (status)
		return status;
	/* before anything is attached: a signal must never leave something behind unreported */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);

	object_line(&o);
	try_optional(&o, log);
	a = load_attempt(&o, NULL, log);
	together_line(&o, &a, log);
	if (!a.err) {
		links = calloc(argc + 4096, sizeof(*links));
		bpf_object__for_each_program(prog, a.obj)
			if (bpf_program__fd(prog) >= 0 && n < 4096)
				links[n++] = attach_program(prog);
		if (o.stats) {
			stats = stats_on();
			js_line("stats");
			js_bool("ok", stats.how);
			js_str("how", stats.how);
			js_end();
		}
		if (o.hold) {
			js_line("ready");
			js_i64("pid", getpid());
			js_end();
			write_ready(o.ready_file);
			hold(&o, a.obj, &signals);
		}
		while (n)
			bpf_link__destroy(links[--n]);
		free(links);
		if (stats.how)
			stats_lines(a.obj);
		stats_off(&stats);
	}
	attempt_free(&a);
	js_line("end");
	js_end();
	return EXIT_RAN;
}
