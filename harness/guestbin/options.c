// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "objcheck.h"

/* Types that this libbpf can name; one that is newer than it prints as a number. */
enum { MAX_TYPE = 128 };

const char *map_type_name(int type)
{
	static char number[16];
	const char *name = libbpf_bpf_map_type_str(type);

	if (name)
		return name;
	snprintf(number, sizeof(number), "%d", type);
	return number;
}

const char *prog_type_name(int type)
{
	static char number[16];
	const char *name = libbpf_bpf_prog_type_str(type);

	if (name)
		return name;
	snprintf(number, sizeof(number), "%d", type);
	return number;
}

int map_type_by_name(const char *name)
{
	int type;

	for (type = 0; type < MAX_TYPE; type++) {
		const char *known = libbpf_bpf_map_type_str(type);

		if (known && !strcmp(known, name))
			return type;
	}
	return -1;
}

static int parse_size(const char *what, const char *text, long *out)
{
	char *end;

	errno = 0;
	*out = strtol(text, &end, 0);
	if (errno || end == text || *end || *out < 0) {
		js_error_line("usage", text, "%s: '%s' is not a size", what, text);
		return -1;
	}
	return 0;
}

/* A field that is empty or "-" leaves what the object says. */
static int parse_field(const char *spec, char **rest, long *out)
{
	char *field = strsep(rest, ":");

	*out = -1;
	if (!field) {
		js_error_line("usage", spec, "--map wants NAME=TYPE:KEY:VALUE:MAX[:unless=map:TYPE]");
		return -1;
	}
	if (!*field || !strcmp(field, "-"))
		return 0;
	return parse_size("--map", field, out);
}

/* NAME=TYPE:KEY:VALUE:MAX[:unless=map:TYPE] */
static int parse_map(const char *spec, struct map_fix *fix)
{
	static const char unless[] = "unless=map:";
	char *rest = strdup(spec), *type;

	*fix = (struct map_fix){ .type = -1, .unless_map = -1 };
	fix->name = strsep(&rest, "=");
	type = rest ? strsep(&rest, ":") : NULL;
	if (!*fix->name || !type) {
		js_error_line("usage", spec, "--map wants NAME=TYPE:KEY:VALUE:MAX[:unless=map:TYPE]");
		return -1;
	}
	if (*type && strcmp(type, "-")) {
		fix->type = map_type_by_name(type);
		if (fix->type < 0) {
			js_error_line("usage", spec, "--map: unknown map type '%s'", type);
			return -1;
		}
	}
	if (parse_field(spec, &rest, &fix->key) || parse_field(spec, &rest, &fix->value) ||
	    parse_field(spec, &rest, &fix->max))
		return -1;
	if (rest) {
		if (!strncmp(rest, unless, strlen(unless)))
			fix->unless_map = map_type_by_name(rest + strlen(unless));
		if (fix->unless_map < 0) {
			js_error_line("usage", spec, "--map: '%s' is not unless=map:TYPE", rest);
			return -1;
		}
	}
	return 0;
}

static int parse_setting(const char *spec, struct setting *set)
{
	char *copy = strdup(spec), *eq = strchr(copy, '=');

	if (!eq || eq == copy) {
		js_error_line("usage", spec, "--set wants VAR=VALUE, not '%s'", spec);
		return -1;
	}
	*eq = '\0';
	*set = (struct setting){ .name = copy, .value = eq + 1 };
	return 0;
}

bool options_wants(const struct options *o, const char *program)
{
	size_t i;

	for (i = 0; i < o->nprograms; i++)
		if (!strcmp(o->programs[i], program))
			return true;
	return !o->nprograms;
}

struct optional_program *options_optional(const struct options *o, const char *program)
{
	size_t i;

	for (i = 0; i < o->noptional; i++)
		if (!strcmp(o->optional[i].name, program))
			return &o->optional[i];
	return NULL;
}

int options_parse(struct options *o, int argc, char **argv, bool attach)
{
	static const struct option longs[] = {
		{ "btf", required_argument, NULL, 'b' },
		{ "program", required_argument, NULL, 'p' },
		{ "optional", required_argument, NULL, 'o' },
		{ "map", required_argument, NULL, 'm' },
		{ "inner", required_argument, NULL, 'i' },
		{ "set", required_argument, NULL, 's' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "log-dir", required_argument, NULL, 'd' },
		{ "log-size", required_argument, NULL, 'z' },
		{ "tail", required_argument, NULL, 't' },
		{ "load-timeout", required_argument, NULL, 'T' },
		{ "hold", no_argument, NULL, 'H' },
		{ "stats", no_argument, NULL, 'S' },
		{ "ready-file", required_argument, NULL, 'r' },
		{ "expire", required_argument, NULL, 'x' },
		{},
	};
	long number;
	int c;

	*o = (struct options){
		.log_level = -1,
		.log_size = DEFAULT_LOG_BYTES,
		.tail = 8192,
	};
	o->programs = calloc(argc, sizeof(*o->programs));
	o->optional = calloc(argc, sizeof(*o->optional));
	o->maps = calloc(argc, sizeof(*o->maps));
	o->inner = calloc(argc, sizeof(*o->inner));
	o->settings = calloc(argc, sizeof(*o->settings));
	opterr = 0;
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'b':
			o->btf = optarg;
			break;
		case 'p':
			o->programs[o->nprograms++] = optarg;
			break;
		case 'o':
			o->optional[o->noptional++].name = optarg;
			break;
		case 'm':
			if (parse_map(optarg, &o->maps[o->nmaps++]))
				return -1;
			break;
		case 'i':
			if (parse_map(optarg, &o->inner[o->ninner++]))
				return -1;
			break;
		case 's':
			if (parse_setting(optarg, &o->settings[o->nsettings++]))
				return -1;
			break;
		case 'l':
			if (parse_size("--log-level", optarg, &number))
				return -1;
			if (number > 15) {
				js_error_line("usage", optarg, "--log-level is 0 to 15");
				return -1;
			}
			o->log_level = number;
			break;
		case 'd':
			o->log_dir = optarg;
			break;
		case 'z':
			if (parse_size("--log-size", optarg, &number))
				return -1;
			if (number < 128 || number > (long)(UINT32_MAX >> 2)) {
				js_error_line("usage", optarg, "--log-size is 128 to %u bytes",
					      UINT32_MAX >> 2);
				return -1;
			}
			o->log_size = number;
			break;
		case 't':
			if (parse_size("--tail", optarg, &number))
				return -1;
			o->tail = number;
			break;
		case 'T':
			if (parse_size("--load-timeout", optarg, &o->load_timeout_s))
				return -1;
			break;
		case 'H':
			o->hold = true;
			break;
		case 'S':
			o->stats = true;
			break;
		case 'r':
			o->ready_file = optarg;
			break;
		case 'x':
			if (parse_size("--expire", optarg, &o->expire_s))
				return -1;
			break;
		default:
			js_error_line("usage", argv[optind - 1], "unknown option or missing value: '%s'",
				      argv[optind - 1]);
			return -1;
		}
	}
	if (!attach && (o->hold || o->stats || o->ready_file || o->expire_s)) {
		js_error_line("usage", argv[0], "--hold, --stats, --ready-file, --expire are for attach");
		return -1;
	}
	if (argc - optind != 1) {
		js_error_line("usage", argv[0], "%s wants one object, got %d", argv[0], argc - optind);
		return -1;
	}
	o->object = argv[optind];
	return 0;
}
