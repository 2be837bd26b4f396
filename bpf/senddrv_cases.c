// SPDX-License-Identifier: GPL-2.0-only
/* The send matrix: a case, what the system call said, what an observer must have seen. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#include "senddrv.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_CORK
#define UDP_CORK 1
#endif
#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif

static struct sockaddr_in dns4, elsewhere4;
static struct sockaddr_in6 dns6, mapped6;
static int free4, free6, to4, to6, server4 = -1;

#define SA(address) ((struct sockaddr *)&(address))

static int udp_socket(int family)
{
	return socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static int connected(const struct sockaddr *dest)
{
	int v6 = dest->sa_family == AF_INET6;
	int fd = udp_socket(dest->sa_family);

	if (connect(fd, dest, v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)))
		perror("senddrv: connect");
	return fd;
}

/* Somebody listens, so that no refusal of one case becomes the error of the next. */
static int listener(struct sockaddr *address, socklen_t size)
{
	int fd = udp_socket(address->sa_family), one = 1;

	if (address->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, address, size)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void setup(void)
{
	dns4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(53),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	elsewhere4 = dns4;
	elsewhere4.sin_port = htons(5399);
	dns6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(53),
				      .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	mapped6 = dns6;
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped6.sin6_addr);
	server4 = listener(SA(dns4), sizeof(dns4));
	listener(SA(dns6), sizeof(dns6));
	listener(SA(elsewhere4), sizeof(elsewhere4));
	free4 = udp_socket(AF_INET);
	free6 = udp_socket(AF_INET6);
	to4 = connected(SA(dns4));
	to6 = connected(SA(dns6));
}

/* The plain cases: one send that gives one event. */
static void sent_event(const char *name, const struct query *q, int hook, struct sockaddr *dest, int fd,
		       int is_connected, long result)
{
	int error = errno;

	case_begin(name);
	case_event(q, hook, dest, fd, is_connected, q->len);
	case_end(result, error);
}

static void one_class(const char *name, const char *class, long result)
{
	int error = errno;

	case_begin(name);
	case_class(class, 1);
	case_end(result, error);
}

static void plain_v4(void)
{
	struct iovec one = {}, parts[17] = {};
	struct msghdr message = { .msg_name = &dns4, .msg_namelen = sizeof(dns4), .msg_iov = &one,
				  .msg_iovlen = 1 };
	struct query q;
	int i;

	if (case_wanted("sendto_v4")) {
		query_next(&q);
		sent_event("sendto_v4", &q, 4, SA(dns4), free4, 0,
			   sendto(free4, q.data, q.len, 0, SA(dns4), sizeof(dns4)));
	}
	if (case_wanted("send_v4_connected")) {
		query_next(&q);
		sent_event("send_v4_connected", &q, 4, SA(dns4), to4, 1, send(to4, q.data, q.len, 0));
	}
	if (case_wanted("write_v4_connected")) {
		query_next(&q);
		sent_event("write_v4_connected", &q, 4, SA(dns4), to4, 1, write(to4, q.data, q.len));
	}
	if (case_wanted("sendmsg_1_segment")) {
		query_next(&q);
		one = (struct iovec){ q.data, q.len };
		sent_event("sendmsg_1_segment", &q, 4, SA(dns4), free4, 0, sendmsg(free4, &message, 0));
	}
	query_next(&q);
	parts[0] = (struct iovec){ q.data, 12 };
	parts[1] = (struct iovec){ q.data + 12, q.len - 12 };
	if (case_wanted("writev_2_segments"))
		sent_event("writev_2_segments", &q, 4, SA(dns4), to4, 1, writev(to4, parts, 2));
	message.msg_iov = parts;
	message.msg_iovlen = 2;
	if (case_wanted("sendmsg_2_segments")) {
		query_next(&q);
		sent_event("sendmsg_2_segments", &q, 4, SA(dns4), free4, 0, sendmsg(free4, &message, 0));
	}
	/* Three octets a segment: cuts through header, labels and type. */
	for (i = 0; i < 9; i++)
		parts[i] = (struct iovec){ q.data + 3 * i, i == 8 ? q.len - 24 : 3 };
	message.msg_iovlen = 9;
	if (case_wanted("sendmsg_9_segments")) {
		query_next(&q);
		sent_event("sendmsg_9_segments", &q, 4, SA(dns4), free4, 0, sendmsg(free4, &message, 0));
	}
	/* The question ends in the 17th: beyond what is gathered. */
	for (i = 0; i < 17; i++)
		parts[i] = (struct iovec){ q.data + i, i == 16 ? q.len - 16 : 1 };
	message.msg_iovlen = 17;
	if (case_wanted("sendmsg_17_segments")) {
		query_next(&q);
		one_class("sendmsg_17_segments", "segments", sendmsg(free4, &message, 0));
	}
	/* An empty segment in front is a segment too. */
	if (case_wanted("sendmsg_empty_segment")) {
		query_next(&q);
		parts[0] = (struct iovec){ q.data, 0 };
		parts[1] = (struct iovec){ q.data, q.len };
		message.msg_iovlen = 2;
		sent_event("sendmsg_empty_segment", &q, 4, SA(dns4), free4, 0, sendmsg(free4, &message, 0));
	}
}

