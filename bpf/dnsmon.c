// SPDX-License-Identifier: GPL-2.0-only
/* dnsmon: arguments in, exit status out. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "dnsmon.h"

const char *const dns_status_names[] = {
	"ok", "pointer", "truncated", "bad_label", "too_long", "no_question",
};
const char *const dns_verdict_names[] = { "plausible", "not_dns", "malformed" };
const char *const dns_counter_names[] = {
#define X(id, name, help) name,
	DNS_COUNTERS(X)
#undef X
};

static const char USAGE[] =
	"dnsmon COMMAND [OPTION]...\n"
	"\n"
	"  run    attach the observer, write events as JSON lines, totals at the end\n"
	"  load   load each program alone and all together; report what the verifier says\n"
	"  probe  what this kernel has of what the observer can use\n"
	"  stats  counters of the observers that run on this machine\n"
	"  parse  the kernel's parser on datagrams, one in hex a line\n"
	"\n"
	"  --object PATH       the BPF object (run, load, parse)\n"
	"  --btf PATH          the kernel's BTF, where /sys/kernel/btf/vmlinux is missing\n"
	"  --set NAME=VALUE    a setting: dns_ports=53,5353 sample_n sample_threshold\n"
	"                      sample_seed rate_limit rate_burst; repeatable\n"
	"  --ring-bytes N      ring buffer, or each CPU's perf buffer: a power of two of\n"
	"                      whole pages (262144; perf 65536)\n"
	"  --buffer KIND       auto, ringbuf or perf (auto)\n"
	"  --limiter KIND      auto, xadd or gcra (auto: gcra where the kernel takes it)\n"
	"  --duration-s N      end after N seconds (never)\n"
	"  --output FILE       write here (standard output)\n"
	"  --metrics FILE      keep Prometheus metrics in this file, written once a second\n"
	"  --events KIND       run: full, brief (only the time stamp of each) or none: counted,\n"
	"                      not written (full)\n"
	"  --payload           add the captured octets to each event\n"
	"  --input FILE        datagrams for parse (standard input)\n"
	"  --all               load: optional programs too\n"
	"  --log-bytes N       keep so much of libbpf's and the verifier's log (65536)\n"
	"  --format KIND       stats: json or prometheus (json)\n"
	"\n"
	"Exit status: 0 as asked; 1 this kernel or object cannot; 2 wrong usage;\n"
	"3 could not tell (privilege, files, memory). Reasons are JSON lines of type\n"
	"\"error\" on standard error. SIGTERM and SIGINT end a run cleanly.\n";

int fail(enum exit_status status, const char *cause, const char *hint, const char *format, ...)
{
	char message[512];
	struct json json;
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	json_open(&json, stderr, "error");
	json_text(&json, "cause", cause);
	json_text(&json, "message", message);
	if (hint)
		json_text(&json, "hint", hint);
	json_close(&json);
	return status;
}

enum option_id {
	O_OBJECT = 256,
	O_BTF,
	O_SET,
	O_RING,
	O_BUFFER,
	O_LIMITER,
	O_EVENTS,
	O_DURATION,
	O_OUTPUT,
	O_METRICS,
	O_PAYLOAD,
	O_INPUT,
	O_ALL,
	O_LOG,
	O_FORMAT,
	O_HELP,
};

static const struct option LONG[] = {
	{ "object", required_argument, NULL, O_OBJECT },
	{ "btf", required_argument, NULL, O_BTF },
	{ "set", required_argument, NULL, O_SET },
	{ "ring-bytes", required_argument, NULL, O_RING },
	{ "buffer", required_argument, NULL, O_BUFFER },
	{ "limiter", required_argument, NULL, O_LIMITER },
	{ "events", required_argument, NULL, O_EVENTS },
	{ "duration-s", required_argument, NULL, O_DURATION },
	{ "output", required_argument, NULL, O_OUTPUT },
	{ "metrics", required_argument, NULL, O_METRICS },
	{ "payload", no_argument, NULL, O_PAYLOAD },
	{ "input", required_argument, NULL, O_INPUT },
	{ "all", no_argument, NULL, O_ALL },
	{ "log-bytes", required_argument, NULL, O_LOG },
	{ "format", required_argument, NULL, O_FORMAT },
	{ "help", no_argument, NULL, O_HELP },
	{ NULL, 0, NULL, 0 },
};

/* A number in [low, high], or -1. */
static int number(const char *text, unsigned long low, unsigned long high, unsigned long *value)
{
	char *end;

	errno = 0;
	*value = strtoul(text, &end, 0);
	if (errno || end == text || *end || *text == '-' || *value < low || *value > high)
		return -1;
	return 0;
}

