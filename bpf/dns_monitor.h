/* SPDX-License-Identifier: GPL-2.0-only */
/* What the BPF programs and user space share. The includer declares __u8 ... __u64. */
#ifndef DNS_MONITOR_H
#define DNS_MONITOR_H

#include "dns_parse.h"

#define DNS_PAYLOAD_MAX DNS_PARSE_BUFFER
#define DNS_SEGMENTS_MAX 16
#define DNS_PORTS_MAX 8
#define DNS_COMM_LEN 16

/*
 * Per-CPU counters: enum, name, help. `hits` counts entries of both hooks; each
 * hit ends in exactly one of the classes, so hits is their sum. What follows
 * the classes are notes on hits that are in a class already.
 */
#define DNS_COUNTER_HITS(X) X(HITS, "hits", "entries of the hooks")
#define DNS_COUNTER_CLASSES(X)                                                              \
	X(V4_MAPPED, "v4_mapped", "IPv6 hook, datagram goes on to the IPv4 hook")           \
	X(OTHER_PORT, "other_port", "neither port is in the set")                           \
	X(NOT_UDP, "not_udp", "UDP-Lite, which shares udp_sendmsg")                         \
	X(CORKED, "corked", "part of a datagram that is put together from several sends")   \
	X(KERNEL_PAGES, "kernel_pages", "payload in pages or kernel memory")                \
	X(GSO_MULTI, "gso_multi", "several datagrams in one segmented send")                \
	X(FAULT, "fault", "payload not readable now: the page is not resident")             \
	X(SEGMENTS, "segments", "question beyond the segments that are gathered")           \
	X(NOT_DNS, "not_dns", "no plausible DNS header")                                    \
	X(MALFORMED, "malformed", "the header's counts cannot fit into the datagram")       \
	X(SAMPLED_OUT, "sampled_out", "not in the sample")                                  \
	X(RATE_LIMITED, "rate_limited", "above the rate limit")                             \
	X(RING_FULL, "ring_full", "no room in the ring or perf buffer")                     \
	X(SUBMITTED, "submitted", "event handed to user space")
#define DNS_COUNTER_NOTES(X)                                                                \
	X(HITS_V6, "hits_v6", "those of the hits that entered by udpv6_sendmsg")            \
	X(LIMITER_CONTENDED, "limiter_contended", "rate_limited: all tries to swap lost")   \
	X(WINDOW_MISSING, "window_missing", "a time window had no map element")             \
	X(SEGMENTS_CUT, "segments_cut", "submitted with less payload than was to be had")
#define DNS_COUNTERS(X) DNS_COUNTER_HITS(X) DNS_COUNTER_CLASSES(X) DNS_COUNTER_NOTES(X)

enum dns_counter {
#define X(id, name, help) DNS_C_##id,
	DNS_COUNTERS(X)
#undef X
		DNS_C_MAX,
};

struct dns_counters {
	__u64 n[DNS_C_MAX];
};

enum dns_event_flag {
	DNS_EV_CONNECTED = 1,    /* the destination is the connected peer */
	DNS_EV_SEGMENTS_CUT = 2, /* more segments than are gathered */
};

/*
 * One event; `captured` octets of payload follow it in the buffer. No member
 * holds a kernel address. Integers in host byte order, addresses as on the wire.
 */
struct dns_event {
	__u64 ts_ns; /* CLOCK_MONOTONIC at the hook */
	/* This CPU's totals when the event was made, itself not included. */
	__u64 cpu_submitted;
	__u64 cpu_sampled_out;
	__u64 cpu_rate_limited;
	__u64 cpu_ring_full;
	__u32 cpu;
	__u32 sample_n; /* this event stands for so many: it was kept with probability 1/n */
	__u32 pid;      /* thread group */
	__u32 tid;
	__u32 uid;
	__u32 netns; /* inode number of the socket's network namespace */
	__u32 len;   /* octets of the datagram */
	__u32 scope_id;
	__u16 captured; /* octets of payload in this event */
	__u16 dport;
	__u16 sport; /* local port of the socket */
	__u8 family; /* of the destination: AF_INET or AF_INET6 */
	__u8 flags;  /* enum dns_event_flag */
	__u8 daddr[16];
	char comm[DNS_COMM_LEN];    /* sending thread */
	char process[DNS_COMM_LEN]; /* its group leader */
	struct dns_question question;
	__u8 hook; /* 4: udp_sendmsg, 6: udpv6_sendmsg */
	__u8 pad[3];
};

/* What the parser program leaves in its map. */
struct dns_parse_result {
	__u32 verdict; /* enum dns_verdict */
	__u32 hash;    /* dns_sample_hash with seed 0, port 0 */
	struct dns_question question;
	__u8 pad[4];
};

_Static_assert(sizeof(struct dns_event) % 8 == 0, "payload must be aligned");
_Static_assert(sizeof(struct dns_question) == 20, "no padding");

#endif
