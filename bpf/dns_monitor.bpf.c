// SPDX-License-Identifier: GPL-2.0-only
/*
 * DNS observer: questions and answers that processes hand to UDP.
 *
 * A hit of a hook ends in exactly one class of dns_monitor.h. Order: whose
 * datagram is it, can the payload be read, is it DNS, sample, limit, submit.
 * Cheap refusals come first, since every UDP send of the machine passes here.
 *
 * Kprobe programs run with preemption off and are not entered twice on a CPU,
 * so per-CPU counters and scratch need no atomics.
 */
#include "core_compat.bpf.h"
#include "dns_monitor.h"

char LICENSE[] SEC("license") = "GPL";

/* Settings. Numbers per second; 0 switches a stage off. */
const volatile __u16 dns_ports[DNS_PORTS_MAX] = { 53 };
const volatile __u32 sample_n = 10;            /* keep 1 in n */
const volatile __u32 sample_threshold = 1000;  /* sample only above this many a second; 0: always */
const volatile __u32 sample_seed = 0;
const volatile __u32 rate_limit = 1000;        /* events a second, all CPUs together */
const volatile __u32 rate_burst = 100;         /* events at once; the limiter's window is burst/limit */
const volatile __u8 force_perf = 0;            /* the map was made a perf array though rings exist */

#define NS_PER_S 1000000000ULL
#define LOAD_WINDOW_NS 100000000ULL

/* Made a perf event array by the loader where the kernel has no ring buffer. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_counters);
} dns_counters SEC(".maps");

/* Payload follows the event; the rest is room for a copy whose bounds the verifier sees apart. */
struct scratch {
	struct dns_event event;
	__u8 payload[2 * DNS_PAYLOAD_MAX];
	__u64 gathered;
	struct dns_walk walk;
	union {
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/* Events by number of time window. At most 8 live: see window(). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} rate_windows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} load_windows SEC(".maps");

#define WINDOW_SLOTS 8
struct window_slots {
	__u64 rate[WINDOW_SLOTS];
	__u64 load[WINDOW_SLOTS];
	__u64 gcra_tat; /* theoretical arrival time of the next event, ns */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct window_slots);
} limiter SEC(".maps");

enum hook { HOOK_V4 = 4, HOOK_V6 = 6 };
enum limiter_kind { LIMITER_XADD, LIMITER_GCRA };

static __always_inline __u16 ntohs(__be16 port)
{
	return __builtin_bswap16(port);
}

static __always_inline int port_is_dns(__u16 port)
{
	int i;

	if (port == 0)
		return 0;
#pragma unroll
	for (i = 0; i < DNS_PORTS_MAX; i++)
		if (dns_ports[i] == port)
			return 1;
	return 0;
}

static __always_inline int is_v4_mapped(const __u8 *addr)
{
	const __u32 *word = (const __u32 *)(const void *)addr;

	return word[0] == 0 && word[1] == 0 && word[2] == 0xffff0000;
}

/*
 * Where udp_sendmsg() will send: a corked datagram's flow, else msg_name, else
 * the connected peer. An unconnected socket has no peer (port 0).
 */
static __always_inline enum dns_counter
destination_v4(struct sock *sk, void *name, int name_len, int pending, struct scratch *s)
{
	struct dns_event *e = &s->event;

	e->family = AF_INET;
	if (pending) {
		struct inet_sock *inet = (void *)sk;

		e->dport = ntohs(BPF_CORE_READ(inet, cork.fl.u.ip4.uli.ports.dport));
		return DNS_C_HITS;
	}
	if (name) {
		if (name_len < (int)sizeof(s->addr.in) ||
		    bpf_probe_read_kernel(&s->addr.in, sizeof(s->addr.in), name))
			return DNS_C_OTHER_PORT;
		if (s->addr.in.sin_family != AF_INET && s->addr.in.sin_family != AF_UNSPEC)
			return DNS_C_OTHER_PORT;
		e->dport = ntohs(s->addr.in.sin_port);
		__builtin_memcpy(e->daddr, &s->addr.in.sin_addr, 4);
		return DNS_C_HITS;
	}
	e->flags = DNS_EV_CONNECTED;
	e->dport = ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	*(__u32 *)e->daddr = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	return DNS_C_HITS;
}

