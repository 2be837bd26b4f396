/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One parser for the kprobe, the test_run program and the host.
 *
 * The caller declares __u8 ... __u64 and gives a buffer of DNS_PARSE_BUFFER +
 * DNS_PARSE_SLACK addressable octets, of which the first `have` were read from a datagram of
 * `len` octets. Only the first question is looked at.
 *
 * For the verifiers of 5.4, 5.15 and 6.0, which do not prune loops whose paths
 * fork and join: every fork of the label walk leaves it, and what the walk
 * found goes through memory, so that all its exits look alike afterwards.
 */
#ifndef DNS_PARSE_H
#define DNS_PARSE_H

#define DNS_PARSE_BUFFER 512
#define DNS_PARSE_SLACK 4 /* octets behind the buffer that must be addressable too */
#define DNS_HEADER_LEN 12
#define DNS_NAME_MAX 255   /* octets on the wire, RFC 1035 section 2.3.4 */
#define DNS_LABELS_MAX 127 /* of one octet each, and the root */

/* What the first question's name turned out to be. */
enum dns_name_status {
	DNS_NAME_OK,          /* complete, with type and class */
	DNS_NAME_POINTER,     /* stopped at a compression pointer (0xc0-0xff) */
	DNS_NAME_TRUNCATED,   /* the datagram ends inside the question */
	DNS_NAME_BAD_LABEL,   /* stopped at a reserved label type (0x40-0xbf) */
	DNS_NAME_TOO_LONG,    /* would exceed 255 octets */
	DNS_NAME_NO_QUESTION, /* QDCOUNT is 0 */
};

enum dns_verdict {
	DNS_PLAUSIBLE,
	DNS_NOT_DNS,   /* no DNS header: short, unknown opcode, Z bit, RCODE in a query, all counts 0 */
	DNS_MALFORMED, /* the counts cannot fit into the datagram */
};

/* Host byte order. name_len counts the whole labels at offset 12 that were accepted. */
struct dns_question {
	__u16 id;
	__u16 flags;
	__u16 qdcount;
	__u16 ancount;
	__u16 nscount;
	__u16 arcount;
	__u16 qtype;  /* 0 unless status is ok */
	__u16 qclass; /* 0 unless status is ok */
	__u16 name_len;
	__u16 status; /* enum dns_name_status */
};

/*
 * What the parser keeps in memory between its steps. In the kernel it must lie
 * in a map: a number that comes back from there is unknown to the verifier,
 * whatever path stored it, so the paths go on as one.
 */
struct dns_walk {
	volatile __u64 have;
	volatile __u64 pos;
};

#define DNS_FLAG_QR 0x8000
#define DNS_FLAG_TC 0x0200
#define DNS_FLAG_Z 0x0040

/* Opcodes 0 QUERY, 1 IQUERY, 2 STATUS, 4 NOTIFY, 5 UPDATE, 6 DSO. */
#define DNS_OPCODES 0x77U

#ifdef __bpf__
#define DNS_UNROLL _Pragma("unroll")
#else
#define DNS_UNROLL
#endif

static inline __attribute__((always_inline)) __u16 dns_u16(const __u8 *p)
{
	return (__u16)(p[0] << 8 | p[1]);
}

/*
 * Is this a DNS header, and can what it announces be there? The smallest
 * question takes 5 octets, the smallest record 11. A truncated response (TC)
 * may announce records that were cut off.
 */
static inline __attribute__((always_inline)) enum dns_verdict
dns_parse_header(const __u8 *buf, __u64 have, __u64 len, struct dns_question *q)
{
	__u64 flags, questions, records, cut;

	if (have < DNS_HEADER_LEN)
		return DNS_NOT_DNS;
	flags = dns_u16(buf + 2);
	questions = dns_u16(buf + 4);
	q->id = dns_u16(buf);
	q->flags = (__u16)flags;
	q->qdcount = (__u16)questions;
	q->ancount = dns_u16(buf + 6);
	q->nscount = dns_u16(buf + 8);
	q->arcount = dns_u16(buf + 10);
	records = (__u64)q->ancount + q->nscount + q->arcount;
	if (!(DNS_OPCODES >> (flags >> 11 & 15) & 1) || flags & DNS_FLAG_Z)
		return DNS_NOT_DNS;
	if (!(flags & DNS_FLAG_QR) && (flags & 15 || !((flags >> 11 & 15) | questions | records)))
		return DNS_NOT_DNS;
	/* All ones unless both QR and TC are set: no fork before the walk. */
	cut = (flags >> 15 & flags >> 9 & 1) - 1;
	if (DNS_HEADER_LEN + questions * 5 + (records & cut) * 11 > len)
		return DNS_MALFORMED;
	return DNS_PLAUSIBLE;
}

