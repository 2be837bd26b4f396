// SPDX-License-Identifier: Apache-2.0
/* libbpf's own words: kept for the answer, never printed raw. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "objcheck.h"

static char warnings[16 * 1024];
static size_t used;
static capture_sink sink;

const char *level_name(enum libbpf_print_level level)
{
	switch (level) {
	case LIBBPF_WARN:
		return "warn";
	case LIBBPF_INFO:
		return "info";
	default:
		return "debug";
	}
}

static int on_print(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char *text;
	int len = vasprintf(&text, fmt, ap);

	if (len < 0)
		return 0;
	if (sink)
		sink(level, text);
	if (level == LIBBPF_WARN) {
		size_t room = sizeof(warnings) - 1 - used;
		size_t n = (size_t)len < room ? (size_t)len : room;

		memcpy(warnings + used, text, n);
		used += n;
		warnings[used] = '\0';
	}
	free(text);
	return 0;
}

void capture_start(void)
{
	used = 0;
	warnings[0] = '\0';
	libbpf_set_print(on_print);
}

const char *capture_warnings(void)
{
	return warnings;
}

bool capture_has(const char *needle)
{
	return strstr(warnings, needle);
}

void capture_to(capture_sink to)
{
	sink = to;
}
