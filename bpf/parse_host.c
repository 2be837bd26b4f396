// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parser on the host: datagrams in hex, one a line, from standard input; a JSON
 * line of what `dnsmon parse` writes for each, with the presentation form added.
 */
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>

#include "dns_monitor.h"
#include "dns_name.h"
#include "json.h"

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

static void parse(const unsigned char *data, size_t size)
{
	static const char *const verdicts[] = { "plausible", "not_dns", "malformed" };
	static const char *const states[] = { "ok",	   "pointer",  "truncated",
					      "bad_label", "too_long", "no_question" };
	__attribute__((aligned(8))) __u8 buffer[DNS_PARSE_BUFFER + DNS_PARSE_SLACK] = {};
	size_t have = size < DNS_PARSE_BUFFER ? size : DNS_PARSE_BUFFER;
	struct dns_question q = {};
	struct dns_walk walk = {};
	char text[DNS_NAME_TEXT_MAX];
	enum dns_verdict verdict;
	struct json json;

	if (have)
		memcpy(buffer, data, have);
	verdict = dns_parse(buffer, have, size, &q, &walk);
	json_open(&json, stdout, "parse");
	json_u64(&json, "len", size);
	json_text(&json, "verdict", verdicts[verdict]);
	if (verdict == DNS_PLAUSIBLE) {
		json_text(&json, "status", states[q.status]);
		json_hex(&json, "name_wire", buffer + DNS_HEADER_LEN, q.name_len);
		json_u64(&json, "id", q.id);
		json_u64(&json, "flags", q.flags);
		json_u64(&json, "qtype", q.qtype);
		json_u64(&json, "qclass", q.qclass);
		json_u64(&json, "hash",
			 dns_sample_hash(buffer + DNS_HEADER_LEN, &q.name_len, 0, 0, q.id));
		dns_name_text(buffer + DNS_HEADER_LEN, q.name_len, text);
		json_text(&json, "name", q.status == DNS_NAME_OK ? text : NULL);
	}
	json_close(&json);
}

int main(void)
{
	static unsigned char data[65536];
	static char line[2 * 65536 + 2];
	size_t size, i;

	while (fgets(line, sizeof(line), stdin)) {
		for (size = 0, i = 0; hex_digit(line[i]) >= 0 && hex_digit(line[i + 1]) >= 0 &&
				      size < sizeof(data);
		     i += 2)
			data[size++] = (unsigned char)(hex_digit(line[i]) << 4 | hex_digit(line[i + 1]));
		if (line[i] != '\n') {
			fprintf(stderr, "parse_host: not a line of hex: '%.40s'\n", line);
			return 2;
		}
		parse(data, size);
	}
	return 0;
}