/*
 * The same for udpv6_sendmsg(), which hands IPv4 destinations, mapped or plain,
 * to udp_sendmsg(): these are judged there, once.
 */
static __always_inline enum dns_counter
destination_v6(struct sock *sk, void *name, int name_len, int pending, struct scratch *s)
{
	struct dns_event *e = &s->event;

	e->family = AF_INET6;
	if (name) {
		if (name_len < 2 || bpf_probe_read_kernel(&s->addr.in6, sizeof(s->addr.in6), name))
			return DNS_C_OTHER_PORT;
		if (s->addr.in6.sin6_family == AF_INET)
			return DNS_C_V4_MAPPED;
		if (s->addr.in6.sin6_family == AF_INET6) {
			/* RFC 2133 sockets have no scope id. */
			if (name_len < 24)
				return DNS_C_OTHER_PORT;
			if (is_v4_mapped(s->addr.in6.sin6_addr))
				return DNS_C_V4_MAPPED;
			if (!pending) {
				e->dport = ntohs(s->addr.in6.sin6_port);
				__builtin_memcpy(e->daddr, s->addr.in6.sin6_addr, 16);
				if (name_len >= (int)sizeof(s->addr.in6))
					e->scope_id = s->addr.in6.sin6_scope_id;
				return DNS_C_HITS;
			}
		} else if (s->addr.in6.sin6_family != AF_UNSPEC) {
			return DNS_C_OTHER_PORT;
		}
	}
	if (pending == AF_INET)
		return DNS_C_V4_MAPPED;
	if (pending) {
		struct inet_sock *inet = (void *)sk;

		e->dport = ntohs(BPF_CORE_READ(inet, cork.fl.u.ip6.uli.ports.dport));
		return DNS_C_HITS;
	}
	if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		BPF_CORE_READ_INTO((struct in6_addr *)e->daddr, sk, __sk_common.skc_v6_daddr);
	/* With an AF_UNSPEC name the kernel does not look whether the peer is mapped. */
	if (!name && is_v4_mapped(e->daddr))
		return DNS_C_V4_MAPPED;
	e->flags = DNS_EV_CONNECTED;
	e->dport = ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	return DNS_C_HITS;
}

/* The segment size of this send: the socket's, or that of a control message. */
static __always_inline __u32 gso_size(struct sock *sk, struct msghdr *msg)
{
	__u32 size = BPF_CORE_READ((struct udp_sock *)sk, gso_size);
	__u8 *control = BPF_CORE_READ(msg, msg_control);
	__u64 left = BPF_CORE_READ(msg, msg_controllen), step;
	struct cmsg_u16 cmsg;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		if (!control || left < 18)
			break;
		if (bpf_probe_read_kernel(&cmsg, 18, control))
			break;
		if (cmsg.level == SOL_UDP && cmsg.type == UDP_SEGMENT)
			size = cmsg.value;
		step = (cmsg.len + 7) & ~7ULL;
		if (step < 16 || step > left)
			break;
		control += step;
		left -= step;
	}
	return size;
}

/* Copies the first DNS_PAYLOAD_MAX octets of the datagram; 0 or an error. */
static __always_inline long gather(struct iov_iter *iter, enum iter_kind kind, struct scratch *s)
{
	__u64 count = BPF_CORE_READ(iter, count), skip = BPF_CORE_READ(iter, iov_offset);
	__u64 segments = 1, length, at;
	const struct iovec *iov = 0;
	void *base;
	int i;

	*(volatile __u64 *)&s->gathered = 0;
	if (kind == ITER_KIND_IOVEC) {
		iov = compat_iter_iov(iter);
		segments = BPF_CORE_READ(iter, nr_segs);
	}
#pragma unroll
	for (i = 0; i < DNS_SEGMENTS_MAX; i++) {
		if ((__u64)i >= segments)
			break;
		if (i == 0 && kind == ITER_KIND_UBUF) {
			base = compat_iter_ubuf(iter) + skip;
			length = count;
		} else {
			base = BPF_CORE_READ(&iov[i], iov_base);
			length = BPF_CORE_READ(&iov[i], iov_len);
			if (i == 0) {
				base += skip;
				length -= skip;
			}
		}
		/*
		 * Through memory: whatever paths led here, the verifier sees
		 * the same unknown number and goes on once.
		 */
		at = *(volatile __u64 *)&s->gathered;
		if (at >= DNS_PAYLOAD_MAX || at >= count)
			break;
		if (length > count - at)
			length = count - at;
		/* Registers that the verifier bounds are the ones that the call takes. */
		asm volatile("if %[n] <= 512 goto +1; %[n] = 512" : [n] "+r"(length));
		asm volatile("%[at] &= 511" : [at] "+r"(at));
		if (bpf_probe_read_user(s->payload + at, length, base))
			return -1;
		*(volatile __u64 *)&s->gathered = at + length;
	}
	at = *(volatile __u64 *)&s->gathered;
	if (at > DNS_PAYLOAD_MAX)
		at = DNS_PAYLOAD_MAX;
	else if (at < count && at < DNS_PAYLOAD_MAX)
		s->event.flags |= DNS_EV_SEGMENTS_CUT;
	s->event.captured = at;
	return 0;
}

