/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Everything that differs between kernels, in one file.
 *
 * Types are the members that we read and no more; libbpf relocates each access
 * against the running kernel's BTF, so order and padding here mean nothing.
 * A type suffixed ___era is a flavour: libbpf drops the suffix when it looks
 * for the kernel's type, and the accessor asks which era is the running one.
 * Kernel versions are never compared: stable trees carry back-ports (6.1.170
 * has the udp_flags of 6.7), distributions even more.
 */
#ifndef CORE_COMPAT_BPF_H
#define CORE_COMPAT_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed short __s16;
typedef signed int __s32;
typedef signed long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

/* UAPI values (include/uapi/linux/bpf.h): an ABI, not relocated. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
#define BPF_F_CURRENT_CPU 0xffffffffULL

/*
 * The context of a kprobe program. bpf_tracing.h would want the target's
 * <asm/ptrace.h>; two register files are all that is needed of it.
 */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define KPROBE_ARG1(ctx) ((ctx)->di)
#define KPROBE_ARG2(ctx) ((ctx)->si)
#define KPROBE_ARG3(ctx) ((ctx)->dx)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate;
};
#define KPROBE_ARG1(ctx) ((ctx)->regs[0])
#define KPROBE_ARG2(ctx) ((ctx)->regs[1])
#define KPROBE_ARG3(ctx) ((ctx)->regs[2])
#else
#error "define __TARGET_ARCH_x86 or __TARGET_ARCH_arm64"
#endif

/* The context of a socket filter: UAPI, rewritten by the verifier. */
struct __sk_buff {
	__u32 len;
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10
#define AF_UNSPEC 0
#define IPPROTO_UDP 17
#define SOL_UDP 17
#define UDP_SEGMENT 103
#define MSG_MORE 0x8000

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	__u8 s6_addr[16];
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
};

/*
 * sk_protocol was an 8-bit bitfield until v5.6; commit bf9765145b85 ("sock:
 * Make sk_protocol a 16-bit value") widened it. The bitfield reader serves both.
 */
struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
};

struct flowi_ports {
	__be16 dport;
};

union flowi_uli {
	struct flowi_ports ports;
};

struct flowi4 {
	__be32 daddr;
	union flowi_uli uli;
};

struct flowi6 {
	struct in6_addr daddr;
	union flowi_uli uli;
};

union flowi_u {
	struct flowi4 ip4;
	struct flowi6 ip6;
};

struct flowi {
	union flowi_u u;
};

struct inet_cork_full {
	struct flowi fl;
};

struct inet_sock {
	struct inet_cork_full cork;
};

struct udp_sock {
	struct inet_sock inet;
	int pending;
	__u16 gso_size;
};

/* Until v6.7 (and older stable trees that did not take the back-port). */
struct udp_sock___corkflag {
	unsigned int corkflag;
};

/*
 * Since v6.7, commit 81b36803ac13 ("udp: introduce udp->udp_flags"):
 * UDP_FLAGS_CORK is bit 0. The enum has no
 * name, so its value cannot be relocated.
 */
struct udp_sock___udp_flags {
	unsigned long udp_flags;
};
#define UDP_FLAGS_CORK_BIT 1UL

struct iovec {
	void *iov_base;
	unsigned long iov_len;
};

struct iov_iter {
	unsigned long iov_offset;
	unsigned long count;
	unsigned long nr_segs;
};

/* Until v5.14: bit 0 is the direction, bit 1 BVEC_FLAG_NO_REF. */
struct iov_iter___type {
	unsigned int type;
};

/* Since v5.14, commit 8cd54c1c8480 ("iov_iter: separate direction from flavour"). */
struct iov_iter___iter_type {
	__u8 iter_type;
};

/* Until v6.4. */
struct iov_iter___iov {
	const struct iovec *iov;
};

/* Since v6.4, commit 747b1f65d39a ("iov_iter: overlay struct iovec and ubuf/len"). */
struct iov_iter___ubuf_iovec {
	const struct iovec *__iov;
};

/* Since v6.0, commit fcb14cb1bdac ("new iov_iter flavour - ITER_UBUF"). */
struct iov_iter___ubuf {
	void *ubuf;
};

/*
 * msg_inq came before msg_iter in v6.0, msg_iocb is gone in v7.2: only the
 * relocated offsets are right.
 */
struct msghdr {
	void *msg_name;
	int msg_namelen;
	struct iov_iter msg_iter;
	void *msg_control;
	unsigned long msg_controllen;
	unsigned int msg_flags;
};

struct task_struct {
	struct task_struct *group_leader;
	char comm[16];
};

#pragma clang attribute pop

