// SPDX-License-Identifier: GPL-2.0-only
/*
 * libFuzzer target: the first octets choose what was captured, the rest is the
 * datagram. Beyond what sanitisers find, what the parser claims must hold.
 */
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>

#include "dns_monitor.h"
#include "dns_name.h"

#define CLAIM(condition)         \
	do {                     \
		if (!(condition)) \
			abort(); \
	} while (0)

/* An accepted name is whole labels of 1 to 63 octets, and its root label when complete. */
static void check_name(const __u8 *name, size_t len, int complete)
{
	size_t pos = 0;

	CLAIM(len <= DNS_NAME_MAX);
	while (pos < len && name[pos]) {
		CLAIM(name[pos] < 64);
		pos += 1u + name[pos];
	}
	if (complete)
		CLAIM(pos + 1 == len);
	else
		CLAIM(pos == len || pos + 1 == len);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	__u8 *buffer;
	char text[DNS_NAME_TEXT_MAX];
	struct dns_question q = {};
	struct dns_walk walk = {};
	enum dns_verdict verdict;
	size_t have;

	if (size < 1)
		return 0;
	/* Octets behind the capture are what an earlier datagram left there. */
	buffer = aligned_alloc(8, 520);
	if (!buffer)
		return 0;
	memset(buffer, data[0], 520);
	data++;
	size--;
	have = size < DNS_PARSE_BUFFER ? size : DNS_PARSE_BUFFER;
	memcpy(buffer, data, have);
	verdict = dns_parse(buffer, have, size, &q, &walk);
	if (verdict == DNS_PLAUSIBLE) {
		CLAIM(size >= DNS_HEADER_LEN && q.status <= DNS_NAME_NO_QUESTION);
		CLAIM(DNS_HEADER_LEN + (size_t)q.name_len <= have);
		CLAIM(q.status != DNS_NAME_OK || DNS_HEADER_LEN + (size_t)q.name_len + 4 <= have);
		CLAIM(q.status != DNS_NAME_NO_QUESTION || (q.qdcount == 0 && q.name_len == 0));
		check_name(buffer + DNS_HEADER_LEN, q.name_len, q.status == DNS_NAME_OK);
		CLAIM(dns_name_text(buffer + DNS_HEADER_LEN, q.name_len, text) < sizeof(text));
		dns_sample_hash(buffer + DNS_HEADER_LEN, &q.name_len, 1, 2, q.id);
	}
	free(buffer);
	return 0;
}