/*
 * The counter of time window `number`. The update with BPF_NOEXIST has exactly
 * one winner a window; it removes the window that its slot held before, so that
 * after idle times no old window stays behind.
 */
static __always_inline __u64 *window(void *map, __u64 *slots, __u64 number)
{
	__u64 *count = bpf_map_lookup_elem(map, &number), zero = 0, old;

	if (count)
		return count;
	if (bpf_map_update_elem(map, &number, &zero, BPF_NOEXIST) == 0) {
		__u64 *slot = slots + (number & (WINDOW_SLOTS - 1));

		old = *slot;
		*slot = number;
		if (old && old != number)
			bpf_map_delete_elem(map, &old);
	}
	return bpf_map_lookup_elem(map, &number);
}

/*
 * How many events one stands for that is kept now: sample_n above the threshold,
 * else 1. Above: the previous window or this one so far. Decided before the hash
 * is looked at, so that weights are right.
 */
static __always_inline __u32
sample_weight(struct window_slots *slots, struct dns_counters *c, __u64 now)
{
	__u64 limit = (__u64)sample_threshold * LOAD_WINDOW_NS / NS_PER_S;
	__u64 number = now / LOAD_WINDOW_NS, *seen;

	if (sample_n <= 1)
		return 1;
	if (sample_threshold == 0)
		return sample_n;
	seen = window(&load_windows, slots->load, number);
	if (!seen) {
		c->n[DNS_C_WINDOW_MISSING]++;
		return sample_n;
	}
	__sync_fetch_and_add(seen, 1);
	if (*(volatile __u64 *)seen > limit)
		return sample_n;
	number--;
	seen = bpf_map_lookup_elem(&load_windows, &number);
	return seen && *(volatile __u64 *)seen > limit ? sample_n : 1;
}

/*
 * Never more than rate_burst in a window of rate_burst/rate_limit seconds, all
 * CPUs together: of the calls that add and then load, the r-th adder loads r or
 * more. At most CPUs-1 are refused too many: those in flight at the edge.
 */
static __always_inline int
admit_xadd(struct window_slots *slots, struct dns_counters *c, __u64 now)
{
	__u64 window_ns = (__u64)rate_burst * NS_PER_S / rate_limit;
	__u64 *count;

	count = window(&rate_windows, slots->rate, window_ns ? now / window_ns : now);
	if (!count) {
		c->n[DNS_C_WINDOW_MISSING]++;
		return 0;
	}
	/* Keeps the cache line shared once the window is full. */
	if (*(volatile __u64 *)count >= rate_burst)
		return 0;
	__sync_fetch_and_add(count, 1);
	return *(volatile __u64 *)count <= rate_burst;
}

/* Generic cell rate: rate_limit a second and no more than rate_burst at once. */
static __always_inline int
admit_gcra(struct window_slots *slots, struct dns_counters *c, __u64 now)
{
	__u64 interval = NS_PER_S / rate_limit, room = interval * rate_burst;
	__u64 tat, next;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		tat = *(volatile __u64 *)&slots->gcra_tat;
		next = (tat > now ? tat : now) + interval;
		if (next > now + room)
			return 0;
		if (bpf_cmpxchg64(&slots->gcra_tat, tat, next) == tat)
			return 1;
	}
	c->n[DNS_C_LIMITER_CONTENDED]++;
	return 0;
}