/* The index of `text` among `words`, or -1. */
static int choice(const char *text, const char *const *words)
{
	int i;

	for (i = 0; words[i]; i++)
		if (strcmp(text, words[i]) == 0)
			return i;
	return -1;
}

static int parse_options(int argc, char **argv, struct options *o)
{
	static const char *const buffers[] = { "auto", "ringbuf", "perf", NULL };
	static const char *const limiters[] = { "auto", "xadd", "gcra", NULL };
	static const char *const events[] = { "full", "brief", "none", NULL };
	static const char *const formats[] = { "json", "prometheus", NULL };
	unsigned long value;
	int id, picked;

	while ((id = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
		picked = 0;
		value = 0;
		switch (id) {
		case O_OBJECT: o->object = optarg; break;
		case O_BTF: o->btf = optarg; break;
		case O_OUTPUT: o->output = optarg; break;
		case O_METRICS: o->metrics = optarg; break;
		case O_INPUT: o->input = optarg; break;
		case O_PAYLOAD: o->payload = 1; break;
		case O_ALL: o->all = 1; break;
		case O_SET:
			if (o->n_sets == SETS_MAX)
				return fail(EXIT_USAGE, "usage", NULL, "more than %d settings", SETS_MAX);
			o->sets[o->n_sets++] = optarg;
			break;
		case O_BUFFER: o->buffer = (enum buffer_kind)(picked = choice(optarg, buffers)); break;
		case O_LIMITER: o->limiter = (enum limiter_kind)(picked = choice(optarg, limiters)); break;
		case O_EVENTS: o->events = (enum events_kind)(picked = choice(optarg, events)); break;
		case O_FORMAT: o->prometheus = picked = choice(optarg, formats); break;
		case O_RING:
			picked = number(optarg, 4096, 1UL << 30, &o->ring_bytes);
			break;
		case O_LOG: picked = number(optarg, 1024, 1UL << 26, &o->log_bytes); break;
		case O_DURATION:
			picked = number(optarg, 1, 1000000, &value);
			o->duration_s = (unsigned)value;
			break;
		case O_HELP: fputs(USAGE, stdout); exit(EXIT_OK);
		default: return fail(EXIT_USAGE, "usage", "see dnsmon --help", "unknown option");
		}
		if (picked < 0)
			return fail(EXIT_USAGE, "usage", "see dnsmon --help", "bad value '%s'", optarg);
	}
	if (optind < argc)
		return fail(EXIT_USAGE, "usage", "see dnsmon --help", "unexpected argument '%s'", argv[optind]);
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const commands[] = { "run", "load", "probe", "stats", "parse", NULL };
	static int (*const functions[])(const struct options *) = { cmd_run, cmd_load, cmd_probe,
								    cmd_stats, cmd_parse };
	struct options options = { .log_bytes = 65536 };
	int command, err;

	if (argc > 1 && strcmp(argv[1], "--help") == 0) {
		fputs(USAGE, stdout);
		return EXIT_OK;
	}
	command = argc > 1 ? choice(argv[1], commands) : -1;
	if (command < 0)
		return fail(EXIT_USAGE, "usage", "see dnsmon --help", "no such command: '%s'",
			    argc > 1 ? argv[1] : "");
	opterr = 0;
	err = parse_options(argc - 1, argv + 1, &options);
	if (err)
		return err;
	if (!options.object && (command == 0 || command == 1 || command == 4))
		return fail(EXIT_USAGE, "usage", "give --object PATH", "no object");
	log_keep(options.log_bytes);
	return functions[command](&options);
}