/*
 * Walks the labels at offset 12. The loop only finds where the walk ends; why is
 * asked once, behind it. At pos == have it reads an octet that is not part of
 * the datagram: whatever it is, the walk ends there.
 */
static inline __attribute__((always_inline)) void
dns_walk_name(const __u8 *buf, struct dns_walk *walk)
{
	/* The root label behind 254 octets of name would be octet 255. */
	__u64 end = DNS_HEADER_LEN + DNS_NAME_MAX - 1, pos = DNS_HEADER_LEN, label, next;
	int i;

	if (end > walk->have)
		end = walk->have;
	DNS_UNROLL
	for (i = 0; i < DNS_LABELS_MAX; i++) {
		label = buf[pos & (DNS_PARSE_BUFFER - 1)];
		next = pos + 1 + label;
		if (label - 1 > 62 || next > end)
			break;
		pos = next;
	}
	walk->pos = pos;
}

/* Why the walk ended; type and class behind a complete name. */
static inline __attribute__((always_inline)) void
dns_parse_end(const __u8 *buf, struct dns_walk *walk, struct dns_question *q)
{
	__u64 have = walk->have, pos = walk->pos & (DNS_PARSE_BUFFER - 1);
	__u64 label = buf[pos], next = pos + 1 + label;

	q->name_len = (__u16)(pos - DNS_HEADER_LEN);
	q->status = DNS_NAME_TRUNCATED;
	if (pos >= have)
		return;
	if (label > 0xbf) {
		q->status = DNS_NAME_POINTER;
	} else if (label > 0x3f) {
		q->status = DNS_NAME_BAD_LABEL;
	} else if (label) {
		if (next + 1 > DNS_HEADER_LEN + DNS_NAME_MAX)
			q->status = DNS_NAME_TOO_LONG;
	} else {
		q->name_len = (__u16)(next - DNS_HEADER_LEN);
		if (next + 4 > have)
			return;
		q->status = DNS_NAME_OK;
		next &= DNS_PARSE_BUFFER - 1;
		q->qtype = dns_u16(buf + next);
		q->qclass = dns_u16(buf + next + 2);
	}
}

/* `q` must be zeroed. Anything but DNS_PLAUSIBLE leaves only the header's fields. */
static inline __attribute__((always_inline)) enum dns_verdict
dns_parse(const __u8 *buf, __u64 have, __u64 len, struct dns_question *q, struct dns_walk *walk)
{
	enum dns_verdict verdict = dns_parse_header(buf, have, len, q);

	if (verdict != DNS_PLAUSIBLE)
		return verdict;
	if (q->qdcount == 0) {
		q->status = DNS_NAME_NO_QUESTION;
		return DNS_PLAUSIBLE;
	}
	walk->have = have;
	dns_walk_name(buf, walk);
	dns_parse_end(buf, walk, q);
	return DNS_PLAUSIBLE;
}

#define DNS_HASH_PRIME 0x9e3779b97f4a7c15ULL

static inline __attribute__((always_inline)) __u64 dns_hash_step(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * DNS_HASH_PRIME;
	return hash ^ hash >> 29;
}

/*
 * 32 bits out of (client port, id, name): equal for a question, its retries from
 * the same socket and its answer, whoever of client and server is looked at.
 * `name` is 4-aligned, `len` its octets (0..255); reads up to the next multiple
 * of 4.
 */
static inline __attribute__((always_inline)) __u32
dns_sample_hash(const __u8 *name, const volatile __u16 *len, __u32 seed, __u32 port, __u32 id)
{
	const __u32 *word = (const __u32 *)(const void *)name;
	__u64 hash = dns_hash_step((__u64)seed << 32 | port << 16 | id, 0x51ed270b);
	__u64 octets = *len, i;

	DNS_UNROLL
	for (i = 0; i < 63; i++) {
		if (octets < i * 4 + 4)
			break;
		hash = dns_hash_step(hash, word[i]);
	}
	octets = *len & 255;
	hash = dns_hash_step(hash, word[octets >> 2] & ((1U << (octets & 3) * 8) - 1));
	hash = dns_hash_step(hash, octets);
	return (__u32)(hash >> 32);
}

#endif
