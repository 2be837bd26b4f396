// SPDX-License-Identifier: GPL-2.0-only
/* The part of the send matrix that goes through io_uring, by its system calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "senddrv.h"

/* Opcodes and flags that the build machine's headers may be too old for. */
#define URING_OP_SENDMSG 9
#define URING_OP_SEND 26
#define URING_OP_SEND_ZC 47
#define URING_SEND_FIXED_BUF 4

static int to4;
static const struct sockaddr *peer;

/* Just enough of io_uring for one request. */
struct uring {
	int fd;
	struct io_uring_params params;
	char *sq, *cq;
	struct io_uring_sqe *sqes;
};

static int uring_open(struct uring *ring, unsigned flags)
{
	memset(ring, 0, sizeof(*ring));
	ring->params.flags = flags;
	ring->params.sq_thread_idle = 2000;
	ring->fd = (int)syscall(__NR_io_uring_setup, 4, &ring->params);
	if (ring->fd < 0)
		return -1;
	ring->sq = mmap(NULL, ring->params.sq_off.array + ring->params.sq_entries * sizeof(__u32),
			PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
	ring->sqes = mmap(NULL, ring->params.sq_entries * sizeof(*ring->sqes), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
	ring->cq = mmap(NULL, ring->params.cq_off.cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe),
			PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_CQ_RING);
	if (ring->sq == MAP_FAILED || ring->sqes == MAP_FAILED || ring->cq == MAP_FAILED) {
		close(ring->fd);
		return -1;
	}
	return 0;
}

/* Does the kernel know the opcode? IORING_REGISTER_PROBE came with v5.6; before, try. */
static int uring_has(const struct uring *ring, unsigned opcode)
{
	size_t size = sizeof(struct io_uring_probe) + 256 * sizeof(struct io_uring_probe_op);
	struct io_uring_probe *probe = calloc(1, size);
	int has;

	if (syscall(__NR_io_uring_register, ring->fd, IORING_REGISTER_PROBE, probe, 256))
		has = opcode <= URING_OP_SENDMSG;
	else
		has = opcode <= probe->last_op && probe->ops[opcode].flags & IO_URING_OP_SUPPORTED;
	free(probe);
	return has;
}

static long uring_submit(struct uring *ring, const struct io_uring_sqe *request)
{
	struct io_uring_cqe *entry;
	unsigned flags = IORING_ENTER_GETEVENTS;
	int polled = ring->params.flags & IORING_SETUP_SQPOLL;
	long result;

	ring->sqes[0] = *request;
	*(unsigned *)(ring->sq + ring->params.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(ring->sq + ring->params.sq_off.tail), 1, __ATOMIC_SEQ_CST);
	if (polled && __atomic_load_n((unsigned *)(ring->sq + ring->params.sq_off.flags), __ATOMIC_SEQ_CST) &
			      IORING_SQ_NEED_WAKEUP)
		flags |= IORING_ENTER_SQ_WAKEUP;
	result = syscall(__NR_io_uring_enter, ring->fd, polled ? 0 : 1, 1, flags, NULL, 0);
	if (result < 0)
		return result;
	entry = (struct io_uring_cqe *)(void *)(ring->cq + ring->params.cq_off.cqes);
	errno = entry->res < 0 ? -entry->res : 0;
	return entry->res;
}

static void uring_case(const char *name, unsigned opcode, unsigned flags, int fixed)
{
	static char buffer[QUERY_MAX] __attribute__((aligned(4096)));
	struct iovec part = { buffer, 0 }, registered = { buffer, sizeof(buffer) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	struct io_uring_sqe request = { .opcode = (__u8)opcode, .fd = to4 };
	struct uring ring;
	struct query q;
	long result;

	if (!case_wanted(name))
		return;
	case_begin(name);
	if (uring_open(&ring, flags)) {
		case_unsupported("io_uring_setup", errno);
		return;
	}
	if (!uring_has(&ring, opcode)) {
		case_unsupported(opcode == URING_OP_SEND ? "IORING_REGISTER_PROBE: IORING_OP_SEND" :
							   "IORING_REGISTER_PROBE: IORING_OP_SEND_ZC", 0);
		close(ring.fd);
		return;
	}
	query_next(&q);
	memcpy(buffer, q.data, q.len);
	part.iov_len = q.len;
	request.addr = opcode == URING_OP_SENDMSG ? (__u64)(unsigned long)&message : (__u64)(unsigned long)buffer;
	request.len = opcode == URING_OP_SENDMSG ? 1 : (__u32)q.len;
	/* Until v5.11 a polled ring takes registered files only. */
	if (flags & IORING_SETUP_SQPOLL) {
		if (syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_FILES, &to4, 1)) {
			case_unsupported("IORING_REGISTER_FILES", errno);
			close(ring.fd);
			return;
		}
		request.fd = 0;
		request.flags = IOSQE_FIXED_FILE;
	}
	if (fixed) {
		if (syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &registered, 1)) {
			case_unsupported("IORING_REGISTER_BUFFERS", errno);
			close(ring.fd);
			return;
		}
		request.ioprio = URING_SEND_FIXED_BUF;
	}
	result = uring_submit(&ring, &request);
	if (fixed)
		case_class("kernel_pages", 1);
	else
		case_event(&q, 4, peer, to4, 1, q.len);
	case_end(result, errno);
	close(ring.fd);
}

void run_uring(int connected, const struct sockaddr *destination)
{
	to4 = connected;
	peer = destination;
	uring_case("io_uring_send", URING_OP_SEND, 0, 0);
	uring_case("io_uring_sendmsg", URING_OP_SENDMSG, 0, 0);
	uring_case("io_uring_sqpoll", URING_OP_SEND, IORING_SETUP_SQPOLL, 0);
	uring_case("io_uring_send_zc", URING_OP_SEND_ZC, 0, 0);
	uring_case("io_uring_send_zc_registered", URING_OP_SEND_ZC, 0, 1);
}
