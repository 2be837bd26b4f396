// SPDX-License-Identifier: GPL-2.0-only
/* The kernel's parser on given datagrams, by BPF_PROG_TEST_RUN. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dnsmon.h"

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/* test_run wants a frame; a socket filter sees what follows its Ethernet header. */
#define FRAME_HEADER 14
#define FRAME_MAX 3072

static int parse_line(int prog_fd, int map_fd, void *value, const char *line)
{
	unsigned char frame[FRAME_MAX] = {};
	const struct dns_parse_result *result = value;
	const struct dns_question *q = &result->question;
	const unsigned char *payload = (const unsigned char *)value + sizeof(*result) + DNS_HEADER_LEN;
	size_t size = FRAME_HEADER;
	__u32 zero = 0;
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = frame, .repeat = 1);
	struct json json;

	for (; hex_digit(line[0]) >= 0 && hex_digit(line[1]) >= 0; line += 2) {
		if (size == sizeof(frame))
			return fail(EXIT_USAGE, "usage", NULL, "a datagram of more than %d octets",
				    FRAME_MAX - FRAME_HEADER);
		frame[size++] = (unsigned char)(hex_digit(line[0]) << 4 | hex_digit(line[1]));
	}
	if (*line && *line != '\n')
		return fail(EXIT_USAGE, "usage", NULL, "not hex: '%.40s'", line);
	run.data_size_in = (__u32)size;
	json_open(&json, stdout, "parse");
	json_u64(&json, "len", size - FRAME_HEADER);
	if (bpf_prog_test_run_opts(prog_fd, &run) || run.retval != 1 ||
	    bpf_map_lookup_elem(map_fd, &zero, value)) {
		/* An empty datagram: test_run refuses it, or nothing can be loaded of it. */
		json_text(&json, "verdict", size == FRAME_HEADER ? "not_dns" : NULL);
	} else {
		json_text(&json, "verdict", dns_verdict_names[result->verdict]);
		if (result->verdict == DNS_PLAUSIBLE) {
			json_text(&json, "status", dns_status_names[q->status]);
			json_hex(&json, "name_wire", payload, q->name_len);
			json_u64(&json, "id", q->id);
			json_u64(&json, "flags", q->flags);
			json_u64(&json, "qtype", q->qtype);
			json_u64(&json, "qclass", q->qclass);
			json_u64(&json, "hash", result->hash);
		}
	}
	json_close(&json);
	return 0;
}

int cmd_parse(const struct options *o)
{
	FILE *in = o->input ? fopen(o->input, "r") : stdin;
	static char line[1 << 18];
	struct bpf_map *map;
	struct monitor m;
	void *value;
	int err, prog_fd;

	if (!in)
		return fail(EXIT_USAGE, "usage", NULL, "cannot read '%s': %s", o->input, strerror(errno));
	err = monitor_open(&m, o, "dns_parse_test");
	if (err)
		return err;
	err = monitor_load(&m, o);
	if (err)
		return err;
	prog_fd = bpf_program__fd(bpf_object__find_program_by_name(m.object, "dns_parse_test"));
	map = bpf_object__find_map_by_name(m.object, "parse_scratch");
	value = map ? calloc(1, bpf_map__value_size(map)) : NULL;
	if (prog_fd < 0 || !value)
		return fail(EXIT_USAGE, "usage", NULL, "'%s' has no parser program", o->object);
	while (!err && fgets(line, sizeof(line), in))
		err = parse_line(prog_fd, bpf_map__fd(map), value, line);
	free(value);
	bpf_object__close(m.object);
	return err;
}