static __always_inline long submit(void *ctx, struct scratch *s)
{
	__u64 size = s->event.captured;

	asm volatile("if %[n] <= 512 goto +1; %[n] = 512" : [n] "+r"(size));
	size += sizeof(s->event);
	if (compat_has_ringbuf() && !force_perf)
		return bpf_ringbuf_output(&events, s, size, 0);
	return bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, s, size);
}

static __always_inline void describe_sender(struct dns_event *e, struct sock *sk)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	e->pid = pid_tgid >> 32;
	e->tid = (__u32)pid_tgid;
	e->uid = (__u32)bpf_get_current_uid_gid();
	e->cpu = bpf_get_smp_processor_id();
	if (bpf_core_field_exists(sk->__sk_common.skc_net.net))
		e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	BPF_CORE_READ_STR_INTO(&e->process, task, group_leader, comm);
}

/* The class of a datagram whose port matched; fills in the event on the way. */
static __always_inline enum dns_counter
classify(struct sock *sk, struct msghdr *msg, __u64 len, int pending, struct scratch *s)
{
	struct iov_iter *iter = &msg->msg_iter;
	enum iter_kind kind;
	__u32 flags, size;

	if (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol) != IPPROTO_UDP)
		return DNS_C_NOT_UDP;
	if (pending)
		return DNS_C_CORKED;
	kind = compat_iter_kind(iter);
	flags = BPF_CORE_READ(msg, msg_flags);
	if (kind == ITER_KIND_KERNEL)
		return DNS_C_KERNEL_PAGES;
	/* udp_sendpage(), gone since v6.5: an empty send whose pages are appended later. */
	if (len == 0 && flags & MSG_MORE && BPF_CORE_READ(iter, nr_segs) == 0)
		return DNS_C_KERNEL_PAGES;
	if (flags & MSG_MORE || compat_udp_corked(sk))
		return DNS_C_CORKED;
	size = gso_size(sk, msg);
	if (size && len > size)
		return DNS_C_GSO_MULTI;
	if (len < DNS_HEADER_LEN)
		return DNS_C_NOT_DNS;
	if (gather(iter, kind, s))
		return DNS_C_FAULT;
	s->event.len = len;
	switch (dns_parse(s->payload, s->event.captured, len, &s->event.question,
			  &s->walk)) {
	case DNS_PLAUSIBLE:
		break;
	case DNS_MALFORMED:
		return DNS_C_MALFORMED;
	default:
		return s->event.captured < DNS_HEADER_LEN ? DNS_C_SEGMENTS : DNS_C_NOT_DNS;
	}
	if (*(volatile __u16 *)&s->event.question.status == DNS_NAME_TRUNCATED &&
	    s->event.flags & DNS_EV_SEGMENTS_CUT)
		return DNS_C_SEGMENTS;
	return DNS_C_SUBMITTED;
}

static __always_inline enum dns_counter
observe(struct pt_regs *ctx, struct scratch *s, struct dns_counters *c, enum hook hook,
	enum limiter_kind kind)
{
	struct sock *sk = (void *)KPROBE_ARG1(ctx);
	struct msghdr *msg = (void *)KPROBE_ARG2(ctx);
	struct dns_event *e = &s->event;
	struct window_slots *slots;
	enum dns_counter verdict;
	__u32 zero = 0, port;
	int pending, name_len;
	__u64 now, hash;
	void *name;

	__builtin_memset(e, 0, sizeof(*e));
	pending = BPF_CORE_READ((struct udp_sock *)sk, pending);
	name = BPF_CORE_READ(msg, msg_name);
	name_len = BPF_CORE_READ(msg, msg_namelen);
	if (hook == HOOK_V6)
		verdict = destination_v6(sk, name, name_len, pending, s);
	else
		verdict = destination_v4(sk, name, name_len, pending, s);
	if (verdict != DNS_C_HITS)
		return verdict;
	e->sport = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (!port_is_dns(e->dport) && !port_is_dns(e->sport))
		return DNS_C_OTHER_PORT;
	verdict = classify(sk, msg, KPROBE_ARG3(ctx), pending, s);
	if (verdict != DNS_C_SUBMITTED)
		return verdict;