static void many_messages(void)
{
	struct mmsghdr messages[3] = {};
	struct iovec parts[3];
	struct query q[3];
	int i, result, error;

	if (!case_wanted("sendmmsg_3_messages"))
		return;
	for (i = 0; i < 3; i++) {
		query_next(&q[i]);
		parts[i] = (struct iovec){ q[i].data, q[i].len };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	result = sendmmsg(to4, messages, 3, 0);
	error = errno;
	case_begin("sendmmsg_3_messages");
	for (i = 0; i < 3; i++)
		case_event(&q[i], 4, SA(dns4), to4, 1, q[i].len);
	case_end(result, error);
}

/* A kernel without IPv6 has none of the cases below; each of them says so. */
static int has_v6(void)
{
	return free6 >= 0 && to6 >= 0;
}

static void without_v6(void)
{
	static const char *const cases[] = {
		"sendto_v6", "send_v6_connected", "writev_v6_2_segments", "sendto_v6_unspecified_family",
		"sendto_v4_mapped", "sendto_v4_address_on_v6_socket", "send_v4_mapped_connected",
		"msg_more_v6",
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (!case_wanted(cases[i]))
			continue;
		case_begin(cases[i]);
		case_unsupported("socket(AF_INET6)", EAFNOSUPPORT);
	}
}

static void plain_v6(void)
{
	struct sockaddr_in6 unspecified = dns6;
	struct query q;

	if (case_wanted("sendto_v6")) {
		query_next(&q);
		sent_event("sendto_v6", &q, 6, SA(dns6), free6, 0,
			   sendto(free6, q.data, q.len, 0, SA(dns6), sizeof(dns6)));
	}
	if (case_wanted("send_v6_connected")) {
		query_next(&q);
		sent_event("send_v6_connected", &q, 6, SA(dns6), to6, 1, send(to6, q.data, q.len, 0));
	}
	if (case_wanted("writev_v6_2_segments")) {
		struct iovec parts[2];

		query_next(&q);
		parts[0] = (struct iovec){ q.data, 20 };
		parts[1] = (struct iovec){ q.data + 20, q.len - 20 };
		sent_event("writev_v6_2_segments", &q, 6, SA(dns6), to6, 1, writev(to6, parts, 2));
	}
	if (case_wanted("sendto_v6_unspecified_family")) {
		query_next(&q);
		unspecified.sin6_family = AF_UNSPEC;
		sent_event("sendto_v6_unspecified_family", &q, 6, SA(dns6), to6, 1,
			   sendto(to6, q.data, q.len, 0, SA(unspecified), sizeof(unspecified)));
	}
}

/* One datagram, two hooks: it counts once, as IPv4. */
static void v4_mapped(void)
{
	int fd = connected(SA(mapped6));
	struct query q;
	long result;

	if (case_wanted("sendto_v4_mapped")) {
		query_next(&q);
		result = sendto(free6, q.data, q.len, 0, SA(mapped6), sizeof(mapped6));
		case_begin("sendto_v4_mapped");
		case_event(&q, 4, SA(dns4), free6, 0, q.len);
		case_class("v4_mapped", 1);
		case_end(result, errno);
	}
	if (case_wanted("sendto_v4_address_on_v6_socket")) {
		query_next(&q);
		result = sendto(free6, q.data, q.len, 0, SA(dns4), sizeof(dns4));
		case_begin("sendto_v4_address_on_v6_socket");
		case_event(&q, 4, SA(dns4), free6, 0, q.len);
		case_class("v4_mapped", 1);
		case_end(result, errno);
	}
	/* udpv6_sendmsg() hands the peer on as an address: not "connected" to the IPv4 hook. */
	if (case_wanted("send_v4_mapped_connected")) {
		query_next(&q);
		result = send(fd, q.data, q.len, 0);
		case_begin("send_v4_mapped_connected");
		case_event(&q, 4, SA(dns4), fd, 0, q.len);
		case_class("v4_mapped", 1);
		case_end(result, errno);
	}
	close(fd);
}

static void other_destinations(void)
{
	struct sockaddr_in unspecified = dns4, nowhere = dns4, no_port = dns4;
	int away = connected(SA(elsewhere4));
	struct query q;

	query_next(&q);
	if (case_wanted("connected_to_dns_sent_elsewhere"))
		one_class("connected_to_dns_sent_elsewhere", "other_port",
			  sendto(to4, q.data, q.len, 0, SA(elsewhere4), sizeof(elsewhere4)));
	if (case_wanted("connected_elsewhere_sent_to_dns")) {
		query_next(&q);
		sent_event("connected_elsewhere_sent_to_dns", &q, 4, SA(dns4), away, 0,
			   sendto(away, q.data, q.len, 0, SA(dns4), sizeof(dns4)));
	}
	query_next(&q);
	if (case_wanted("other_port"))
		one_class("other_port", "other_port", send(away, q.data, q.len, 0));
	if (case_wanted("sendto_v4_unspecified_family")) {
		query_next(&q);
		unspecified.sin_family = AF_UNSPEC;
		sent_event("sendto_v4_unspecified_family", &q, 4, SA(dns4), free4, 0,
			   sendto(free4, q.data, q.len, 0, SA(unspecified), sizeof(unspecified)));
	}
	/* Sends that fail enter the hook: an event is an attempt. */
	query_next(&q);
	if (case_wanted("fails_no_destination"))
		one_class("fails_no_destination", "other_port", send(free4, q.data, q.len, 0));
	no_port.sin_port = 0;
	if (case_wanted("fails_port_0"))
		one_class("fails_port_0", "other_port",
			  sendto(free4, q.data, q.len, 0, SA(no_port), sizeof(no_port)));
	/* 240.0.0.1: reserved, no route to it even where there is a default route. */
	nowhere.sin_addr.s_addr = htonl(0xf0000001);
	if (case_wanted("fails_no_route")) {
		query_next(&q);
		sent_event("fails_no_route", &q, 4, SA(nowhere), free4, 0,
			   sendto(free4, q.data, q.len, 0, SA(nowhere), sizeof(nowhere)));
	}
	if (case_wanted("fails_too_long")) {
		char *big = calloc(1, 65536);
		long result;

		query_next(&q);
		memcpy(big, q.data, q.len);
		result = sendto(free4, big, 65536, 0, SA(dns4), sizeof(dns4));
		case_begin("fails_too_long");
		case_event(&q, 4, SA(dns4), free4, 0, 65536);
		case_end(result, errno);
		free(big);
	}
	close(away);
}

static void other_contents(void)
{
	/* An SNTP request: version 4, mode 3, poll 6, precision -20. */
	unsigned char ntp[48] = { 0x23, 0, 6, 0xec };
	struct query q;

	if (case_wanted("not_dns_ntp"))
		one_class("not_dns_ntp", "not_dns", send(to4, ntp, sizeof(ntp), 0));
	query_next(&q);
	if (case_wanted("not_dns_11_octets"))
		one_class("not_dns_11_octets", "not_dns", send(to4, q.data, 11, 0));
	if (case_wanted("not_dns_empty"))
		one_class("not_dns_empty", "not_dns", send(to4, q.data, 0, 0));
	q.data[4] = q.data[5] = 0xff;
	if (case_wanted("malformed_65535_questions"))
		one_class("malformed_65535_questions", "malformed", send(to4, q.data, q.len, 0));
	/* A server's answer: from port 53, QR set. */
	if (case_wanted("response_from_port_53")) {
		query_next(&q);
		q.data[2] |= 0x84;
		q.data[3] = 0x83; /* NXDOMAIN */
		if (server4 < 0) {
			case_begin("response_from_port_53");
			case_unsupported("bind(127.0.0.1:53)", EADDRINUSE);
		} else {
			sent_event("response_from_port_53", &q, 4, SA(elsewhere4), server4, 0,
				   sendto(server4, q.data, q.len, 0, SA(elsewhere4), sizeof(elsewhere4)));
		}
	}
}

static void corked(void)
{
	int fd = connected(SA(dns4)), on = 1, off = 0;
	struct query q;
	long result;

	query_next(&q);
	if (case_wanted("msg_more")) {
		send(fd, q.data, 12, MSG_MORE);
		result = send(fd, q.data + 12, q.len - 12, 0);
		case_begin("msg_more");
		case_class("corked", 2);
		case_end(result, errno);
	}
	if (has_v6() && case_wanted("msg_more_v6")) {
		send(to6, q.data, 12, MSG_MORE);
		result = send(to6, q.data + 12, q.len - 12, 0);
		case_begin("msg_more_v6");
		case_class("corked", 2);
		case_end(result, errno);
	}
	/* The kernel keeps the first part's destination and ignores this one's. */
	if (case_wanted("msg_more_unconnected")) {
		sendto(free4, q.data, 12, MSG_MORE, SA(dns4), sizeof(dns4));
		result = sendto(free4, q.data + 12, q.len - 12, 0, SA(elsewhere4), sizeof(elsewhere4));
		case_begin("msg_more_unconnected");
		case_class("corked", 2);
		case_end(result, errno);
	}
	if (case_wanted("udp_cork")) {
		setsockopt(fd, IPPROTO_UDP, UDP_CORK, &on, sizeof(on));
		result = send(fd, q.data, 12, 0);
		send(fd, q.data + 12, q.len - 12, 0);
		setsockopt(fd, IPPROTO_UDP, UDP_CORK, &off, sizeof(off));
		case_begin("udp_cork");
		case_class("corked", 2);
		case_end(result, errno);
	}
	/* Uncorked again, the socket sends whole datagrams. */
	if (case_wanted("after_udp_cork")) {
		query_next(&q);
		sent_event("after_udp_cork", &q, 4, SA(dns4), fd, 1, send(fd, q.data, q.len, 0));
	}
	close(fd);
}

static void segmented(void)
{
	int fd = connected(SA(dns4)), size, i;
	unsigned char data[3 * QUERY_MAX];
	struct iovec part = { data, 0 };
	union {
		char buffer[CMSG_SPACE(sizeof(unsigned short))];
		struct cmsghdr align;
	} control = {};
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.buffer,
				  .msg_controllen = sizeof(control.buffer) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	unsigned short segment;
	struct query q;
	long result;

	query_next(&q);
	for (i = 0; i < 3; i++)
		memcpy(data + (size_t)i * q.len, q.data, q.len);
	size = (int)q.len;
	segment = (unsigned short)q.len;
	cmsg->cmsg_level = IPPROTO_UDP;
	cmsg->cmsg_type = UDP_SEGMENT;
	cmsg->cmsg_len = CMSG_LEN(sizeof(segment));
	memcpy(CMSG_DATA(cmsg), &segment, sizeof(segment));
	part.iov_len = 3 * q.len;
	if (case_wanted("gso_control_message"))
		one_class("gso_control_message", "gso_multi", sendmsg(fd, &message, 0));
	if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size))) {
		case_begin("gso_socket_option");
		case_unsupported("setsockopt(UDP_SEGMENT)", errno);
		close(fd);
		return;
	}
	if (case_wanted("gso_socket_option"))
		one_class("gso_socket_option", "gso_multi", send(fd, data, 3 * q.len, 0));
	/* One segment is one datagram. */
	if (case_wanted("gso_1_segment")) {
		memcpy(data, q.data, q.len);
		result = send(fd, data, q.len, 0);
		sent_event("gso_1_segment", &q, 4, SA(dns4), fd, 1, result);
	}
	close(fd);
}

