/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A parser that makes its answers up, as an observer before this one did: every
 * datagram asks for test.cluster.local. Tests must not pass with it.
 */
#ifndef MUTANT_DNS_PARSE_H
#define MUTANT_DNS_PARSE_H

#define dns_parse dns_parse_original
#include "dns_parse_original.h"
#undef dns_parse

static inline __attribute__((always_inline)) enum dns_verdict
dns_parse(const __u8 *buf, __u64 have, __u64 len, struct dns_question *q, struct dns_walk *walk)
{
	enum dns_verdict verdict = dns_parse_original(buf, have, len, q, walk);
	/* Without a 0 at its end: .rodata.str1.1 would be a map, with a name that 5.4 refuses. */
	static const __u8 invented[19] = { 4, 't', 'e', 's', 't', 7, 'c', 'l', 'u', 's', 't', 'e', 'r',
					   5, 'l', 'o', 'c', 'a', 'l' };
	__u8 *name = (__u8 *)buf + DNS_HEADER_LEN;
	int i;

	if (verdict == DNS_PLAUSIBLE && q->status == DNS_NAME_OK) {
		DNS_UNROLL
		for (i = 0; i < 19; i++)
			name[i] = invented[i];
		name[19] = 0;
		q->name_len = 20;
		q->qtype = 1;
		q->qclass = 1;
	}
	return verdict;
}

#endif