	slots = bpf_map_lookup_elem(&limiter, &zero);
	if (!slots)
		return DNS_C_RATE_LIMITED;
	now = bpf_ktime_get_ns();
	e->ts_ns = now;
	e->hook = hook;
	e->sample_n = sample_weight(slots, c, now);
	/* The client's end of the conversation: its own port, or where the answer goes. */
	port = e->question.flags & DNS_FLAG_QR ? e->dport : e->sport;
	hash = dns_sample_hash(s->payload + DNS_HEADER_LEN, &e->question.name_len, sample_seed,
			       port, e->question.id);
	if (hash * *(volatile __u32 *)&e->sample_n >> 32)
		return DNS_C_SAMPLED_OUT;
	if (rate_limit) {
		if (kind == LIMITER_GCRA ? !admit_gcra(slots, c, now) : !admit_xadd(slots, c, now))
			return DNS_C_RATE_LIMITED;
	}
	describe_sender(e, sk);
	e->cpu_submitted = c->n[DNS_C_SUBMITTED];
	e->cpu_sampled_out = c->n[DNS_C_SAMPLED_OUT];
	e->cpu_rate_limited = c->n[DNS_C_RATE_LIMITED];
	e->cpu_ring_full = c->n[DNS_C_RING_FULL];
	if (submit(ctx, s))
		return DNS_C_RING_FULL;
	if (e->flags & DNS_EV_SEGMENTS_CUT)
		c->n[DNS_C_SEGMENTS_CUT]++;
	return DNS_C_SUBMITTED;
}

static __always_inline int hit(struct pt_regs *ctx, enum hook hook, enum limiter_kind kind)
{
	struct dns_counters *c;
	struct scratch *s;
	__u32 zero = 0;
	__u64 class;

	s = bpf_map_lookup_elem(&scratch, &zero);
	c = bpf_map_lookup_elem(&dns_counters, &zero);
	if (!s || !c)
		return 0;
	c->n[DNS_C_HITS]++;
	if (hook == HOOK_V6)
		c->n[DNS_C_HITS_V6]++;
	class = observe(ctx, s, c, hook, kind);
	if (class < DNS_C_MAX)
		c->n[class]++;
	return 0;
}

SEC("kprobe/udp_sendmsg")
int dns_udp4(struct pt_regs *ctx)
{
	return hit(ctx, HOOK_V4, LIMITER_XADD);
}

SEC("kprobe/udpv6_sendmsg")
int dns_udp6(struct pt_regs *ctx)
{
	return hit(ctx, HOOK_V6, LIMITER_XADD);
}

SEC("?kprobe/udp_sendmsg")
int dns_udp4_gcra(struct pt_regs *ctx)
{
	return hit(ctx, HOOK_V4, LIMITER_GCRA);
}

SEC("?kprobe/udpv6_sendmsg")
int dns_udp6_gcra(struct pt_regs *ctx)
{
	return hit(ctx, HOOK_V6, LIMITER_GCRA);
}

/* The parser alone, for BPF_PROG_TEST_RUN: kprobe programs have no test run on any kernel. */
struct parse_scratch {
	struct dns_parse_result result;
	__u8 payload[DNS_PAYLOAD_MAX + DNS_PARSE_SLACK];
	__u8 pad[4];
	struct dns_walk walk;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct parse_scratch);
} parse_scratch SEC(".maps");

SEC("?socket")
int dns_parse_test(struct __sk_buff *skb)
{
	struct parse_scratch *s;
	__u64 len = skb->len, have = len;
	__u32 zero = 0;

	s = bpf_map_lookup_elem(&parse_scratch, &zero);
	if (!s)
		return 0;
	__builtin_memset(s, 0, sizeof(*s));
	asm volatile("if %[n] <= 512 goto +1; %[n] = 512" : [n] "+r"(have));
	asm volatile("if %[n] >= 1 goto +1; %[n] = 1" : [n] "+r"(have));
	if (bpf_skb_load_bytes(skb, 0, s->payload, have))
		return 0;
	s->result.verdict = dns_parse(s->payload, have, len, &s->result.question, &s->walk);
	s->result.hash = dns_sample_hash(s->payload + DNS_HEADER_LEN, &s->result.question.name_len,
					 0, 0, s->result.question.id);
	return 1;
}
