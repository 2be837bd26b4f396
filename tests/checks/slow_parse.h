/* SPDX-License-Identifier: GPL-2.0-only */
/* The observer's parser, after 1,500 readings of the clock: right, and far too dear. */
#ifndef SLOW_DNS_PARSE_H
#define SLOW_DNS_PARSE_H

#define dns_parse dns_parse_original
#include "dns_parse_original.h"
#undef dns_parse

static inline __attribute__((always_inline)) enum dns_verdict
dns_parse(const __u8 *buf, __u64 have, __u64 len, struct dns_question *q, struct dns_walk *walk)
{
#ifdef __bpf__
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < 1500; i++)
		bpf_ktime_get_ns();
#endif
	return dns_parse_original(buf, have, len, q, walk);
}

#endif