/*
 * The values moved twice (4/8/16 before v5.14, UBUF 6, 5, then 0 since v6.7). Before
 * v4.20 the enum had no name and ITER_IOVEC was 0.
 */
enum iter_type___any {
	ITER_IOVEC___any = 0,
	ITER_UBUF___any = 6,
};

/* The helper is the probe for the map: both came with v5.8, commit 457f44363a88. */
enum bpf_func_id___ringbuf {
	BPF_FUNC_ringbuf_output___ringbuf = 130,
};

/* Socket addresses and control messages are UAPI: fixed layouts. */
struct sockaddr_in {
	__u16 sin_family;
	__be16 sin_port;
	__be32 sin_addr;
	__u8 sin_zero[8];
};

struct sockaddr_in6 {
	__u16 sin6_family;
	__be16 sin6_port;
	__be32 sin6_flowinfo;
	__u8 sin6_addr[16];
	__u32 sin6_scope_id;
};

struct cmsg_u16 {
	__u64 len;
	__s32 level;
	__s32 type;
	__u16 value;
	__u16 pad[3];
};

enum iter_kind {
	ITER_KIND_KERNEL, /* pages or kernel memory: not readable as user memory */
	ITER_KIND_UBUF,
	ITER_KIND_IOVEC,
};

static __always_inline enum iter_kind compat_iter_kind(struct iov_iter *iter)
{
	__u32 type;

	if (bpf_core_field_exists(((struct iov_iter___iter_type *)iter)->iter_type))
		type = BPF_CORE_READ((struct iov_iter___iter_type *)iter, iter_type);
	else
		type = BPF_CORE_READ((struct iov_iter___type *)iter, type) & ~3U;
	if (bpf_core_enum_value_exists(enum iter_type___any, ITER_UBUF___any) &&
	    type == bpf_core_enum_value(enum iter_type___any, ITER_UBUF___any))
		return ITER_KIND_UBUF;
	if (bpf_core_enum_value_exists(enum iter_type___any, ITER_IOVEC___any) ?
		    type == bpf_core_enum_value(enum iter_type___any, ITER_IOVEC___any) :
		    type == 0)
		return ITER_KIND_IOVEC;
	return ITER_KIND_KERNEL;
}

static __always_inline const struct iovec *compat_iter_iov(struct iov_iter *iter)
{
	if (bpf_core_field_exists(((struct iov_iter___ubuf_iovec *)iter)->__iov))
		return BPF_CORE_READ((struct iov_iter___ubuf_iovec *)iter, __iov);
	return BPF_CORE_READ((struct iov_iter___iov *)iter, iov);
}

static __always_inline void *compat_iter_ubuf(struct iov_iter *iter)
{
	if (bpf_core_field_exists(((struct iov_iter___ubuf *)iter)->ubuf))
		return BPF_CORE_READ((struct iov_iter___ubuf *)iter, ubuf);
	return 0;
}

/* The UDP_CORK socket option. */
static __always_inline int compat_udp_corked(struct sock *sk)
{
	if (bpf_core_field_exists(((struct udp_sock___udp_flags *)sk)->udp_flags))
		return BPF_CORE_READ((struct udp_sock___udp_flags *)sk, udp_flags) &
		       UDP_FLAGS_CORK_BIT;
	if (bpf_core_field_exists(((struct udp_sock___corkflag *)sk)->corkflag)) {
		struct udp_sock___corkflag *up = (void *)sk;

		return BPF_CORE_READ_BITFIELD_PROBED(up, corkflag) != 0;
	}
	return 0;
}

static __always_inline int compat_has_ringbuf(void)
{
	return bpf_core_enum_value_exists(enum bpf_func_id___ringbuf,
					  BPF_FUNC_ringbuf_output___ringbuf);
}

/*
 * R0 = expected, *ptr == R0 ? *ptr = desired : nothing, returns what was there.
 * Encoded by hand: the object is compiled with -mcpu=v2 so that no compiler
 * turns a plain counter into a fetching atomic, and v2 has no mnemonic for it.
 * BPF_STX|BPF_ATOMIC|BPF_DW, dst r1, src r2, imm BPF_CMPXCHG (v5.12+).
 */
static __always_inline __u64 bpf_cmpxchg64(volatile __u64 *ptr, __u64 expected, __u64 desired)
{
	__u64 old;

	asm volatile("r1 = %[ptr]; r2 = %[desired]; r0 = %[expected];"
		     ".8byte 0x000000f1000021db;"
		     "%[old] = r0;"
		     : [old] "=r"(old)
		     : [ptr] "r"(ptr), [desired] "r"(desired), [expected] "r"(expected)
		     : "r0", "r1", "r2", "memory");
	return old;
}

#endif