static void pages(void)
{
	char path[] = "/tmp/senddrv.XXXXXX";
	int file = mkstemp(path), ends[2];
	struct query q;
	off_t zero = 0;
	char *page;

	query_next(&q);
	if (case_wanted("splice") && pipe(ends) == 0) {
		if (write(ends[1], q.data, q.len) < 0)
			perror("senddrv: write");
		one_class("splice", "kernel_pages", splice(ends[0], NULL, to4, NULL, q.len, 0));
		close(ends[0]);
		close(ends[1]);
	}
	unlink(path);
	if (file < 0 || write(file, q.data, q.len) < 0) {
		case_begin("sendfile");
		case_unsupported("mkstemp", errno);
		return;
	}
	if (case_wanted("sendfile"))
		one_class("sendfile", "kernel_pages", sendfile(to4, file, &zero, q.len));
	/* A page that this process never touched: the kernel faults it in, a probe may not. */
	page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
	if (case_wanted("page_not_resident"))
		one_class("page_not_resident", "fault", send(to4, page, q.len, 0));
	if (case_wanted("page_resident"))
		sent_event("page_resident", &q, 4, SA(dns4), to4, 1, send(to4, page, q.len, 0));
	munmap(page, 4096);
	close(file);
}

/* Past udp_sendmsg: what this observer does not see, by design. */
static void other_sockets(void)
{
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
	int lite = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
	unsigned char packet[8 + QUERY_MAX] = { 0x30, 0x39, 0, 53 };
	int copy = udp_socket(AF_INET), one = 1;
	struct query q;
	long result;

	query_next(&q);
	packet[5] = (unsigned char)(8 + q.len);
	memcpy(packet + 8, q.data, q.len);
	if (case_wanted("raw_socket")) {
		case_begin("raw_socket");
		if (raw < 0) {
			case_unsupported("socket(SOCK_RAW)", EPERM);
		} else {
			result = sendto(raw, packet, 8 + q.len, 0, SA(dns4), sizeof(dns4));
			case_end(result, errno);
		}
	}
	if (case_wanted("udp_lite") && lite < 0) {
		case_begin("udp_lite");
		case_unsupported("socket(IPPROTO_UDPLITE)", EPROTONOSUPPORT);
	} else if (case_wanted("udp_lite")) {
		one_class("udp_lite", "not_udp", sendto(lite, q.data, q.len, 0, SA(dns4), sizeof(dns4)));
	}
	if (case_wanted("msg_zerocopy")) {
		if (setsockopt(copy, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one))) {
			case_begin("msg_zerocopy");
			case_unsupported("setsockopt(SO_ZEROCOPY)", errno);
		} else {
			query_next(&q);
			sent_event("msg_zerocopy", &q, 4, SA(dns4), copy, 0,
				   sendto(copy, q.data, q.len, MSG_ZEROCOPY, SA(dns4), sizeof(dns4)));
		}
	}
	close(raw);
	close(lite);
	close(copy);
}

int run_matrix(void)
{
	setup();
	plain_v4();
	many_messages();
	if (has_v6()) {
		plain_v6();
		v4_mapped();
	} else {
		without_v6();
	}
	other_destinations();
	other_contents();
	corked();
	segmented();
	pages();
	run_uring(to4, SA(dns4));
	other_sockets();
	return 0;
}
